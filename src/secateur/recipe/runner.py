"""Runs a recipe into a folder, and goes on with a run that was stopped at any moment."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.core.errors import SecateurError
from secateur.core.files import clear_hidden, disk_errors, lock, write_json
from secateur.core.processes import scratch
from secateur.core.progress import LOG, silent
from secateur.loggers import Log, need_loggers
from secateur.recipe.folder import RunFolder, refuse_used
from secateur.recipe.logs import FILES, follow, open_log
from secateur.recipe.metrics import Metrics
from secateur.recipe.prepare import NOTHING, Given, make_model, open_task
from secateur.recipe.records import StepRecord, read_record
from secateur.recipe.results import collect
from secateur.recipe.schema import Recipe
from secateur.recipe.steps import STEPS, Context, State, StepResult
from secateur.recipe.steps.weights import contents
from secateur.recipe.trust import permit_folder, permit_recipe
from secateur.recipe.unroll import unroll
from secateur.timing.rounds import thread_count

if TYPE_CHECKING:
    from secateur.task import Task

__all__ = ["Event", "RunResult", "reopen", "resume", "run"]


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
    summary: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def __str__(self) -> str:
        """One line for a log."""
        took = f" after {self.seconds:.1f} s" if self.what == "end" else ""
        return f"[{self.index}/{self.total}] {self.kind}: {self.what}{took}"


@dataclass(frozen=True)
class RunResult:
    """A run, finished or reopened.

    Attributes:
        folder: Where everything lies.
        recipe: The recipe as it was run.
        task: Its data, loss and metrics.
        state: The networks by role, in ``state.models``.
        results: Fields of `secateur.report.Results`: what the report shows.
    """

    folder: Path
    recipe: Recipe
    task: Task
    state: State
    results: Mapping[str, Any]


OnEvent = Callable[[Event], None]


def run(
    recipe: Recipe,
    out: str | Path,
    *,
    given: Given = NOTHING,
    command: str | None = None,
    log: str | Sequence[str] = (),
    on_event: OnEvent | None = None,
    progress: bool | None = None,
    trust: bool = False,
) -> RunResult:
    """Runs ``recipe`` into the new folder ``out``.

    Data and network are loaded before the folder is made, so a wrong name or file leaves nothing behind.

    Args:
        recipe: From `secateur.recipe.load_recipe`.
        out: A folder that does not exist or is empty.
        given: Network and task that were handed over, in place of those that the recipe names.
        command: What a reader can type to repeat the run, for the report.
        log: Names of loggers that get every epoch's numbers, every step's results and the report; a resume goes on
            with them.
        on_event: Called when a step begins and ends.
        progress: Whether training shows progress bars; ``None`` for only on a terminal.
        trust: Whether the recipe may name any code (that of your own project it may anyway, see
            ``secateur.recipe.trust``).

    Raises:
        InputError: ``out`` holds something already, another process works in it, the recipe names code that is not
            trusted, or there is no such logger, or a package is missing that it needs.
        DataError: The disk is full; `resume` goes on once there is space.
        SecateurError: What the steps raise.
    """
    out = Path(out)
    permit_recipe(recipe, trust=trust)
    refuse_used(out)
    log = need_loggers(log)
    _check(recipe)
    task = open_task(recipe, given)
    state = _begin(recipe, task, given)
    recipe = unroll(recipe, state.dense, task.sample(2, seed=recipe.seed))
    _check(recipe)
    warn_if_inexact(task, recipe)
    with disk_errors(out):
        folder = RunFolder.create(out, recipe, task, command, given, log=log)
    return _Runner(folder, recipe, task, given, on_event, progress).go(state)


def resume(
    folder: str | Path,
    *,
    given: Given = NOTHING,
    on_event: OnEvent | None = None,
    progress: bool | None = None,
    trust: bool = False,
) -> RunResult:
    """Goes on with the run in ``folder``; of a finished run only the networks are loaded.

    The end is the same as that of a run that was never stopped, on the same machine; as many threads are
    used as at the start, because sums depend on how they are split. A run whose recipe names code goes on without
    ``trust`` only if you started it here.

    Raises:
        DataError: There is no run in ``folder``, its files are damaged, or its data have changed since it began.
        WeightsError: Weights that it began with, or that a step wrote, have changed.
        InputError: Its recipe was changed or names code that is not trusted, or another process works in it.
    """
    with _opened(folder, given, trust) as (found, recipe, task), thread_count(int(found.about["machine"]["threads"])):
        _check(recipe)
        found.compare(recipe, task, given)
        return _Runner(found, recipe, task, given, on_event, progress).go(_begin(recipe, task, given))


def reopen(folder: str | Path, *, given: Given = NOTHING, trust: bool = False) -> RunResult:
    """Loads what the finished steps of a run made, and does nothing more; ``trust`` is that of :func:`resume`."""
    with _opened(folder, given, trust) as (found, recipe, task):
        found.compare_files()
        return _Runner(found, recipe, task, given, write=False).restore(_begin(recipe, task, given))


def warn_if_inexact(task: Task, recipe: Recipe) -> None:
    """Says that a resume cannot be exact, where the training batches are not the same for the same seeds."""
    trains = any(step.kind in STEPS and STEPS[step.kind].trains for step in recipe.steps)
    if trains and not task.exact:
        warnings.warn(
            f"The training loader of {task.name} gives other batches for the same seed (it draws from random numbers "
            "that are not PyTorch's, NumPy's or Python's global ones, or remembers where it was). A run that is "
            "stopped goes on from its last epoch, but will not end with exactly the same numbers.",
            stacklevel=3,
        )


def _check(recipe: Recipe) -> None:
    for step in recipe.steps:
        if step.kind in STEPS:  # an iterate over layers becomes steps when the network is there
            STEPS[step.kind].check(step.config)


def _begin(recipe: Recipe, task: Task, given: Given) -> State:
    return State(make_model(recipe, task, given))


@contextlib.contextmanager
def _opened(folder: str | Path, given: Given, trust: bool) -> Iterator[tuple[RunFolder, Recipe, Task]]:
    """Opens a run's folder, in the working directory that the paths of its recipe start from."""
    found = RunFolder.open(Path(folder).absolute(), trusted=trust)
    permit_folder(found.path, found.recipe(), found.home if found.own else None, trust=trust)
    with contextlib.chdir(found.home) if found.home.is_dir() else contextlib.nullcontext():
        recipe = found.recipe()
        yield found, recipe, open_task(recipe, given)


