"""Jobs in processes of this machine, some at a time.

A pool of threads of the standard library, each with one process: a process that is killed takes no other along, as it
would in ``ProcessPoolExecutor``, whose workers are one pool that breaks.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from secateur.core.processes import with_scratch
from secateur.jobs.process import Command, Process

if TYPE_CHECKING:
    from secateur.jobs.executor import At, Tell

__all__ = ["Local", "cores"]

_STOP_S = 10.0  # a process that computes hears of it when its operator is done


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Local:
    """Processes of this machine.

    Attributes:
        parallel: How many at a time; each gets its share of the cores.
    """

    parallel: int

    @property
    def shared(self) -> bool:
        """Whether jobs run on other machines too."""
        return False

    @contextlib.contextmanager
    def begin(self) -> Iterator[At]:
        """Yields what runs jobs; there is nothing to make ready."""
        yield lambda file, home: self.run

    def run(self, commands: Sequence[Command], tell: Tell) -> None:
        """Runs commands to their ends, see `RunJobs`."""
        crew = _Crew(max(1, cores() // min(self.parallel, max(1, len(commands)))), tell)
        with ThreadPoolExecutor(self.parallel) as pool:
            futures = [pool.submit(crew.work, command) for command in commands]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                crew.stop()
                raise


class _Crew:
    """The processes at work."""

    def __init__(self, threads: int, tell: Tell) -> None:
        self._threads, self._tell_one = threads, tell
        self._lock, self._processes, self._stopped = threading.Lock(), set[Process](), False

    def work(self, command: Command) -> None:
        """Runs one job to its end."""
        process = Process(command, {"OMP_NUM_THREADS": str(self._threads), **with_scratch()})
        with self._lock:
            self._processes.add(process)
            if self._stopped:
                process.stop()
        for event in process.events():
            if event["what"] != "ended":
                self._tell(command.name, event)
        with self._lock:
            self._processes.discard(process)
        if not self._stopped:
            self._tell(command.name, event)

    def stop(self) -> None:
        """Ends all processes: asks first, then insists; their runs can be gone on with."""
        with self._lock:
            self._stopped = True
            processes = tuple(self._processes)
        for process in processes:
            process.stop()
        for process in processes:
            process.end(_STOP_S)

    def _tell(self, name: str, event: Mapping[str, Any]) -> None:
        with self._lock:
            self._tell_one(name, event)
