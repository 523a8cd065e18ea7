"""The curves of a sensitivity on one page: what every group's loss of units does."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import numpy as np

from secateur.budget.curves import Curve
from secateur.budget.sensitivity import Sensitivity
from secateur.core.files import write_bytes
from secateur.report.charts import Figure, base_layout, plain
from secateur.report.page import render
from secateur.report.view import Card, Table

__all__ = ["curves_chart", "write_sensitivity"]

MOST_NAMED = 14
"""Groups that a legend names; of more, the legend would be taller than the chart."""

FIRST, LAST = 215, 395
"""Hues of the first and of the last group: from blue over red to orange; greens look too much alike."""


def write_sensitivity(sensitivity: Sensitivity, path: str | PathLike[str], name: str) -> Path:
    """Writes the page: self-contained, loads nothing.

    Args:
        sensitivity: The curves, perhaps with ratios.
        path: The HTML file; its folder must exist.
        name: What the network is called.

    Raises:
        InputError: Jinja2 is missing.
        OSError: The file cannot be written.
    """
    headers, rows = sensitivity.rows()
    text = render(
        "sensitivity.html",
        {"curves": curves_chart(sensitivity)} if sensitivity.curves else {},
        title=f"Sensitivity of {name}",
        found=sensitivity,
        cards=_cards(sensitivity),
        rows=Table(tuple(headers), tuple(map(tuple, rows))),
    )
    return write_bytes(Path(path), text.encode())


def curves_chart(sensitivity: Sensitivity) -> Figure:
    """Returns a line for each group, from the whole network on, and a mark where its ratio lies."""
    many = len(sensitivity.curves)
    traces = [_line(sensitivity, curve, _colour(place, many)) for place, curve in enumerate(sensitivity.curves)]
    if sensitivity.chosen:
        traces.append(_marks(sensitivity))
    for trace in traces:
        trace["showlegend"] = many <= MOST_NAMED
    layout = base_layout(height=460 if many > MOST_NAMED else 520, hovermode="closest")
    layout["xaxis"].update(range=[-2, 100])
    layout["xaxis"]["title"]["text"] = "units of the group removed, %"
    layout["yaxis"]["title"]["text"] = plain(_label(sensitivity))
    if sensitivity.metric.better == "lower":
        layout["yaxis"].update(rangemode="tozero")
    return {"data": traces, "layout": layout}


def _line(sensitivity: Sensitivity, curve: Curve, colour: str) -> Figure:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": plain(curve.name),
        "x": [0.0, *(100 * ratio for ratio in curve.ratios)],
        "y": _shown(sensitivity, (sensitivity.dense, *curve.values)),
        "line": {"color": colour, "width": 2},
        "marker": {"size": 5},
        "hovertemplate": "%{x:.0f} % removed: %{y:.4g}<extra>" + plain(curve.name) + "</extra>",
    }


def _marks(sensitivity: Sensitivity) -> Figure:
    """Where the ratios lie on the curves."""
    curves = [curve for curve in sensitivity.curves if curve.name in sensitivity.chosen]
    shares = [sensitivity.chosen[curve.name] for curve in curves]
    values = [float(np.interp(share, (0.0, *curve.ratios), (sensitivity.dense, *curve.values)))
              for share, curve in zip(shares, curves, strict=True)]  # fmt: skip
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "ratios",
        "x": [100 * share for share in shares],
        "y": _shown(sensitivity, values),
        "customdata": [plain(curve.name) for curve in curves],
        "marker": {"color": "$ink", "size": 10, "symbol": "diamond-open", "line": {"width": 2}},
        "hovertemplate": "%{customdata}: ratio %{x:.0f} %<extra></extra>",
    }


def _shown(sensitivity: Sensitivity, values: tuple[float, ...] | list[float]) -> list[float]:
    """Values in percent where they are shares."""
    return [percent if (percent := sensitivity.metric.percent(value)) is not None else value for value in values]


def _words(sensitivity: Sensitivity, value: float) -> str:
    """A value with its unit."""
    return sensitivity.shown(value) + " %" * (sensitivity.metric.percent(value) is not None)


def _label(sensitivity: Sensitivity) -> str:
    unit = ", %" if sensitivity.metric.percent(sensitivity.dense) is not None else ""
    return f"{sensitivity.metric.label.lower()}{unit}"


def _colour(place: int, many: int) -> str:
    """The hue of a group by its place in the network."""
    hue = (FIRST + (LAST - FIRST) * place / max(many - 1, 1)) % 360
    return f"hsl({hue:.0f}, 62%, 48%)"


def _cards(sensitivity: Sensitivity) -> tuple[Card, ...]:
    """The groups that lose least and most with about half of their units gone, and what the ratios are for."""
    if not sensitivity.curves:
        return ()
    half = {curve.name: _at_half(sensitivity, curve) for curve in sensitivity.curves}
    order = sorted(half, key=lambda name: half[name][0])
    found = [
        Card(title, _words(sensitivity, half[name][1]), detail=f"{name}, half of its units gone", worse=worse)
        for title, name, worse in (("Least sensitive", order[0], False), ("Most sensitive", order[-1], True))
    ]
    if sensitivity.chosen:
        least, most = min(sensitivity.chosen.values()), max(sensitivity.chosen.values())
        found.append(
            Card(f"Ratios for {sensitivity.aim}", f"{100 * least:.0f}–{most:.0%}", detail="of the units of a group go")
        )
    return tuple(found)


def _at_half(sensitivity: Sensitivity, curve: Curve) -> tuple[float, float]:
    """Loss and value with half of a group's units gone, on the lines of its curve."""
    loss, value = (
        float(np.interp(0.5, (0.0, *curve.ratios), (start, *values)))
        for start, values in ((0.0, sensitivity.losses(curve)), (sensitivity.dense, curve.values))
    )
    return loss, value
