"""What moved in the course of a run: scales under a penalty, and the networks scored on the way."""

from __future__ import annotations

import html
from collections.abc import Sequence

from secateur.core.metric import LOSS
from secateur.cost import compression_ratio
from secateur.report import words
from secateur.report.charts import Figure, axis_title, base_layout
from secateur.report.schema import Point, Results, ScaleRow, Scales
from secateur.report.view import Table

__all__ = ["from_dense", "points_chart", "points_table", "ridges", "scales_charts", "stages_table", "widths_table"]

MOST_COLUMNS = 12
MOST_ROWS = 9  # more ridges than this hide each other
BINS = 80
OVERLAP = 1.9  # height of the highest ridge, in distances between rows


def scales_charts(results: Results) -> dict[str, tuple[str, Figure]]:
    """Returns a title and a chart for every penalty of every training, by the chart's name."""
    found = {}
    for number, scales in enumerate(results.scales):
        figure = ridges(scales)
        if figure is not None:
            first, last = scales.rows[0], scales.rows[-1]
            title = f"{scales.label}{f' in {scales.step}' if scales.step else ''}: median {first.quantiles[3]:.3g} → "
            title += f"{last.quantiles[3]:.3g}, below 0.01: {first.small:.0%} → {last.small:.0%}"
            found[f"scales-{number}"] = (title, figure)
    return found


