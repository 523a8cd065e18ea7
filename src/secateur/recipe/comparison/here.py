"""Runs jobs in this process, one after the other: for networks and tasks that were handed over as objects."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

from secateur.core.errors import SecateurError
from secateur.recipe.comparison.jobs import Job, JobEvent
from secateur.recipe.load import load_recipe
from secateur.recipe.prepare import Given
from secateur.recipe.runner import Event, resume, run

__all__ = ["run_here"]


def run_here(
    jobs: Sequence[Job], *, given: Given, home: Path, on_event: Callable[[JobEvent], None], trust: bool = False
) -> dict[str, str]:
    """Runs jobs; one that fails does not stop the others.

    Args:
        jobs: What to run; a job whose folder holds a run goes on with it.
        given: Network and task.
        home: Working directory, from which the recipes' relative paths start.
        on_event: Called with every event.
        trust: Whether runs that were begun elsewhere may name code.

    Returns:
        Why each job that failed did.
    """
    failed: dict[str, str] = {}
    for job in jobs:
        if not job.finished:
            try:
                with contextlib.chdir(home):
                    _work(job, given, on_event, trust=trust)
            except SecateurError as error:
                failed[job.name] = str(error)
                on_event(JobEvent(job.name, "failed", reason=str(error)))
                continue
        on_event(JobEvent(job.name, "done"))
    return failed


def _work(job: Job, given: Given, on_event: Callable[[JobEvent], None], *, trust: bool) -> None:
    def tell(event: Event) -> None:
        on_event(JobEvent(job.name, event.what, event.kind, event.index, event.total, event.summary, event.seconds))

    if (job.folder / "recipe.yaml").exists():
        resume(job.folder, given=given, on_event=tell, progress=False, trust=trust)
    else:
        recipe = load_recipe(job.recipe, trust=True)  # its folder was checked before
        run(recipe, job.folder, given=given, log=job.loggers, on_event=tell, progress=False, trust=True)
