"""Runs a comparison into a folder, and goes on with one that was stopped at any moment."""

from __future__ import annotations

import contextlib
import shlex
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from secateur.core.errors import DataError, InputError
from secateur.core.files import clear_hidden, disk_errors, lock, new_folder, refuse_links, write_json, write_text
from secateur.core.metric import Metric
from secateur.core.processes import scratch
from secateur.core.progress import LOG, working
from secateur.core.reading import read_bytes
from secateur.jobs import Executor, as_executor
from secateur.loggers import LoggerWarning, need_loggers
from secateur.recipe.comparison.here import run_here
from secateur.recipe.comparison.jobs import Job, JobEvent, executor_of, record_of, run_jobs
from secateur.recipe.comparison.page import write_comparison
from secateur.recipe.comparison.plan import DENSE, check_alike, from_dense, shared_start
from secateur.recipe.comparison.table import RESULTS, Comparison, measure_runs
from secateur.recipe.fingerprint import compare_data, data_print
from secateur.recipe.folder import RunFolder, refuse_used
from secateur.recipe.load import load_recipe
from secateur.recipe.prepare import NOTHING, Given, make_model, open_task
from secateur.recipe.records import LARGEST, ComparisonPlan, read_record
from secateur.recipe.schema import Recipe
from secateur.recipe.trust import digest_of, home_of, permit_folder, permit_recipe, record
from secateur.timing import machine

__all__ = ["compare_recipes", "is_comparison", "refuse_jobs", "resume_comparison"]

FORMAT = 2
PLAN = "comparison.json"


def compare_recipes(
    recipes: Mapping[str, Recipe],
    out: str | Path,
    *,
    given: Given = NOTHING,
    jobs: int | Executor | None = None,
    command: str | None = None,
    log: str | Sequence[str] = (),
    on_event: Callable[[JobEvent], None] | None = None,
    budget: str = "",
    trust: bool = False,
) -> Comparison:
    """Runs several recipes from one dense network, in parallel processes, and measures what they end with.

    The dense network is adapted once, as the first recipe that begins so says; every recipe then starts from it.
    Controls (dense or from scratch), measure, export and report steps of the recipes are left out: all networks are
    measured together at the end, in one process and in turn. A job that fails does not stop the others; its row says
    why.

    Args:
        recipes: Recipes by name, see `at_budget` and `at_ratios`; of one network, data set and seed.
        out: A folder that does not exist or is empty.
        given: Network and task that were handed over from Python: the recipes are then run in this process, in turn.
        jobs: Processes at a time, by default as many as there are cores; or the cluster that they run on,
            `secateur.jobs.Ray`.
        command: What a reader can type to repeat it, for the page.
        log: Names of loggers that follow the run of every job, each under the name of its job.
        on_event: Called with every event of every job.
        budget: What was made equal, in words, for the page.
        trust: Whether the recipes may name any code, see `secateur.recipe.run`.

    Returns:
        The table; ``results.json``, ``comparison.csv`` and ``comparison.html`` hold it too.

    Raises:
        InputError: No recipes, recipes that do not go together, a used folder, or a logger that cannot be used.
        DataError: The data set or the weights cannot be read.
    """
    if not recipes:
        raise InputError("There is nothing to compare: give at least one recipe.")
    executor = as_executor(jobs)
    if given != NOTHING and jobs not in (None, 1):
        raise InputError(
            f"A network or task that is handed over stays in this process, so recipes run one after the other; got "
            f"jobs={jobs}. Name them (package.module:factory) to use several processes."
        )
    out, log = Path(out), need_loggers(log)
    for recipe in recipes.values():
        permit_recipe(recipe, trust=trust)
    refuse_used(out)
    check_alike(recipes)
    first = next(iter(recipes.values()))
    task = open_task(first, given)
    make_model(first, task, given)  # a wrong network or weights file is to be told before anything is written
    facts = {
        "model": first.model.name,
        "data": task.describe(),
        "budget": budget,
        "command": command or f"secateur compare {shlex.join(recipes)}",
    }
    metrics = [metric.to_dict() for metric in task.metrics]
    known = {"facts": facts, "data": data_print(task).model_dump(), "unit": task.unit, "metrics": metrics,
             "log": list(log)}  # fmt: skip
    with executor.begin():  # what does not answer is to be told before anything is written, too
        with disk_errors(out):
            _create(out, recipes, known, executor)
        record(out, _content(out))
        return _go_on(_Folder.open(out.absolute(), given, trust=trust), executor, on_event)


