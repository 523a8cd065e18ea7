"""Runs a recipe into a folder, and goes on with a run that was stopped at any moment."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import shlex
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur.errors import DataError, InputError
from secateur.recipe.files import disk_errors, lock, read_json, sweep, write_json, write_text
from secateur.recipe.load import load_recipe
from secateur.recipe.metrics import Metrics
from secateur.recipe.results import collect, durations
from secateur.recipe.schema import Recipe, StepEntry

__all__ = ["Event", "RunResult", "resume", "run"]

FORMAT = 1


@dataclass(frozen=True)
class Event:
    """Something happened in a run, for whoever shows its progress.

    Attributes:
        what: ``begin``, ``end``, or ``kept`` (done before the run was stopped).
        step: The step's name in this run, for instance ``03-prune``.
        kind: Its kind.
        index: Its position, from 1.
        total: Number of steps.
        summary: Numbers of a step that has ended.
        seconds: How long it took.
    """

    what: str
    step: str
    kind: str
    index: int
    total: int
    summary: Mapping[str, Any]
    seconds: float = 0.0


@dataclass(frozen=True)
class RunResult:
    """A finished run.

    Attributes:
        folder: Where everything lies.
        recipe: The recipe as it was run.
        results: Fields of `secateur.report.Results`: what the report shows.
        state: The networks by role, in ``state.models``.
    """

    folder: Path
    recipe: Recipe
    results: Mapping[str, Any]
    state: Any


OnEvent = Callable[[Event], None]


def run(
    recipe: Recipe,
    out: str | Path,
    *,
    command: str | None = None,
    on_event: OnEvent | None = None,
    progress: bool | None = None,
) -> RunResult:
    """Runs ``recipe`` into the new folder ``out``.

    Data and network are loaded before the folder is made, so a wrong name or file leaves nothing behind.

    Args:
        recipe: From `secateur.recipe.load_recipe`.
        out: A folder that does not exist or is empty.
        command: What a reader can type to repeat the run, for the report.
        on_event: Called when a step begins and ends.
        progress: Whether training shows progress bars; ``None`` for only on a terminal.

    Raises:
        InputError: ``out`` holds something already.
        DataError: The disk is full; `resume` goes on once there is space.
        SecateurError: What the steps raise.
    """
    out = Path(out)
    _refuse_used(out)
    start = _prepare(recipe)
    with disk_errors(out):
        _make_folder(recipe, out, command)
    return _work(recipe, out, start, on_event, progress)


def resume(folder: str | Path, *, on_event: OnEvent | None = None, progress: bool | None = None) -> RunResult:
    """Goes on with the run in ``folder``; a finished run is only read again.

    The end is the same as that of a run that was never stopped, on the same machine and threads.

    Raises:
        DataError: There is no run in ``folder``, or its files are damaged.
        InputError: Its recipe was changed, or another process works on it.
    """
    folder = Path(folder).absolute()
    if not (folder / "recipe.yaml").is_file():
        raise DataError(
            f"There is no run in {folder} (no recipe.yaml). Start one with "
            f"`secateur run transfer-channel --out {folder}`."
        )
    state = _read_state(folder)
    with _home(state["cwd"]):
        recipe = load_recipe(folder / "recipe.yaml")
        return _work(recipe, folder, _prepare(recipe), on_event, progress)


def _refuse_used(out: Path) -> None:
    if out.is_dir() and any(out.iterdir()):
        fix = (
            f"Go on with it: `secateur resume {out}`, or choose"
            if (out / "recipe.yaml").exists()
            else "Choose"
        )
        raise InputError(f"The folder {out} is not empty. {fix} another --out.")
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file; give a folder that does not exist yet.")


def _prepare(recipe: Recipe) -> tuple[Any, Any]:
    from secateur.recipe.prepare import load_data, make_model

    data = load_data(recipe)
    return data, make_model(recipe, data)


def _make_folder(recipe: Recipe, out: Path, command: str | None) -> None:
    """Makes the folder with the files that a resume needs, all of them or none."""
    from secateur.measure import machine
    from secateur.recipe.prepare import seeds

    text = recipe.to_yaml()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            dir=out.parent, prefix=f".{out.name}.", ignore_cleanup_errors=True
        ) as t:
            new = Path(t) / "new"
            new.mkdir()
            write_text(new / "recipe.yaml", text)
            about = {
                "command": command or f"secateur run {shlex.quote(str(out / 'recipe.yaml'))}",
                "created": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
                "seeds": seeds(recipe),
                "machine": machine().to_json(),
            }
            write_json(new / "environment.json", about)
            digest = hashlib.sha256(text.encode()).hexdigest()
            state = {"format": FORMAT, "recipe_sha256": digest, "cwd": str(Path.cwd()), "done": []}
            write_json(new / "state.json", state)
            new.rename(out)  # onto nothing or an empty folder; another process may have been quicker
    except OSError as error:
        if isinstance(error, FileExistsError) or (out.is_dir() and any(out.iterdir())):
            raise InputError(f"The folder {out} is not empty. Choose another --out.") from error
        if isinstance(error, PermissionError | NotADirectoryError | FileNotFoundError):
            raise InputError(
                f"Cannot make the folder {out}: {error.strerror}. Choose another --out."
            ) from error
        raise


def _read_state(folder: Path) -> dict[str, Any]:
    state = read_json(folder / "state.json")
    if state.get("format") != FORMAT:
        raise DataError(
            f"{folder / 'state.json'} has format {state.get('format')!r}; this version of Secateur reads "
            f"format {FORMAT}. Start the run again."
        )
    digest = hashlib.sha256((folder / "recipe.yaml").read_bytes()).hexdigest()
    if digest != state.get("recipe_sha256"):
        raise InputError(
            f"{folder / 'recipe.yaml'} was changed after its run began. Undo the change, or start a new run "
            f"with `secateur run {folder / 'recipe.yaml'} --out ANOTHER_FOLDER`."
        )
    return state


@contextlib.contextmanager
def _home(folder: str) -> Iterator[None]:
    """Works in the folder where the run was started, so that relative paths mean the same."""
    with contextlib.chdir(folder) if Path(folder).is_dir() else contextlib.nullcontext():
        yield


def _work(
    recipe: Recipe, folder: Path, start: tuple[Any, Any], on_event: OnEvent | None, progress: bool | None
) -> RunResult:
    """Does the steps that are not done, in order, and notes each one as done when it is."""
    from secateur.recipe.steps import STEPS, Context, State, StepResult

    data, model = start
    state, results = State({"dense": model}), dict[str, StepResult]()
    with lock(folder), disk_errors(folder):
        sweep(folder)
        saved = _read_state(folder)
        metrics, about = Metrics(folder / "metrics.jsonl"), read_json(folder / "environment.json")
        for index, entry in enumerate(recipe.steps, start=1):
            name = f"{index:02d}-{entry.kind}"
            context = Context(recipe, name, folder, data, metrics, dict(results), about, progress)
            tell = _teller(on_event, name, entry, index, len(recipe.steps))
            step, file = STEPS[entry.kind], folder / "steps" / name / "result.json"
            if name in saved["done"]:
                state = step.restore(context, state, entry.config)
                results[name] = StepResult.from_dict(read_json(file)["result"])
                tell("kept", results[name].summary, 0.0)
                continue
            tell("begin", {}, 0.0)
            began = time.perf_counter()
            state, result = step.run(context, state, entry.config)
            seconds = round(time.perf_counter() - began, 3)
            metrics.finish(name, result.epochs, {"step": name, **result.summary, "seconds": seconds})
            write_json(context.work / file.name, {"seconds": seconds, "result": result.to_dict()})
            results[name] = result
            saved["done"].append(name)
            write_json(folder / "state.json", saved)
            tell("end", result.summary, seconds)
        summary = collect(recipe, about, data, results, durations(folder, results))
        write_json(folder / "results.json", summary)
        return RunResult(folder, recipe, summary, state)


def _teller(
    on_event: OnEvent | None, name: str, entry: StepEntry, index: int, total: int
) -> Callable[[str, Mapping[str, Any], float], None]:
    def tell(what: str, summary: Mapping[str, Any], seconds: float) -> None:
        if on_event is not None:
            on_event(Event(what, name, entry.kind, index, total, summary, seconds))

    return tell
