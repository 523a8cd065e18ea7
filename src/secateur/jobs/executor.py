"""What runs jobs: the protocol that local processes and Ray both follow, and how one is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from secateur.core.errors import InputError
from secateur.jobs.local import Local, cores
from secateur.jobs.process import Command

__all__ = ["At", "Executor", "RunJobs", "Tell", "as_executor"]

Tell = Callable[[str, Mapping[str, Any]], None]
"""Is told the job's name and what happened in it, one event at a time; the last of each job is ``ended``."""

RunJobs = Callable[[Sequence[Command], Tell], None]
"""Runs commands to their ends; one that fails does not stop the others. Stopped itself, it stops them all."""

At = Callable[[Path, Path], RunJobs]
"""Makes ready to run jobs that write into a folder: takes a file of it, which other machines have to see as it is here,
and the jobs' working directory. Raises InputError where that cannot be."""


class Executor(Protocol):
    """Where jobs run."""

    @property
    def shared(self) -> bool:
        """Whether jobs run on other machines too, which see the same files."""

    def begin(self) -> AbstractContextManager[At]:
        """Connects to where jobs run, until the block ends; within a block that has, it uses that connection.

        Raises:
            InputError: Nothing is there; the message says why.
        """


def as_executor(jobs: int | Executor | None) -> Executor:
    """Where jobs run: so many processes of this machine at a time, by default one per core, or an executor.

    Raises:
        InputError: Fewer than one.
    """
    if jobs is None:
        return Local(cores())
    if isinstance(jobs, int):
        if jobs < 1:
            raise InputError(f"--jobs is the number of processes, at least 1; got {jobs}.")
        return Local(jobs)
    return jobs