def is_comparison(folder: str | Path) -> bool:
    """Whether ``folder`` holds a comparison."""
    return (Path(folder) / PLAN).is_file()


def refuse_jobs(folder: str | Path, jobs: object) -> None:
    """Raises :class:`InputError` if somebody says where the jobs of a single run go on."""
    if jobs is not None:
        raise InputError(f"{folder} holds a run, which has no jobs to run elsewhere: leave out --jobs and --ray.")


def resume_comparison(
    folder: str | Path,
    *,
    given: Given = NOTHING,
    jobs: int | Executor | None = None,
    on_event: Callable[[JobEvent], None] | None = None,
    trust: bool = False,
) -> Comparison:
    """Goes on with a comparison: what is finished is kept, what failed is tried again.

    Its jobs run where they did, or where ``jobs`` says: on this machine, or on a cluster (at another address, say).

    Raises:
        InputError: Another process works in the folder, or its recipes name code, you did not start it here, and it is
            not trusted.
        DataError: Its files are damaged, or the data set has changed since it began.
        WeightsError: Weights that a step wrote have changed.
    """
    found = _Folder.open(Path(folder).absolute(), given, trust=trust)
    found.compare()
    return _go_on(found, found.executor if jobs is None else as_executor(jobs), on_event)


@dataclass(frozen=True)
class _Folder:
    """A comparison's folder, checked."""

    path: Path
    plan: ComparisonPlan
    home: Path
    given: Given
    trust: bool
    loggers: tuple[str, ...]
    executor: Executor

    @classmethod
    def open(cls, path: Path, given: Given, *, trust: bool) -> _Folder:
        refuse_links(path)
        plan, _ = read_record(path / PLAN, ComparisonPlan)
        if plan.format != FORMAT:
            raise DataError(
                f"{path / PLAN} has format {plan.format!r}; this version of Secateur reads format {FORMAT}. Start the "
                "comparison again."
            )
        known = home_of(path, _content(path))
        home = known or (Path(plan.home) if trust else Path.cwd())
        home = home if home.is_dir() else Path.cwd()
        for file in _recipes(path):
            recipe = load_recipe(file, home=home, trust=trust or known is not None, project=False)
            permit_folder(path, recipe, known, trust=trust)
        own = trust or known is not None
        loggers = tuple(plan.log) if own else ()
        if len(loggers) < len(plan.log):
            warnings.warn(
                f"The comparison in {path} was not started here, so its loggers get nothing; with --trust they do.",
                LoggerWarning,
                stacklevel=3,
            )
        return cls(path, plan, home, given, trust, need_loggers(loggers), executor_of(plan, own=own))

    @property
    def jobs(self) -> dict[str, Job]:
        """Its jobs by name."""
        recipes, runs = self.path / "recipes", self.path / "runs"
        return {
            name: Job(name, recipes / f"{name}.yaml", runs / name, self.trust, self.loggers) for name in self.plan.jobs
        }

    def compare(self) -> None:
        """Compares the data set, and what finished steps of all jobs wrote, with what was noted of them.

        Raises:
            DataError: The data set has changed since the comparison began, or a file of a run is damaged.
            WeightsError: Weights have changed.
        """
        for job in self.jobs.values():
            if (job.folder / "recipe.yaml").exists():
                RunFolder.open(job.folder, trusted=self.trust).compare_files()
        with contextlib.chdir(self.home):
            recipe = load_recipe(self.path / "recipes" / f"{self.plan.jobs[0]}.yaml", trust=True)
            compare_data(self.path, self.plan.data, open_task(recipe, self.given))


def _go_on(found: _Folder, executor: Executor, on_event: Callable[[JobEvent], None] | None) -> Comparison:
    folder, jobs = found.path, found.jobs
    go_on = f"go on with `secateur resume {folder}`"
    with scratch(), lock(folder), disk_errors(folder, go_on), _watched(len(jobs), on_event) as tell:
        clear_hidden(folder)
        if all(job.finished for job in jobs.values()) and (folder / RESULTS).is_file():
            known = Comparison.read(folder)
            if not known.failed:  # else it was written before the job that failed was done after all
                return known
        failed = _run_all(found, executor, tell)
        tell(JobEvent("all networks", "begin", kind="measure", index=1, total=1))
        return _result(found, failed)


