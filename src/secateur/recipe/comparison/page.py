"""Several pruned networks on one page: a Pareto chart and the table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from secateur.core.files import write_bytes
from secateur.core.metric import LOSS, Metric
from secateur.report import words
from secateur.report.charts import Figure, base_layout, plain
from secateur.report.page import machine_rows, render
from secateur.report.view import Card, Table
from secateur.timing.machine import Machine
from secateur.timing.pareto import front

if TYPE_CHECKING:
    from secateur.recipe.comparison.table import Comparison, Row

__all__ = ["COST", "SIZE", "columns", "pareto", "quality", "write_comparison"]

Column = tuple[str, Callable[["Row"], str]]


def _number(value: float | None) -> str:
    return words.NOTHING if value is None else f"{value:.2f}"


def quality(metrics: Sequence[Metric]) -> tuple[Column, ...]:
    """Columns of the metrics before and after fine-tuning, and NetScore."""

    def column(metric: Metric, when: str) -> Column:
        label = metric.label if when == "after" else f"{metric.label} before"
        return label, lambda r: metric.words((r.now if when == "after" else r.before).get(metric.name))

    shown = metrics or (LOSS,)
    found = [column(metric, when) for when in ("before", "after") for metric in shown]
    return (*found, ("NetScore", lambda r: _number(r.netscore) + " (a guess)" * r.at_chance))


SIZE: tuple[Column, ...] = (
    ("Params", lambda r: words.count(r.params)),
    ("Compression", lambda r: words.times(r.compression)),
    ("MACs", lambda r: words.count(r.macs)),
    ("FLOPs", lambda r: words.count(r.flops)),
    ("On disk", lambda r: words.size(r.weight_bytes)),
)
"""What is left of the network."""

COST: tuple[Column, ...] = (
    ("Forward", lambda r: words.milliseconds(r.forward_ms)),
    ("Backward", lambda r: words.milliseconds(r.backward_ms)),
    ("Energy (est.)", lambda r: words.energy(r.energy_mj)),
    ("Epochs", lambda r: words.exact(r.epochs)),
    ("Time taken", lambda r: words.duration(r.seconds)),
)
"""What an image costs, and what the recipe took."""


def write_comparison(comparison: Comparison, path: str | PathLike[str]) -> Path:
    """Writes the page of a comparison: self-contained, loads nothing.

    Raises:
        InputError: Jinja2 is missing.
        OSError: The file cannot be written.
    """
    facts = dict(comparison.facts)
    rows = [row for row in comparison.rows if not row.failed]
    figures = {
        name: figure
        for name, figure in (
            ("macs", pareto(comparison, "macs", f"MACs per {comparison.unit}")),
            ("params", pareto(comparison, "params", "parameters that are not zero")),
        )
        if figure
    }
    machine = Machine.from_json(facts["machine"]) if facts.get("machine") else None
    text = render(
        "comparison.html",
        figures,
        title=_title(comparison),
        facts=facts,
        cards=_cards(rows, comparison.leading, timed=not facts.get("busy")),
        metric=comparison.leading,
        unit=comparison.unit,
        accuracy=columns(rows, quality(comparison.metrics)),
        size=columns(rows, SIZE),
        cost=columns(rows, COST),
        failed=comparison.failed,
        notes=comparison.notes,
        environment=machine_rows(machine) if machine else [],
    )
    return write_bytes(Path(path), text.encode())


def columns(rows: Sequence[Row], wanted: Sequence[Column]) -> Table:
    """One row a network, numbered as in the chart, with the columns that some network has a value for."""
    used = [(title, text) for title, text in wanted if any(text(row) != words.NOTHING for row in rows)]
    body = [(_label(number, row), *(text(row) for _, text in used)) for number, row in enumerate(rows)]
    return Table(("", *(title for title, _ in used)), tuple(body))


def pareto(comparison: Comparison, key: str, title: str) -> Figure | None:
    """Returns the leading metric over ``macs`` or ``params``: numbered points, and a line along the Pareto front."""
    metric, rows = comparison.leading, [row for row in comparison.rows if not row.failed]
    points = [
        (n, row, getattr(row, key), value)
        for n, row in enumerate(rows)
        if (value := row.now.get(metric.name)) is not None and getattr(row, key)
    ]
    if len(points) < 2:
        return None
    sign = -1 if metric.better == "lower" else 1
    best = [points[i] for i in front([(cost, sign * value) for *_, cost, value in points])]
    line = {
        "type": "scatter",
        "mode": "lines",
        "name": "Pareto front",
        "x": [cost for *_, cost, _ in best],
        "y": [value for *_, value in best],
        "line": {"color": "$pruned", "width": 2, "dash": "dot"},
        "hoverinfo": "skip",
    }
    kinds = (("on the front", "$pruned", best), ("beaten", "$other", [p for p in points if p not in best]))
    dots = [_dots(name, colour, [p for p in some if p[0] > 0]) for name, colour, some in kinds]
    dense = _dots("dense", "$dense", [p for p in points if p[0] == 0])
    layout = base_layout(hovermode="closest")
    layout["xaxis"].update(rangemode="tozero")
    layout["xaxis"]["title"]["text"] = title
    layout["yaxis"]["title"]["text"] = f"test {metric.label}{', %' if metric.format == 'percent' else ''}"
    return {"data": [line, *(trace for trace in (*dots, dense) if trace["x"])], "layout": layout}


def _dots(name: str, colour: str, points: Sequence[tuple[int, Row, float, float]]) -> Figure:
    return {
        "type": "scatter",
        "mode": "markers+text",
        "name": name,
        "x": [cost for *_, cost, _ in points],
        "y": [value for *_, value in points],
        "text": [str(number) if number else "" for number, *_ in points],
        "textfont": {"color": "$card", "size": 11},
        "marker": {"color": colour, "size": 19, "line": {"color": "$card", "width": 1}},
        "customdata": [plain(_label(number, row)) for number, row, *_ in points],
        "hovertemplate": "%{customdata}<br>%{x:,} · %{y:.4g}<extra></extra>",
    }


def _label(number: int, row: Row) -> str:
    return f"{number} · {row.name}" if number else "Dense"


def _title(comparison: Comparison) -> str:
    count = len(comparison.rows) - 1
    return f"{count} way{'s' if count != 1 else ''} to prune {comparison.facts.get('model', 'a network')}"


def _cards(rows: Sequence[Row], metric: Metric, *, timed: bool) -> tuple[Card, ...]:
    """The dense network, and who came out best in what; of times only where these are ``timed`` undisturbed."""
    if len(rows) < 2:
        return ()
    dense, others = rows[0], rows[1:]

    def value(row: Row) -> float | None:
        return row.now.get(metric.name)

    size = f"{words.count(dense.params)} parameters"
    found = [Card(f"Dense, {metric.label}", metric.words(value(dense)), detail=size)]
    sign = -1 if metric.better == "lower" else 1
    wanted: tuple[tuple[str, Callable[[Row], float | None], Callable[[float], str], int], ...] = (
        (f"Best {metric.label}", value, metric.words, sign),
        ("Best NetScore", lambda r: None if r.at_chance else r.netscore, _number, 1),
        ("Fastest forward pass", lambda r: r.forward_ms if timed else None, words.milliseconds, -1),
    )
    for title, ask, text, direction in wanted:
        known = [(direction * found_value, row) for row in others if (found_value := ask(row)) is not None]
        if known:
            best, row = max(known, key=lambda pair: pair[0])
            found.append(Card(title, text(direction * best), detail=row.name))
    return tuple(found)
