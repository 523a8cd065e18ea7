"""The report: one HTML file that opens without a network."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from os import PathLike
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from secateur.core.errors import InputError
from secateur.core.files import write_bytes
from secateur.report import charts, progress, view, words
from secateur.report.deployed import deployed_table
from secateur.report.schema import Results
from secateur.task.shown import Picture
from secateur.timing.machine import Machine

__all__ = ["read_results", "write_report"]


def write_report(results: Results | Mapping[str, Any], path: str | PathLike[str]) -> Path:
    """Writes a self-contained HTML report: styles, charts and Plotly are inside, nothing is loaded.

    Parts that ``results`` does not hold are left out. The file replaces an older one only when it is
    complete.

    Args:
        results: A :class:`~secateur.report.Results`, or its JSON form.
        path: The HTML file; its folder must exist.

    Returns:
        The path of the report.

    Raises:
        InputError: When Jinja2 or plotly is missing, or ``results`` does not fit the schema.
        OSError: When the file cannot be written.
    """
    text = _render(read_results(results))
    return write_bytes(Path(path), text.encode())


def read_results(results: Results | Mapping[str, Any]) -> Results:
    """Checks plain data against the schema.

    Raises:
        InputError: Names the first part that does not fit.

    >>> read_results({"recipe": "transfer-channel"}).recipe
    'transfer-channel'
    """
    if isinstance(results, Results):
        return results
    try:
        return Results.model_validate(dict(results))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(f"The results for the report do not fit: {where}: {first['msg']}.") from error


def _render(results: Results) -> str:
    scales, shown = progress.scales_charts(results), charts.shown(results)
    return render(
        "report.html",
        _figures(results) | {name: figure for name, (_, figure) in {**scales, **shown}.items()},
        results=results,
        title=f"Pruning {results.title}" if results.title else "Pruning report",
        cards=view.cards(results),
        comparison=view.comparison(results),
        points=progress.points_table(results),
        widths=progress.widths_table(results),
        stages=progress.stages_table(results),
        found=view.Table(results.shown.headers, results.shown.rows, ("", *results.shown.headers[1:])),
        scales={name: title for name, (title, _) in scales.items()},
        shown={name: title for name, (title, _) in shown.items()},
        pictures=_side_by_side(results),
        blocks=view.blocks(results),
        channels=view.channels(results),
        latency=view.latency(results),
        deployed=deployed_table(results),
        exports=view.exports(results),
        environment=_environment(results),
    )


def render(template: str, figures: Mapping[str, charts.Figure], **parts: Any) -> str:
    """Fills a page with its parts; everything in them is escaped.

    Raises:
        InputError: Jinja2 is missing.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise InputError(f'The report needs {error.name}: pip install "secateur[report]".') from error
    environment = Environment(
        loader=PackageLoader("secateur.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    plotly_js = _plotly_js() if figures else ""
    return environment.get_template(template).render(figures=figures, words=words, plotly_js=plotly_js, **parts)


def _plotly_js() -> str:
    """Plotly's script in the form that knows lines and bars alone, a quarter of what the Python package brings."""
    file = files("secateur.report") / "templates/plotly-basic.min.js"
    return file.read_text(encoding="utf-8")


def _figures(results: Results) -> dict[str, charts.Figure]:
    found = {
        "metric": charts.curves(results, results.leading.name) if results.metrics else None,
        "loss": charts.curves(results, "loss"),
        "netscore": progress.points_chart(results, "netscore"),
        "points": progress.points_chart(results, "value"),
        "times": charts.times(results),
    }
    return {name: figure for name, figure in found.items() if figure}


def _side_by_side(results: Results) -> dict[str, list[Picture]]:
    found: dict[str, list[Picture]] = {}
    for picture in results.shown.pictures:
        found.setdefault(picture.title, []).append(picture)
    return found


def _environment(results: Results) -> list[tuple[str, str]]:
    """Returns what the run was made on and with, as pairs of name and text."""
    rows = machine_rows(results.machine) if results.machine else []
    rows += [(f"Seed: {name}", str(seed)) for name, seed in results.seeds.items()]
    if results.duration_s is not None:
        rows.append(("Duration of the run", words.duration(results.duration_s)))
    return rows


def machine_rows(here: Machine) -> list[tuple[str, str]]:
    """Returns what is known about a machine, as pairs of name and text."""
    memory = [("Memory", words.size(here.memory_bytes))] if here.memory_bytes else []
    processor = f"{here.cpu}, {here.cores} cores, {here.threads} threads in PyTorch"
    return [
        ("Processor", processor),
        *memory,
        ("System", here.os),
        ("Python", here.python),
        *sorted(here.versions.items()),
    ]
