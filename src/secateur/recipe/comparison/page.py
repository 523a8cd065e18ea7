"""Several pruned networks on one page: a Pareto chart and the table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from secateur.core.files import write_bytes
from secateur.report import words
from secateur.report.charts import Figure, base_layout, plain
from secateur.report.page import machine_rows, render
from secateur.report.view import Card, Table
from secateur.timing.machine import Machine
from secateur.timing.pareto import front

if TYPE_CHECKING:
    from secateur.recipe.comparison.table import Comparison, Row

__all__ = ["ACCURACY", "COST", "SIZE", "columns", "pareto", "write_comparison"]

Column = tuple[str, Callable[["Row"], str]]


def _percent(value: float | None) -> str:
    return words.NOTHING if value is None else f"{value:.2f} %"


def _number(value: float | None) -> str:
    return words.NOTHING if value is None else f"{value:.2f}"


ACCURACY: tuple[Column, ...] = (
    ("Top-1 before", lambda r: _percent(r.top1_before)),
    ("Top-5 before", lambda r: _percent(r.top5_before)),
    ("Top-1 after", lambda r: _percent(r.top1)),
    ("Top-5 after", lambda r: _percent(r.top5)),
    ("NetScore", lambda r: _number(r.netscore)),
)
"""Quality before and after fine-tuning."""

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
    ("Energy (est.)", lambda r: _energy(r.energy_mj)),
    ("Epochs", lambda r: words.exact(r.epochs)),
    ("Time taken", lambda r: words.duration(r.seconds)),
)
"""What an image costs, and what the recipe took."""


def write_comparison(comparison: Comparison, path: str | PathLike[str]) -> Path:
    """Writes the page of a comparison: self-contained, loads nothing.

    Raises:
        InputError: Jinja2 or plotly is missing.
        OSError: The file cannot be written.
    """
    facts = dict(comparison.facts)
    rows = [row for row in comparison.rows if not row.failed]
    figures = {
        name: figure
        for name, figure in (
            ("macs", pareto(rows, "macs", "MACs per image")),
            ("params", pareto(rows, "params", "parameters that are not zero")),
        )
        if figure
    }
    machine = Machine.from_json(facts["machine"]) if facts.get("machine") else None
    text = render(
        "comparison.html",
        figures,
        title=_title(comparison),
        facts=facts,
        cards=_cards(rows),
        accuracy=columns(rows, ACCURACY),
        size=columns(rows, SIZE),
        cost=columns(rows, COST),
        failed=comparison.failed,
        environment=machine_rows(machine) if machine else [],
    )
    return write_bytes(Path(path), text.encode())


def columns(rows: Sequence[Row], wanted: Sequence[Column]) -> Table:
    """One row a network, numbered as in the chart, with the columns that some network has a value for."""
    used = [(title, text) for title, text in wanted if any(text(row) != words.NOTHING for row in rows)]
    body = [(_label(number, row), *(text(row) for _, text in used)) for number, row in enumerate(rows)]
    return Table(("", *(title for title, _ in used)), tuple(body))


def pareto(rows: Sequence[Row], key: str, title: str) -> Figure | None:
    """Returns accuracy over ``macs`` or ``params``: numbered points, and a line along the Pareto front."""
    points = [(n, row, getattr(row, key)) for n, row in enumerate(rows) if row.top1 is not None and getattr(row, key)]
    if len(points) < 2:
        return None
    best = [points[i] for i in front([(cost, row.top1 or 0.0) for _, row, cost in points])]
    line = {
        "type": "scatter",
        "mode": "lines",
        "name": "Pareto front",
        "x": [cost for *_, cost in best],
        "y": [row.top1 for _, row, _ in best],
        "line": {"color": "$pruned", "width": 2, "dash": "dot"},
        "hoverinfo": "skip",
    }
    kinds = (("on the front", "$pruned", best), ("beaten", "$other", [p for p in points if p not in best]))
    dots = [_dots(name, colour, [p for p in some if p[0] > 0]) for name, colour, some in kinds]
    dense = _dots("dense", "$dense", [p for p in points if p[0] == 0])
    layout = base_layout(hovermode="closest")
    layout["xaxis"].update(rangemode="tozero")
    layout["xaxis"]["title"]["text"] = title
    layout["yaxis"]["title"]["text"] = "test top-1, %"
    return {"data": [line, *(trace for trace in (*dots, dense) if trace["x"])], "layout": layout}


def _dots(name: str, colour: str, points: Sequence[tuple[int, Row, float]]) -> Figure:
    return {
        "type": "scatter",
        "mode": "markers+text",
        "name": name,
        "x": [cost for *_, cost in points],
        "y": [row.top1 for _, row, _ in points],
        "text": [str(number) if number else "" for number, *_ in points],
        "textfont": {"color": "$card", "size": 11},
        "marker": {"color": colour, "size": 19, "line": {"color": "$card", "width": 1}},
        "customdata": [plain(_label(number, row)) for number, row, _ in points],
        "hovertemplate": "%{customdata}<br>%{x:,} · %{y:.2f} %<extra></extra>",
    }


def _label(number: int, row: Row) -> str:
    return f"{number} · {row.name}" if number else "Dense"


def _title(comparison: Comparison) -> str:
    count = len(comparison.rows) - 1
    return f"{count} way{'s' if count != 1 else ''} to prune {comparison.facts.get('model', 'a network')}"


def _cards(rows: Sequence[Row]) -> tuple[Card, ...]:
    """The dense network, and who came out best in what."""
    if len(rows) < 2:
        return ()
    dense, others = rows[0], rows[1:]
    found = [Card("Dense, top-1", _percent(dense.top1), detail=f"{words.count(dense.params)} parameters")]
    wanted: tuple[tuple[str, str, Callable[[Row], str], int], ...] = (
        ("Most accurate", "top1", lambda r: _percent(r.top1), 1),
        ("Best NetScore", "netscore", lambda r: _number(r.netscore), 1),
        ("Fastest forward pass", "forward_ms", lambda r: words.milliseconds(r.forward_ms), -1),
    )
    for title, key, text, sign in wanted:
        known = [row for row in others if getattr(row, key) is not None]
        if known:
            best = max(known, key=lambda row: sign * getattr(row, key))
            found.append(Card(title, text(best), detail=best.name))
    return tuple(found)


def _energy(value: float | None) -> str:
    return words.NOTHING if value is None else f"{value:#.3g} mJ"
