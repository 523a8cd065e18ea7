"""`secateur run` and `secateur resume`: progress while it goes, the result at its end."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.cli.commands.show import change, console, error, integer, ratio, say, size, table
from secateur.core.metric import LOSS
from secateur.core.processes import TERMINATED, Terminated
from secateur.recipe import load_recipe, override, resume, run, shortcuts
from secateur.recipe.comparison import is_comparison, refuse_jobs
from secateur.recipe.folder import free
from secateur.recipe.steps import STEPS
from secateur.report import Results
from secateur.runtimes import title_of
from secateur.timing import speedups

if TYPE_CHECKING:
    from secateur.jobs import Ray
    from secateur.recipe import Event, RunResult

__all__ = ["interruptible", "resume_run", "run_recipe", "show_event", "show_result", "words_of"]

INTERRUPTED = 130


def run_recipe(
    source: str,
    out: Path | None,
    *,
    options: Mapping[str, Any],
    sets: Sequence[str],
    quiet: bool,
    command: str,
    log: Sequence[str] = (),
    trust: bool = False,
) -> None:
    """Runs a recipe with the command line's settings laid over it."""
    recipe = load_recipe(source, edit=lambda tree: override(shortcuts(tree, **options), sets), trust=trust)
    out = out or free(Path("runs") / recipe.name)
    with interruptible(out):
        shown = None if not quiet else False
        show_result(run(recipe, out, command=command, log=log, on_event=show_event, progress=shown, trust=trust))


def resume_run(folder: Path, *, jobs: int | Ray | None = None, quiet: bool, trust: bool = False) -> None:
    """Goes on with a run, or with a comparison."""
    if is_comparison(folder):
        from secateur.cli.commands import comparing  # it builds on this module

        return comparing.resume(folder, jobs=jobs, quiet=quiet, trust=trust)
    refuse_jobs(folder, jobs)
    with interruptible(folder):
        show_result(resume(folder, on_event=show_event, progress=False if quiet else None, trust=trust))


@contextlib.contextmanager
def interruptible(folder: Path, begun: str = "recipe.yaml") -> Iterator[None]:
    """Says how to go on after Ctrl-C or SIGTERM; ``begun`` lies in ``folder`` once there is a run to go on with."""
    import typer

    try:
        yield
    except KeyboardInterrupt as stop:
        go_on = f"Go on with: secateur resume {shlex.quote(str(folder))}"
        error(go_on if (folder / begun).exists() else "Nothing was written yet.", label="Stopped")
        raise typer.Exit(TERMINATED if isinstance(stop, Terminated) else INTERRUPTED) from None


def show_event(event: Event) -> None:
    """Prints when a step begins and what came of it."""
    out = console()
    head = f"[{event.index}/{event.total}] {event.kind}"
    if event.what == "begin":
        if sys.stdout.isatty():  # the closing line says it all; this one is for those who wait
            out.print(f"{head} …", style="dim")
        return
    words = words_of(event.kind, event.summary)
    tail = "done before the stop" if event.what == "kept" else f"{event.seconds:.1f} s"
    say(f"{head:<14} {words}{'  ' if words else ''}({tail})")


def _proof_words(summary: Mapping[str, Any]) -> str:
    """A run that an earlier version began says nothing of ``proven``."""
    return f"verified to {summary['max_relative_error']:.1e}" if summary.get("proven", True) else "NOT PROVEN"


def _threshold_words(summary: Mapping[str, Any]) -> str:
    """Of a cut by a threshold that took nothing, or would have taken a whole layer."""
    return f"; {summary['threshold']}" if summary.get("threshold") else ""


def words_of(kind: str, summary: Mapping[str, Any]) -> str:
    """What came of a step, in a few words; none where the numbers are not those that a step of its kind has."""
    try:
        return _words_of(kind, summary)
    except (KeyError, TypeError, ValueError):  # of a folder that somebody changed
        return ""