@dataclass(frozen=True)
class _Runner:
    folder: RunFolder
    recipe: Recipe
    task: Task
    given: Given = NOTHING
    on_event: OnEvent | None = None
    progress: bool | None = None
    write: bool = True
    kept: dict[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        return self.folder.path

    def go(self, state: State) -> RunResult:
        """Does the steps that are not done, in order, and notes each as done when it is."""
        go_on = f"go on with `secateur resume {self.path}`"
        with scratch(), lock(self.path), disk_errors(self.path, go_on), worker_errors(self.path):
            clear_hidden(self.path)
            with self._logged() as log:
                metrics = Metrics(self.path / "metrics.jsonl", partial(follow, log))
                follow(log, metrics.lines)  # what was not sent when the run was stopped
                results: dict[str, StepResult] = {}
                try:
                    for position in range(len(self.recipe.steps)):
                        state = self._step(position, state, metrics, results)
                except KeyboardInterrupt as stop:  # what a traceback in Python ends with
                    stop.add_note(f"Nothing that is done is lost: secateur.resume({str(self.path)!r}) goes on.")
                    raise
                return self._result(state, results)

    @contextlib.contextmanager
    def _logged(self) -> Iterator[Log]:
        """The run's loggers, which are told at the end whether the run came to its own."""
        log = open_log(self.folder, self.recipe)
        complete = False
        try:
            yield log
            complete = True
        finally:
            log.finish([self.path / name for name in FILES] if complete else (), complete=complete)

    def restore(self, state: State) -> RunResult:
        """Loads what the done steps made."""
        metrics = Metrics(self.path / "metrics.jsonl")
        results: dict[str, StepResult] = {}
        for position in range(len(self.folder.done())):
            state = self._step(position, state, metrics, results)
        return self._result(state, results)

    def _step(self, position: int, state: State, metrics: Metrics, results: dict[str, StepResult]) -> State:
        kind, config = self.recipe.steps[position].kind, self.recipe.steps[position].config
        name = f"{position + 1:02d}-{kind}"
        context = Context(
            self.recipe,
            name,
            self.path,
            self.task,
            metrics,
            dict(results),
            self.folder.about,
            partial(make_model, self.recipe, self.task, self.given),
            self.progress,
        )
        event = partial(Event, step=name, kind=kind, index=position + 1, total=len(self.recipe.steps))
        file = self.path / "steps" / name / "result.json"
        if name in self.folder.done():
            _, found = read_record(file, StepRecord)
            results[name] = result = StepResult.from_dict(found["result"])
            if self.write and name not in metrics:
                metrics.finish(name, result.epochs, {"step": name, **result.summary, "seconds": found["seconds"]})
            state = STEPS[kind].restore(context, state, config)
            self._tell(event("kept", summary=results[name].summary))
            return state
        self._tell(event("begin"))
        began = time.perf_counter()
        with silent(self.progress is False):
            after, result = STEPS[kind].run(context, state, config)
        self._keep(after)
        state = after
        seconds = round(time.perf_counter() - began, 3)
        metrics.finish(name, result.epochs, {"step": name, **result.summary, "seconds": seconds})
        write_json(context.work / file.name, {"seconds": seconds, "result": result.to_dict()})
        self.folder.finish(name)
        results[name] = result
        self._tell(event("end", summary=result.summary, seconds=seconds))
        return state

    def _keep(self, state: State) -> None:
        """Writes the pruned network as the run's artifact: what lies there is what the last step left, always."""
        if state.pruned is None:
            return
        now = (state.pruned.plan.to_json(), contents(state.pruned.model))
        if now != self.kept.get("artifact"):
            state.pruned.save(self.path / "artifact")
            self.kept["artifact"] = now

    def _result(self, state: State, results: Mapping[str, StepResult]) -> RunResult:
        collected = collect(self.recipe, self.folder.about, self.path, results)
        if self.write:
            write_json(self.path / "results.json", collected)
        return RunResult(self.path, self.recipe, self.task, state, collected)

    def _tell(self, event: Event) -> None:
        LOG.info("%s", event)
        if self.on_event is not None:
            self.on_event(event)


@contextlib.contextmanager
def worker_errors(folder: Path) -> Iterator[None]:
    """Turns the death of a process that decodes images into one clear :class:`SecateurError`."""
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise SecateurError(
            f"A process that decodes images was killed. Go on with `secateur resume {folder}`."
        ) from error