def ridges(scales: Scales) -> Figure | None:
    """Returns one ridge per epoch, the first at the top: how many scales lie where.

    A ridge's height is the square root of the share of the scales in an interval, so that a spike at zero leaves
    the rest visible.
    """
    rows = _chosen(scales.rows)
    high = max((row.high for row in rows), default=0.0)
    if not high:
        return None
    heights = [[share**0.5 for share in _shares(row, high)] for row in rows]
    tallest = max(max(height) for height in heights)
    traces: list[Figure] = []
    for place, (row, height) in enumerate(zip(rows, heights, strict=True)):
        base = len(rows) - 1 - place
        middles = [high * (k + 0.5) / BINS for k in range(BINS)]
        ends = {"x": [0.0, high], "y": [base, base], "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
        quantiles = " · ".join(f"{q:.3g}" for q in row.quantiles[1:-1])
        hover = f"<b>{_epoch(row)}</b><br>5 to 95 %: {quantiles}<br>below 0.01: {row.small:.1%}<extra></extra>"
        ridge = {
            "x": [0.0, *middles, high],
            "y": [base, *(base + OVERLAP * h / tallest for h in height), base],
            "mode": "lines",
            "line": {"width": 1.6, "color": "$pruned", "shape": "linear"},
            "fill": "tonexty",
            "fillcolor": "$faint",
            "hovertemplate": hover,
        }
        traces += [{"type": "scatter", "showlegend": False, **part} for part in (ends, ridge)]
    layout = base_layout(height=130 + 34 * len(rows), hovermode="closest")
    layout["xaxis"]["title"]["text"] = "size"
    layout["xaxis"]["range"] = [0, high]
    layout["yaxis"].update(
        tickvals=list(range(len(rows))), ticktext=[_epoch(row) for row in reversed(rows)], range=[-0.1, len(rows) + 1]
    )
    return {"data": traces, "layout": layout}


def _epoch(row: ScaleRow) -> str:
    return f"epoch {row.epoch}"


def _chosen(rows: Sequence[ScaleRow]) -> list[ScaleRow]:
    """The first and the last row, and some between at equal distances."""
    if len(rows) <= MOST_ROWS:
        return list(rows)
    return [rows[round(k * (len(rows) - 1) / (MOST_ROWS - 1))] for k in range(MOST_ROWS)]


def _shares(row: ScaleRow, high: float) -> list[float]:
    """Share of the scales in each of the equal bins from 0 to ``high``, which may be above the row's own."""
    total, own = sum(row.counts) or 1, row.high / len(row.counts)
    shares = [0.0] * BINS
    width = high / BINS
    for number, count in enumerate(row.counts):
        low, top = number * own, (number + 1) * own
        first, last = min(int(low / width), BINS - 1), min(int(top / width), BINS - 1)
        for k in range(first, last + 1):
            inside = min(top, (k + 1) * width) - max(low, k * width)
            part = inside / own if own and first != last else float(first == last)
            shares[k] += count / total * max(part, 0.0)
    return shares


# ------------------------------------------------------------------------------------------------------ points


def stages_table(results: Results) -> Table | None:
    """Returns one row for every network that a step scored, in the order of the run."""
    if len(results.stages) < 2:
        return None
    shown = (*results.metrics, LOSS)
    rows = [
        (stage.step, stage.role, *(metric.words(stage.quality.get(metric.name)) for metric in shown))
        for stage in results.stages
    ]
    return Table(("After", "Network", *(metric.label for metric in shown)), tuple(rows))


def points_table(results: Results) -> Table | None:
    """Returns one row per scored network, in the order of the run."""
    points = from_dense(results)
    if not points:
        return None
    first = points[0]
    more = [m for m in results.metrics if m.name != results.leading.name and any(m.name in p.quality for p in points)]
    rows = [
        (
            point.label,
            words.exact(point.params),
            words.exact(point.nonzero_params),
            words.times(compression_ratio(first.nonzero_params, point.nonzero_params)),
            words.exact(point.macs),
            results.leading.words(point.value),
            *(metric.words(point.quality.get(metric.name)) for metric in more),
            words.NOTHING if point.netscore is None else f"{point.netscore:.2f}{' (a guess)' * point.at_chance}",
        )
        for point in points
    ]
    labels = (results.leading.label, *(metric.label for metric in more))
    return Table(("", "Parameters", "Not zero", "Compression", "MACs", *labels, "NetScore"), tuple(rows))


def from_dense(results: Results) -> list[Point]:
    """The scored networks, with the dense one first: all of them are compared with it."""
    points, dense = list(results.points), results.network("dense")
    if not points or dense is None:
        return points
    known, value = dense.measurement, dense.measurement.quality.get(results.leading.name)
    left = known.nonzero_params or known.params
    if not known.params or not known.macs or not left or value is None:
        return points
    if (points[0].nonzero_params, points[0].macs) == (left, known.macs):
        return points
    quality = dict(known.quality)
    first = Point(label="dense", params=known.params, nonzero_params=left, macs=known.macs, value=value,
                  netscore=known.netscore, quality=quality)  # fmt: skip
    return [first, *points]


def widths_table(results: Results) -> Table | None:
    """Returns the output channels of the layers that change, for every point at which they did."""
    points = [point for point in results.points if point.widths]
    points = [p for k, p in enumerate(points) if not k or p.widths != points[k - 1].widths]
    if not 2 <= len(points) <= MOST_COLUMNS:
        return None
    dense = {row.layer: row.before for row in results.layers}
    names = list(dict.fromkeys(name for point in points for name in point.widths))
    rows = []
    for name in names:
        values = [dense.get(name), *(point.widths.get(name) for point in points)]
        if len({value for value in values if value is not None}) > 1:
            rows.append((name, *(words.exact(value) for value in values)))
    return Table(("Layer", "dense", *(point.label for point in points)), tuple(rows)) if rows else None


def points_chart(results: Results, measure: str) -> Figure | None:
    """Returns ``netscore`` or ``value`` (the leading metric) of the scored networks over their compression."""
    points = [point for point in from_dense(results) if getattr(point, measure) is not None]
    if len(points) < 2:
        return None
    x = [compression_ratio(points[0].nonzero_params, point.nonzero_params) for point in points]
    names = [html.escape(point.label, quote=False) for point in points]
    trace = {
        "type": "scatter",
        "mode": "lines+markers",
        "x": x,
        "y": [getattr(point, measure) for point in points],
        "customdata": list(zip(names, (f"{ratio:.2f}" for ratio in x), strict=True)),
        "line": {"color": "$pruned", "width": 2.5},
        "marker": {"size": 9, "color": ["$dense", *["$pruned"] * (len(points) - 1)]},
        "hovertemplate": "%{customdata[0]}<br>%{customdata[1]}× fewer: %{y:.4g}<extra></extra>",
        "showlegend": False,
    }
    layout = base_layout()
    layout["xaxis"].update(type="log", **_ticks(x))
    layout["xaxis"]["title"]["text"] = "compression: dense / non-zero parameters"
    layout["yaxis"]["title"]["text"] = (
        "NetScore" if measure == "netscore" else axis_title(results, results.leading.name)
    )
    return {"data": [trace], "layout": layout}


def _ticks(ratios: Sequence[float]) -> Figure:
    values = [v for v in (1, 1.5, 2, 3, 5, 7, 10, 15, 20, 30, 50, 100, 200, 500, 1000) if v <= 1.1 * max(ratios)]
    return {"tickvals": values, "ticktext": [f"{value:g}×" for value in values]}
