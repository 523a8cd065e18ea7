"""Runs jobs in parallel processes; one that fails or is killed does not stop the others."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from secateur.core.processes import TERMINATED, with_scratch
from secateur.loggers import LoggerWarning
from secateur.recipe.folder import RunFolder

__all__ = ["Job", "JobEvent", "cores", "run_jobs"]


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
        what: ``begin``, ``end`` or ``kept`` of a step; ``done`` or ``failed`` of the job.
        kind: The step's kind.
        index: The step's position, from 1.
        total: Number of steps.
        summary: Numbers of a step that has ended.
        seconds: How long the step took.
        reason: Why the job failed.
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


_STOP_S = 10.0  # a process that computes hears of it when its operator is done

OnJobEvent = Callable[[JobEvent], None]


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_jobs(
    jobs: Sequence[Job], *, parallel: int, home: Path, on_event: OnJobEvent, trust: bool = False
) -> dict[str, str]:
    """Runs jobs, ``parallel`` at a time, each with its share of the cores.

    Args:
        jobs: What to run; a job whose folder holds a run goes on with it.
        parallel: How many processes at a time.
        home: Working directory, from which the recipes' relative paths start.
        on_event: Called with every event, one at a time.
        trust: Whether runs that were begun elsewhere may name code; the recipes of the jobs may.

    Returns:
        Why each job that failed did.
    """
    crew = _Crew(max(1, cores() // min(parallel, max(1, len(jobs)))), home, on_event, trust=trust)
    with ThreadPoolExecutor(parallel) as pool:
        futures = {job.name: pool.submit(crew.work, job) for job in jobs}
        try:
            found = {name: future.result() for name, future in futures.items()}
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            crew.stop()
            raise
    return {name: reason for name, reason in found.items() if reason}


class _Crew:
    """The processes at work."""

    def __init__(self, threads: int, home: Path, on_event: OnJobEvent, *, trust: bool) -> None:
        self._threads, self._home, self._on_event, self._trust = threads, home, on_event, trust
        self._lock, self._processes, self._stopped = threading.Lock(), set[subprocess.Popen[str]](), False

    def work(self, job: Job) -> str:
        """Runs one job to its end; returns why it failed, or nothing. One that is finished starts no process."""
        if job.finished:
            self._tell(JobEvent(job.name, "done"))
            return ""
        # -P: nothing is imported from where one stands but what a recipe names
        command = [sys.executable, "-P", "-m", "secateur.recipe.comparison.worker", str(job.recipe), str(job.folder)]
        command += ["trust" if self._trust else "", *job.loggers]
        environment = {"OMP_NUM_THREADS": str(self._threads), **with_scratch()}
        with job.log.open("w") as log:
            process = subprocess.Popen(
                command, cwd=self._home, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                text=True,
            )  # fmt: skip
        with self._lock:
            self._processes.add(process)
            if self._stopped:
                process.kill()
        last = self._listen(job, process)
        code = process.wait()
        with self._lock:
            self._processes.discard(process)
        if job.finished:  # its folder says so, whatever became of a process that had only to end
            self._tell(JobEvent(job.name, "done"))
            return ""
        if self._stopped:
            return "it was stopped"
        reason = last["reason"] if last.get("what") == "failed" else _ending(code, job.log)
        self._tell(JobEvent(job.name, "failed", reason=reason))
        return str(reason)

    def stop(self) -> None:
        """Ends all processes: asks first, then insists; their runs can be gone on with."""
        with self._lock:
            self._stopped = True
            processes = tuple(self._processes)
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()

    def _listen(self, job: Job, process: subprocess.Popen[str]) -> dict[str, Any]:
        """Passes events on until the process ends; returns the last thing it said."""
        last: dict[str, Any] = {}
        assert process.stdout is not None
        for line in process.stdout:
            try:
                last = json.loads(line)
            except ValueError:
                continue  # something printed by the network's own code
            if last.get("what") in ("begin", "end", "kept"):
                self._tell(JobEvent(job.name, **{key: value for key, value in last.items() if key != "step"}))
            elif last.get("what") == "warning":
                warnings.warn(f"{job.name}: {last['reason']}", LoggerWarning, stacklevel=2)
        return last

    def _tell(self, event: JobEvent) -> None:
        with self._lock:
            self._on_event(event)


def _ending(code: int, log: Path) -> str:
    """Words for a process that ended without a word."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    said = f": {lines[-1]}" if lines else ""
    if code < 0 or code == TERMINATED:
        return f"its process was killed ({signal.Signals(-code if code < 0 else signal.SIGTERM).name}){said}"
    return f"its process ended with status {code}{said}"
