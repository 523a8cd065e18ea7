"""The jobs of a comparison: a run each, in a process of its own; one that fails does not stop the others."""

from __future__ import annotations

import contextlib
import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from secateur.jobs import Command, Executor, Local, Ray, RunJobs
from secateur.loggers import LoggerWarning
from secateur.recipe.folder import RunFolder
from secateur.recipe.load import load_recipe
from secateur.recipe.records import ComparisonPlan
from secateur.recipe.trust import home_of, record

__all__ = ["Job", "JobEvent", "adopt", "executor_of", "record_of", "run_jobs"]

_WORKER = "secateur.recipe.comparison.worker"


@dataclass(frozen=True)
class Job:
    """One run of a comparison.

    Attributes:
        name: Its name, and that of its folder.
        recipe: The recipe's file.
        folder: The run's folder.
        trust: Whether its run may name code although it was not started here by this user.
        loggers: Names of loggers that its run begins with.
    """

    name: str
    recipe: Path
    folder: Path
    trust: bool = False
    loggers: tuple[str, ...] = ()

    @property
    def log(self) -> Path:
        """Where the process writes what is not an event: warnings, the traceback of a crash."""
        return self.recipe.with_suffix(".log")

    @property
    def finished(self) -> bool:
        """Whether its run did all the steps that it wrote down when it began, and put their results together."""
        if not all((self.folder / name).is_file() for name in ("state.json", "results.json")):
            return False
        run = RunFolder.open(self.folder, trusted=self.trust)
        return len(run.done()) == len(run.recipe().steps)


@dataclass(frozen=True)
class JobEvent:
    """Something happened in a job.

    Attributes:
        job: Its name.
        what: ``begin``, ``end`` or ``kept`` of a step; ``done`` or ``failed`` of the job, or ``lost``: the machine or
            worker that did it is gone, and it begins again at its last checkpoint.
        kind: The step's kind.
        index: The step's position, from 1.
        total: Number of steps.
        summary: Numbers of a step that has ended.
        seconds: How long the step took.
        reason: Why the job failed or was lost.
    """

    job: str
    what: str
    kind: str = ""
    index: int = 0
    total: int = 0
    summary: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    reason: str = ""

    def __str__(self) -> str:
        """One line for a log."""
        took = f" after {self.seconds:.1f} s" if self.what == "end" else ""
        step = f" [{self.index}/{self.total}] {self.kind}:" if self.kind else ""
        why = f": {self.reason}" if self.reason else ""
        return f"{self.job}:{step} {self.what}{took}{why}"


OnJobEvent = Callable[[JobEvent], None]


def run_jobs(
    jobs: Sequence[Job],
    *,
    run: RunJobs,
    home: Path,
    on_event: OnJobEvent,
    trust: bool = False,
    shared: bool = False,
) -> dict[str, str]:
    """Runs jobs; one that is finished starts no process.

    Args:
        jobs: What to run; a job whose folder holds a run goes on with it.
        run: What runs their processes, see `secateur.jobs.Executor`.
        home: Working directory, from which the recipes' relative paths start.
        on_event: Called with every event, one at a time.
        trust: Whether runs that were begun elsewhere may name code; the recipes of the jobs may.
        shared: Whether other machines of this user's begin the runs too.

    Returns:
        Why each job that failed did.
    """
    failed: dict[str, str] = {}
    known = {job.name: job for job in jobs}

    def tell(name: str, said: Mapping[str, Any]) -> None:
        what = said["what"]
        if what == "warning":
            warnings.warn(f"{name}: {said['reason']}", LoggerWarning, stacklevel=2)
        elif what == "ended":
            reason = _ended(known[name], str(said["reason"]), home, shared=shared)
            if reason:
                failed[name] = reason
            on_event(JobEvent(name, "failed" if reason else "done", reason=reason))
        elif what in ("begin", "end", "kept", "lost"):
            on_event(JobEvent(name, **{key: value for key, value in said.items() if key != "step"}))

    waiting = []
    for job in jobs:
        if shared:
            adopt(job.recipe, job.folder, home)
        if job.finished:
            on_event(JobEvent(job.name, "done"))
        else:
            mode = "trust" if trust else "shared" if shared else ""
            words = (str(job.recipe), str(job.folder), mode, *job.loggers)
            waiting.append(Command(job.name, _WORKER, words, home, job.log))
    if waiting:
        run(waiting, tell)
    return failed


def record_of(executor: Executor) -> dict[str, Any]:
    """What a comparison's plan notes of where its jobs run, see `secateur.recipe.records.ComparisonPlan`."""
    if isinstance(executor, Ray):
        return {"parallel": executor.parallel or 1, "ray": asdict(executor)}
    return {"parallel": executor.parallel if isinstance(executor, Local) else 1}


def executor_of(plan: ComparisonPlan, *, own: bool) -> Executor:
    """Where the jobs of a comparison ran; whoever joins a cluster runs its code, so a stranger's is not joined."""
    if plan.ray is None or not own:
        return Local(plan.parallel)
    return Ray(plan.ray.address, cpus=plan.ray.cpus, gpus=plan.ray.gpus, parallel=plan.ray.parallel)


def adopt(recipe: Path, folder: Path, home: Path) -> None:
    """Notes a run that another machine began for a job of this user's as begun here, if it is of the job's recipe.

    What a machine notes of the runs that it begins stays on that machine, see `secateur.recipe.trust`.
    """
    file = folder / "recipe.yaml"
    if not file.is_file():
        return
    with contextlib.chdir(home):
        content = load_recipe(recipe, trust=True).to_yaml().encode()
        digest = hashlib.sha256(content).hexdigest()
        if file.read_bytes() == content and home_of(folder, digest) is None:
            record(folder, digest)


def _ended(job: Job, reason: str, home: Path, *, shared: bool) -> str:
    """Why a job failed whose process has ended; nothing if it is done."""
    if shared:
        adopt(job.recipe, job.folder, home)
    if job.finished:  # its folder says so, whatever became of a process that had only to end
        return ""
    return reason or "its process ended before its run did"