def _words_of(kind: str, summary: Mapping[str, Any]) -> str:
    own = STEPS[kind].words(summary) if kind in STEPS else ""
    if own:
        return own
    if {"params_before", "macs_before", "test"} <= summary.keys():
        return (
            f"{integer(summary['params_before'])} → {integer(summary['params'])} parameters, "
            f"{integer(summary['macs_before'])} → {integer(summary['macs'])} MACs, "
            f"{_proof_words(summary)}, test {summary['test']}{_threshold_words(summary)}"
        )
    if "params_left" in summary:
        left = f"{integer(summary['params'])} → {integer(summary['params_left'])} parameters that are not zero"
        return f"{left}, test {summary['test']}"
    if "compressed_bytes" in summary:
        return f"{size(summary['compressed_bytes'])} on disk, test {summary['test']}"
    if "test" in summary:
        return f"test {summary['test']}"
    formats = [key.removesuffix("_same_labels") for key in summary if key.endswith("_same_labels")]
    if formats:
        return ", ".join(
            f"{f} {size(summary[f'{f}_bytes'])}, {100 * summary[f'{f}_same_labels']:.0f} % same labels, "
            f"difference {summary[f'{f}_max_difference']:.1e}"
            for f in formats
        )
    return ""


def show_result(result: RunResult) -> None:
    """Prints the headline: every network in a column, and where the files are."""
    out = console()
    results = Results.model_validate(dict(result.results))
    if results.networks:
        out.print()
        out.print(_headline(results))
        if speeds := _speedups(results):
            out.print()
            columns = ["Measured speed-up of the pruned network", "Pass", "Batch", "Median", "Quartiles"]
            out.print(table(columns, speeds, words=(0, 1)))
        out.print()
        for note in results.notes:
            say(f"Note: {note}")
        say("1 MAC is one multiplication and one addition: FLOPs are twice the MACs.", style="dim")
    found = [
        name
        for name in ("report.html", "artifact", "model.onnx", "model.pt2", "model.sdc")
        if _there(result.folder, name)
    ]
    out.print()
    say(f"{result.folder}: {', '.join([*found, 'metrics.jsonl', 'results.json'])}")


def _there(folder: Path, name: str) -> bool:
    return (folder / name).exists()


def _headline(results: Any) -> Any:
    dense, pruned = results.network("dense"), results.network("pruned")
    networks = list(results.networks)
    rows = []
    metrics = [results.leading, *([] if results.leading is LOSS else [LOSS])]
    for metric in metrics:
        found = [network.measurement.quality.get(metric.name) for network in networks]
        row = [f"Test {metric.within}", *map(metric.words, found)]
        if dense and pruned:
            row.append(metric.change(*(n.measurement.quality.get(metric.name) for n in (dense, pruned))))
        rows.append(row)
    shown: list[tuple[str, str, Callable[[Any], str]]] = [
        ("Parameters", "params", integer),
        ("  not zero", "nonzero_params", integer),
        (f"MACs per {results.unit}", "macs", integer),
        ("Weights on disk", "weight_bytes", size),
        ("NetScore", "netscore", lambda v: "–" if v is None else f"{v:.2f}"),
    ]
    sparse = any(network.measurement.sparse for network in networks)
    for label, key, words in shown:
        if key == "nonzero_params" and not sparse:
            continue
        values = [getattr(network.measurement, key) for network in networks]
        row = [label, *(words(value) for value in values)]
        if dense and pruned:
            before, after = (getattr(n.measurement, key) for n in (dense, pruned))
            row.append(_difference(key, before, after))
        rows.append(row)
    columns = ["", *(network.label.replace(", ", ",\n") for network in networks)]
    return table([*columns, "Pruned\nagainst dense"] if dense and pruned else columns, rows)


def _difference(key: str, before: float | None, after: float | None) -> str:
    if before is None or after is None:
        return "–"
    if key in ("params", "nonzero_params", "macs", "weight_bytes"):
        return f"{change(before, after)} ({ratio(before / after)})"
    return f"{after - before:+.2f}".replace("-", "−")


def _speedups(results: Any) -> list[list[str]]:
    if not any(timing.model == "dense" for timing in results.latency):
        return []
    return [
        [
            title_of(s.runtime),
            s.direction,
            str(s.batch),
            "machine busy" if s.doubt else ratio(s.ratio.median),
            _quartiles(s.ratio),
        ]
        for s in speedups(results.latency)
        if s.model == "pruned"
    ]


def _quartiles(spread: Any) -> str:
    return f"{spread.q25:.2f}–{spread.q75:.2f}"
