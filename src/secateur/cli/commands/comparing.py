"""`secateur compare` and `secateur sweep`: progress of all jobs while they go, one table at the end."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.cli.commands.pruning import parse_amount
from secateur.cli.commands.running import interruptible, words_of
from secateur.cli.commands.show import console, error, say, table
from secateur.core.errors import InputError
from secateur.recipe.comparison import at_budget, at_ratios, compare_recipes, resume_comparison
from secateur.recipe.comparison.page import COST, SIZE, columns, quality
from secateur.recipe.folder import free

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

    from secateur.jobs import Ray
    from secateur.recipe.comparison import Comparison, JobEvent
    from secateur.recipe.schema import Recipe

__all__ = ["compare", "resume", "sweep"]


def compare(
    sources: Sequence[str],
    out: Path | None,
    *,
    budget: Mapping[str, str | None],
    options: Mapping[str, Any],
    sets: Sequence[str],
    jobs: int | Ray | None,
    quiet: bool,
    command: str,
    log: Sequence[str] = (),
    trust: bool = False,
) -> None:
    """Runs several recipes and shows their table."""
    shares: dict[str, Any] = {key: parse_amount(f"--{key}", text) for key, text in budget.items()}
    recipes = at_budget(sources, sets=sets, trust=trust, **shares, **options)
    words = ", ".join(f"{share:.0%} of the dense {_NAMES[key]}" for key, share in shares.items() if share is not None)
    _run(
        recipes, out or free(Path("runs") / "comparison"), jobs, quiet=quiet, command=command, budget=words, log=log,
        trust=trust,
    )  # fmt: skip


def sweep(
    source: str,
    out: Path | None,
    *,
    points: Mapping[str, str | None],
    options: Mapping[str, Any],
    sets: Sequence[str],
    jobs: int | Ray | None,
    quiet: bool,
    command: str,
    log: Sequence[str] = (),
    trust: bool = False,
) -> None:
    """Runs one recipe at several points and shows their table."""
    given = {key: text for key, text in points.items() if text is not None}
    if len(given) != 1:
        got = " and ".join(f"--{_OPTIONS[key]}" for key in given) or "none"
        raise InputError(
            f"Say at which points: one of --ratios, --params and --macs, like --ratios 0.2,0.4; got {got}."
        )
    key, text = next(iter(given.items()))
    values = [_point(f"--{_OPTIONS[key]}", part) for part in text.split(",") if part.strip()]
    recipes = at_ratios(source, values, key=key, sets=sets, trust=trust, **options)
    _run(
        recipes,
        out or free(Path("runs") / f"{Path(source).stem}-sweep"),
        jobs,
        quiet=quiet,
        command=command,
        budget="",
        log=log,
        trust=trust,
    )


def resume(folder: Path, *, jobs: int | Ray | None = None, quiet: bool, trust: bool = False) -> None:
    """Goes on with a comparison or sweep."""
    with interruptible(folder, "."), _Progress(quiet) as progress:
        result = resume_comparison(folder, jobs=jobs, on_event=progress, trust=trust)
    _show(result)


_NAMES = {"params": "parameters", "macs": "MACs"}
_OPTIONS = {"ratio": "ratios", "params": "params", "macs": "macs"}


def _point(option: str, text: str) -> float:
    try:
        factor, number = (0.01, text.strip()[:-1]) if text.strip().endswith("%") else (1.0, text)
        return float(number) * factor
    except ValueError:
        raise InputError(f"{option} wants numbers with commas between them, like 0.2,0.4; got {text!r}.") from None


def _run(
    recipes: Mapping[str, Recipe], out: Path, jobs: int | Ray | None, *, quiet: bool, command: str, budget: str,
    log: Sequence[str], trust: bool,
) -> None:  # fmt: skip
    with interruptible(out, "."), _Progress(quiet) as progress:
        result = compare_recipes(
            recipes, out, jobs=jobs, command=command, log=log, on_event=progress, budget=budget, trust=trust
        )
    _show(result)


class _Progress:
    """A line per job that changes in place on a terminal; elsewhere one line per job that ends."""

    def __init__(self, quiet: bool) -> None:
        self._jobs: dict[str, JobEvent] = {}
        self._live: Live | None = None
        self._quiet = quiet

    def __enter__(self) -> _Progress:
        from rich.live import Live

        if sys.stdout.isatty() and not self._quiet:
            self._live = Live(console=console(), refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, event: JobEvent) -> None:
        if event.what == "done":
            self._jobs.pop(event.job, None)
            self._say(f"{event.job}: done")
        elif event.what == "failed":
            self._jobs.pop(event.job, None)
            self._say(f"{event.job}: failed")  # why is told at the end
        elif event.what == "lost":
            self._say(f"{event.job}: {event.reason}; it goes on elsewhere from its last checkpoint")
        else:
            self._jobs[event.job] = event
        if self._live is not None:
            self._live.update(self._lines())

    def _say(self, line: str) -> None:
        if self._live is not None:
            self._live.console.print(line)  # above what changes in place
        else:
            say(line)

    def _lines(self) -> Table:
        rows = []
        for name, event in sorted(self._jobs.items()):
            what = f"{event.kind} …" if event.what == "begin" else words_of(event.kind, event.summary) or event.kind
            rows.append([name, f"{event.index}/{event.total}", what])
        return table(["At work", "Step", ""], rows, words=(0, 2))


def _show(result: Comparison) -> None:
    out, rows = console(), [row for row in result.rows if not row.failed]
    if rows:
        for wanted in (quality(result.metrics), SIZE, COST):
            found = columns(rows, wanted)
            out.print()
            out.print(table([_two_lines(header) for header in found.headers], found.rows))
        out.print()
        say(
            "Before: when the last fine-tuning began. Parameters: those that are not zero. Forward and backward: one "
            "image, one thread, timed in turn. Energy: an estimate. FLOPs are twice the MACs.",
            style="dim",
        )
    for note in result.notes:
        say(f"Note: {note}")
    for row in result.failed:
        error(row.failed, label=f"{row.name} failed")
    out.print()
    say(f"{result.folder}: comparison.html, comparison.csv, results.json, runs")
    if result.failed:
        import typer

        say(f"Try what failed again: secateur resume {shlex.quote(str(result.folder))}")
        raise typer.Exit(1)


def _two_lines(header: str) -> str:
    """A heading broken after its first word, so that the table is narrower."""
    return header.replace(" ", "\n", 1)