@contextlib.contextmanager
def _watched(jobs: int, on_event: Callable[[JobEvent], None] | None) -> Iterator[Callable[[JobEvent], None]]:
    """What is told of jobs goes to the log, and to ``on_event`` or else to a line with a clock."""
    done = 0
    with contextlib.nullcontext(LOG.debug) if on_event is not None else working(_SOFAR.format(0, jobs)) as say:

        def tell(event: JobEvent) -> None:
            nonlocal done
            LOG.info("%s", event)
            if on_event is not None:
                return on_event(event)
            done += event.what in ("done", "failed")
            say(f"{_SOFAR.format(done, jobs)}, {event}")

        yield tell


_SOFAR = "Comparing: {} of {} runs done"


def _recipes(folder: Path) -> list[Path]:
    return sorted((folder / "recipes").glob("*.yaml"))


def _content(folder: Path) -> str:
    """Digest of what a comparison does."""
    return digest_of(*(read_bytes(file, DataError, largest=LARGEST) for file in (folder / PLAN, *_recipes(folder))))


def _create(out: Path, recipes: Mapping[str, Recipe], known: Mapping[str, Any], executor: Executor) -> None:
    """Makes the folder, whole or not at all: the plan, and a recipe per job."""
    start = shared_start(recipes)
    adapted = str(out / "runs" / DENSE / "steps" / "01-adapt" / "model.safetensors") if start else None
    every = {**({DENSE: start} if start else {}), **{n: from_dense(r, adapted) for n, r in recipes.items()}}
    if empty := [name for name, recipe in every.items() if not recipe.steps]:
        raise InputError(f"There is nothing to compare in {empty[0]}: it only adapts and measures.")
    if DENSE in recipes:
        raise InputError(f"A recipe to compare cannot be called {DENSE!r}: that is the network that all start from.")
    plan = {
        "format": FORMAT,
        "jobs": list(every),
        **record_of(executor),
        "home": str(Path.cwd()),
        **known,
    }
    with new_folder(out) as new:
        (new / "recipes").mkdir()
        (new / "runs").mkdir()
        for name, recipe in every.items():
            write_text(new / "recipes" / f"{name}.yaml", recipe.to_yaml())
        write_json(new / PLAN, plan)


def _run_all(found: _Folder, executor: Executor, tell: Callable[[JobEvent], None]) -> dict[str, str]:
    """The dense network first, then all recipes; returns why those that failed did."""
    jobs, trust = found.jobs, found.trust
    if found.given != NOTHING:
        return _in_turn(jobs, partial(run_here, given=found.given, home=found.home, on_event=tell, trust=trust))
    with executor.begin() as at:
        run = at(found.path / PLAN, found.home)
        work = partial(run_jobs, run=run, home=found.home, on_event=tell, trust=trust, shared=executor.shared)
        return _in_turn(jobs, work)


def _in_turn(jobs: Mapping[str, Job], work: Callable[[Sequence[Job]], dict[str, str]]) -> dict[str, str]:
    failed = work([jobs[DENSE]]) if DENSE in jobs else {}
    if failed:
        return dict.fromkeys(jobs, f"the dense network could not be adapted: {failed[DENSE]}")
    return work([job for name, job in jobs.items() if name != DENSE])


def _result(found: _Folder, failed: Mapping[str, str]) -> Comparison:
    folder, plan = found.path, found.plan
    folders = {name: job.folder for name, job in found.jobs.items()}
    rows, notes = measure_runs(folders, failed, given=found.given, trust=found.trust)
    metrics = tuple(map(Metric.from_dict, plan.metrics))
    result = Comparison(folder, rows, {**plan.facts, "machine": machine().to_json(), **notes}, metrics, plan.unit)
    write_text(folder / "comparison.csv", result.to_csv())
    write_comparison(result, folder / "comparison.html")
    write_json(folder / RESULTS, result.to_json())
    return result
