"""The table of networks where they run: accuracy, loss, time per image, parameters and size (seed 000, Table 2)."""

from __future__ import annotations

from collections.abc import Callable

from secateur.core.metric import LOSS, Metric
from secateur.report import words
from secateur.report.schema import Results
from secateur.report.view import Table
from secateur.runtimes import title_of
from secateur.timing.results import EntrantResult

__all__ = ["deployed_table"]


def deployed_table(results: Results) -> Table | None:
    """Returns one row per network, runtime and precision: what it costs there, and how well it does.

    Columns in which no row has anything are left out.
    """
    # Speed-ups compare within a runtime: its networks stand together.
    order = list(dict.fromkeys(line.runtime for line in results.deployed))
    lines = sorted(results.deployed, key=lambda line: order.index(line.runtime))
    if not lines:
        return None
    columns = _columns(results)
    rows = [(_label(line), *(cell(line) for _, cell in columns)) for line in lines]
    full = [i for i in range(1, len(rows[0])) if any(row[i] != words.NOTHING for row in rows)]
    headers = ("", *(title for title, _ in columns))
    keep = [0, *full]
    return Table(tuple(headers[i] for i in keep), tuple(tuple(row[i] for i in keep) for row in rows))


def _label(line: EntrantResult) -> str:
    """For instance ``Pruned, LiteRT int8``."""
    precision = "float" if line.precision == "float32" else line.precision
    return f"{line.network[:1].upper()}{line.network[1:]}, {title_of(line.runtime)} {precision}"


def _time(line: EntrantResult) -> str:
    if line.problem:
        return "does not run"
    return words.milliseconds(line.ms.median if line.ms else None)


def _speedup(line: EntrantResult) -> str:
    return words.times(line.speedup.median if line.speedup else None)


def _size(line: EntrantResult) -> str:
    # One unit for all rows, so that they can be compared at a glance.
    return words.NOTHING if line.bytes is None else f"{line.bytes / 1e6:.3f} MB"


def _columns(results: Results) -> list[tuple[str, Callable[[EntrantResult], str]]]:
    """The leading metric and the loss, then what a network costs."""

    def quality(metric: Metric) -> Callable[[EntrantResult], str]:
        return lambda line: metric.words(line.quality.get(metric.name))

    metrics = list(dict.fromkeys((results.leading, LOSS)))
    return [
        *((metric.label, quality(metric)) for metric in metrics),
        (f"Time per {results.unit}", _time),
        ("Speed-up", _speedup),
        ("Parameters", lambda line: words.exact(line.params)),
        ("Size", _size),
    ]
