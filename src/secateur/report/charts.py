"""The report's charts as plain Plotly figures (data and layout), coloured by the page.

A colour such as ``$pruned`` stands for the page's CSS variable ``--pruned``; the page fills it in, so that
the charts follow the light and the dark scheme.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable
from typing import Any

from secateur.core.metric import LOSS
from secateur.report.schema import Curve, Results
from secateur.runtimes import title_of

__all__ = ["Figure", "axis_title", "base_layout", "curves", "plain", "shown", "times"]

Figure = dict[str, Any]

_ROLES = ("dense", "pruned", "control")


def curves(results: Results, measure: str) -> Figure | None:
    """Returns training (thin, dotted) and validation (bold) curves of the loss or a metric, by name."""
    traces: list[Figure] = []
    for curve in results.curves:
        for part, dash, width in (("validation", "solid", 3.0), ("train", "dot", 1.5)):
            trace = _line(curve, part, measure)
            if trace is None:
                continue
            # One entry per network in the legend: with two, it is taller than the chart on a phone.
            first = all(other["legendgroup"] != curve.label for other in traces)
            long = f"{curve.label}, {'training' if part == 'train' else part}"
            traces.append(
                {
                    **trace,
                    "name": plain(curve.label),
                    "legendgroup": curve.label,
                    "showlegend": first,
                    "line": {"color": _colour(curve.role), "dash": dash, "width": width},
                    "hovertemplate": "epoch %{x}: %{y:.4g}<extra>" + plain(long) + "</extra>",
                }
            )
    if not traces:
        return None
    title = axis_title(results, measure)
    layout = base_layout()
    layout["xaxis"].update(_whole_ticks(traces))
    layout["xaxis"]["title"]["text"] = "epoch"
    layout["yaxis"]["title"]["text"] = title
    return {"data": traces, "layout": layout}


def times(results: Results) -> Figure | None:
    """Returns each setting's medians with their 5 to 95 % spread, on a logarithmic axis."""
    if not results.latency:
        return None
    settings = list(dict.fromkeys(timing.setting[:3] for timing in results.latency))
    traces = []
    names = list(dict.fromkeys(timing.model for timing in results.latency))
    for position, name in enumerate(names):
        here = [timing for timing in results.latency if timing.model == name]
        found = [timing.spread_ms for timing in here]
        named = name.partition(" ")  # the network, and its precision where that is not float32
        # Networks of one setting lie beside each other, not on top of each other.
        shift = 0.56 * (0.5 - (position + 0.5) / len(names))
        error = {
            "type": "data",
            "symmetric": False,
            "array": [s.q95 - s.median for s in found],
            "arrayminus": [s.median - s.q05 for s in found],
            "color": _colour(named[0]),
            "thickness": 2,
            "width": 0,
        }
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": plain(name),
                "x": [s.median for s in found],
                "y": [len(settings) - 1 - settings.index(t.setting[:3]) + shift for t in here],
                "error_x": error,
                "marker": {"color": _colour(named[0]), "size": 11, "symbol": "diamond" if named[2] else "circle"},
                "hovertemplate": "%{x:.4g} ms<extra>" + plain(name) + "</extra>",
            }
        )
    layout = base_layout(height=90 + 46 * len(settings))
    layout["xaxis"].update(type="log", **_log_ticks(results))
    layout["xaxis"]["title"]["text"] = "ms per call (logarithmic)"
    ticks = [_setting(*setting) for setting in reversed(settings)]
    layout["yaxis"].update(tickvals=list(range(len(settings))), ticktext=ticks, showgrid=False)
    layout["yaxis"].update(range=[-0.6, len(settings) - 0.4])
    return {"data": traces, "layout": layout}


def shown(results: Results) -> dict[str, tuple[str, Figure]]:
    """Returns the charts that the task has of its own: name → (title, figure)."""
    found = {}
    for number, chart in enumerate(results.shown.charts):
        traces = [
            {
                "type": "scatter",
                "mode": "lines",
                "name": plain(line.role),
                "x": list(line.x),
                "y": list(line.y),
                "line": {"color": _colour(line.role), "width": 2.5},
            }
            for line in chart.lines
            if line.x
        ]
        if traces:
            layout = base_layout(hovermode="x")
            layout["xaxis"]["title"]["text"], layout["yaxis"]["title"]["text"] = plain(chart.x), plain(chart.y)
            found[f"shown-{number}"] = (chart.title, {"data": traces, "layout": layout})
    return found


def axis_title(results: Results, measure: str) -> str:
    """What an axis says of a metric."""
    metric = next((m for m in results.metrics if m.name == measure), LOSS)
    return f"{metric.within}, %" if metric.format == "percent" else metric.within


def _line(curve: Curve, part: str, measure: str) -> Figure | None:
    points = [(point.epoch, getattr(point, part).get(measure)) for point in curve.points]
    points = [(epoch, y) for epoch, y in points if y is not None and math.isfinite(y)]
    if not points:
        return None
    x, y = zip(*points, strict=True)
    # One epoch alone is a dot: a line would be invisible.
    mode = "lines+markers" if len(points) < 8 else "lines"
    return {"type": "scatter", "mode": mode, "x": list(x), "y": list(y), "marker": {"size": 5}}


def base_layout(**changes: Any) -> Figure:
    """Returns the layout that all charts share, with changes."""

    def axis() -> Figure:
        title = {"font": {"size": 13, "color": "$soft"}}
        return {
            "gridcolor": "$grid",
            "linecolor": "$grid",
            "zeroline": False,
            "automargin": True,
            "title": title,
        }

    layout: Figure = {
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": "$soft"},
        "margin": {"l": 8, "r": 12, "t": 8, "b": 8},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "hoverlabel": {"bgcolor": "$card", "bordercolor": "$grid", "font": {"color": "$ink"}},
        "xaxis": axis(),
        "yaxis": axis(),
        "height": 340,
        "dragmode": False,
    }
    return {**layout, **changes}


def _whole_ticks(traces: Iterable[Figure]) -> Figure:
    epochs = [epoch for trace in traces for epoch in trace["x"]]
    return {"dtick": 1} if max(epochs) - min(epochs) < 12 else {}


def _log_ticks(results: Results) -> Figure:
    found = [s for timing in results.latency for s in (timing.spread_ms.q05, timing.spread_ms.q95) if s > 0]
    if not found:
        return {}
    low, high = math.floor(math.log10(min(found))), math.ceil(math.log10(max(found)))
    steps = (1,) if high - low > 3 else (1, 3)
    values = [step * 10.0**power for power in range(low, high + 1) for step in steps]
    return {"tickvals": values, "ticktext": [f"{value:g}" for value in values]}


def _colour(role: str) -> str:
    return f"${role}" if role in _ROLES else "$other"


def _setting(runtime: str, direction: str, batch: int) -> str:
    return plain(title_of(runtime)) + f"<br>{plain(direction)}, batch {batch}"


def plain(value: str) -> str:
    """Text as Plotly shows it literally."""
    # Plotly reads a little HTML in every text; names are to be shown as they are.
    return html.escape(value, quote=False)
