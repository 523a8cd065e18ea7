"""The tables of `secateur measure`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from secateur.cli.commands.show import console, error, integer, ratio, say, size, table
from secateur.core.metric import LOSS, Metric
from secateur.runtimes import RUNTIMES
from secateur.timing import Measurement, Speedup, Timing, machine, speedups
from secateur.timing.results import EntrantResult
from secateur.timing.timings import busy

__all__ = ["foot", "runs", "sizes", "times"]


def sizes(networks: Mapping[str, Measurement], files: Mapping[str, int]) -> Any:
    """What networks are, whatever runs them."""
    rows = [
        [name, integer(m.params), integer(m.macs), size(m.weight_bytes), size(m.peak_memory_bytes)]
        for name, m in networks.items()
    ]
    rows += [[file, "–", "–", size(on_disk), "–"] for file, on_disk in files.items()]
    return table(["Network", "Parameters", "MACs per sample", "On disk", "Peak memory"], rows)


def runs(lines: Sequence[EntrantResult], metrics: Sequence[Metric] = (), unit: str = "sample") -> Any:
    """What each runtime loads, and how well it does there by the metrics of the task (the one that leads first)."""
    columns = ["Runtime", "Network", "On disk", "Differs by"]
    scored = any(line.quality for line in lines)
    shown = list(dict.fromkeys([*metrics[:1], LOSS]))
    rows = []
    for line in sorted(lines, key=lambda line: [one.runtime for one in lines].index(line.runtime)):
        differs = "–" if line.difference is None else f"{line.difference:.1e}"
        row = [line.runtime, line.label, "failed" if line.problem else size(line.bytes), differs]
        if scored:
            row += [*(metric.words(line.quality.get(metric.name)) for metric in shown), integer(line.samples)]
        rows.append(row)
    more = [*(m.label for m in shown), f"{unit.capitalize()}s"] if scored else []
    return table([*columns, *more], rows, words=(0, 1))


def times(timings: Sequence[Timing], reference: str) -> Any:
    """How long each took, setting by setting, and the speed-up over the reference in the same rounds."""
    measured = any(t.model == reference for t in timings)
    found = speedups(timings, reference) if measured else ()
    ratios = {(s.model, s.runtime, s.direction, s.batch): s for s in found}
    apart = any(t.processes for t in timings)
    rows = []
    for t in sorted(timings, key=lambda t: _order(t, timings)):
        spread, factor = t.spread_ms, ratios.get((t.model, t.runtime, t.direction, t.batch))
        over = "–" if factor is None else _over(factor)
        rows.append(
            [
                t.runtime,
                t.direction + "*" * (apart and not t.processes),
                str(t.batch),
                t.model,
                f"{spread.median:.3f}",
                f"{spread.q25:.3f}–{spread.q75:.3f}",
                over,
            ]
        )
    columns = ["Runtime", "Pass", "Batch", "Network", "ms per\ncall", "Quartiles", f"Speed-up\nover {reference}"]
    return table(columns, _once(rows, 3), words=(0, 1, 3))


def _over(found: Speedup) -> str:
    quartiles = f"({found.ratio.q25:.2f}–{found.ratio.q75:.2f})"
    return f"busy {quartiles}" if found.doubt else f"{ratio(found.ratio.median)} {quartiles}"


def foot(
    timings: Sequence[Timing], runtimes: Sequence[str], threads: int, failed: Sequence[EntrantResult], reference: str
) -> None:  # fmt: skip
    """How it was measured, and in full what did not work."""
    here = machine()
    versions = ", ".join(dict.fromkeys(RUNTIMES[name].version() for name in runtimes))
    say(
        f"Median and quartiles of interleaved rounds, {threads} thread{'s' * (threads > 1)}{_where(timings)}, on "
        f"{here.cpu} ({here.cores} cores); {versions}."
    )
    for note in busy(timings, reference):
        say(note)
    for line in failed:
        console().print()
        error(line.problem, label=f"{line.label} in {line.runtime}")


def _where(timings: Sequence[Timing]) -> str:
    if not any(t.processes for t in timings):
        return ""
    together = "; those marked * in the calling one" if any(not t.processes for t in timings) else ""
    return f", each network in a fresh process of its own{together}"


def _order(timing: Timing, timings: Sequence[Timing]) -> tuple[int, bool, int, int]:
    runtimes = list(dict.fromkeys(t.runtime for t in timings))
    models = list(dict.fromkeys(t.model for t in timings))
    backward = timing.direction == "backward"
    return runtimes.index(timing.runtime), backward, timing.batch, models.index(timing.model)


def _once(rows: Sequence[list[str]], columns: int) -> list[list[str]]:
    """Leaves out what the line before says already in the first columns, so that settings stand out."""
    before: list[str] = []
    shown = []
    for row in rows:
        same = row[:columns] == before
        before = row[:columns]
        shown.append([*([""] * columns if same else before), *row[columns:]])
    return shown
