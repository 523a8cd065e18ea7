"""Jobs on the machines of a Ray cluster: each where the CPUs and GPUs that it asks for are free."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import signal
import socket
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.core import arguments
from secateur.core.errors import InputError, first_line
from secateur.core.plugins import carried
from secateur.jobs import remote
from secateur.jobs.alike import code_print
from secateur.jobs.process import Command, ended

if TYPE_CHECKING:
    from secateur.jobs.executor import At, RunJobs, Tell

__all__ = ["Ray"]

_ANSWER_S = 5.0  # for a connection
_LOOK_S = 120.0  # for a node that has to start a Python and read a few files
_AGAIN_S = 10.0  # between two looks at which nodes are left
_TRIES = 4  # of a job whose node or worker is lost


@arguments.checked
@dataclass(frozen=True)
class Ray:
    """A Ray cluster that this machine belongs to, for jobs on many machines.

    Every machine needs the same Secateur and the same libraries, and sees the folder of the results under the same
    path. What a job writes lies there, so one whose machine is lost goes on on another from its last checkpoint.

    Attributes:
        address: ``host:port`` of the cluster's head, or ``auto`` for the cluster that runs on this machine (or the one
            that ``RAY_ADDRESS`` names).
        cpus: Processor cores that each job asks for: whole ones, or a share of one.
        gpus: GPUs that each job asks for, likewise.
        parallel: The most jobs at a time; by default as many as the cluster has room for.

    Raises:
        InputError: A number out of range, or an address of another kind.

    >>> Ray("10.0.0.1:6379", gpus=0.5)
    Ray(address='10.0.0.1:6379', cpus=1, gpus=0.5, parallel=None)
    """

    address: str = "auto"
    cpus: float = 1
    gpus: float = 0
    parallel: int | None = None

    def __post_init__(self) -> None:
        """Checks what can be checked without the cluster."""
        for name, value, least in (("cpus", self.cpus, 0.0), ("gpus", self.gpus, -1.0)):
            if not value > least or value < 0 or (value > 1 and value != int(value)):
                raise InputError(
                    f"{name} is what every job asks for: a whole number, or a share of one below 1; got {value!r}."
                )
        if self.parallel is not None and self.parallel < 1:
            raise InputError(f"--jobs is the number of processes, at least 1; got {self.parallel}.")
        if self.address != "auto" and _host_port(self.address) is None:
            more = " A cluster is driven from one of its machines, not through ray://." if "//" in self.address else ""
            raise InputError(
                f"The address of a Ray cluster is auto or host:port, like 10.0.0.1:6379; got {self.address!r}.{more}"
            )

    @property
    def shared(self) -> bool:
        """Whether jobs run on other machines too."""
        return True

    @contextlib.contextmanager
    def begin(self) -> Iterator[At]:
        """Connects; what it yields looks first whether every machine that could take a job has what that needs.

        Raises:
            InputError: Ray is not installed, nothing answers, or no machine is large enough; later that one has other
                code or does not see the folder.
        """
        try:
            ray = importlib.import_module("ray")
        except ImportError as error:
            raise InputError('Jobs on a cluster need ray: pip install "secateur[ray]".') from error
        with self._connected(ray):
            if not self._large_enough(ray):
                raise InputError(f"{self._too_small(ray)} Ask for less with --job-cpus and --job-gpus.")
            yield partial(self._at, ray)

    def _at(self, ray: Any, file: Path, home: Path) -> RunJobs:
        place = remote.place_of(file, home)
        self._look(ray, place)
        return partial(self._run, ray, place)

    @contextlib.contextmanager
    def _connected(self, ray: Any) -> Iterator[None]:
        if ray.is_initialized():  # by the user's own script, whose it stays
            yield
            return
        _refuse_silent(self.address)
        with _own_signals():
            try:
                ray.init(self.address, log_to_driver=False, configure_logging=False, logging_level=logging.ERROR)
            except ConnectionError as error:
                raise InputError(_NOTHING.format(self.address, _START)) from error
            except (Exception, SystemExit) as error:
                raise InputError(f"Cannot join the Ray cluster at {self.address}: {first_line(error)}.") from error
        try:
            yield
        finally:
            ray.shutdown()

    def _large_enough(self, ray: Any) -> list[Mapping[str, Any]]:
        """The nodes that live and could take a job."""
        found = [node for node in ray.nodes() if node["Alive"]]
        return [node for node in found if all(node["Resources"].get(k, 0) >= v for k, v in self._wanted.items())]

    @property
    def _wanted(self) -> dict[str, float]:
        return {"CPU": self.cpus, "GPU": self.gpus}

    def _look(self, ray: Any, place: remote.Place) -> None:
        at = importlib.import_module("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy
        look, code = ray.remote(remote.look), code_print()
        asked = {
            node["NodeManagerAddress"] + " " + node["NodeID"][:8]: look.options(
                num_cpus=0, max_retries=1, scheduling_strategy=at(node["NodeID"], soft=False)
            ).remote(code, place)
            for node in self._large_enough(ray)
        }
        for name, answer in asked.items():
            try:
                wrong = ray.get(answer, timeout=_LOOK_S)
            except ray.exceptions.RayError as error:
                wrong = f"cannot run Secateur's jobs: {_said(error)}"
            if wrong:
                raise InputError(f"Node {name} of the cluster {wrong}.")

    def _too_small(self, ray: Any) -> str:
        asked = " and ".join(f"{value:g} {kind}{'s' * (value != 1)}" for kind, value in self._wanted.items() if value)
        alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        there = " and ".join(f"{max((r.get(k, 0) for r in alive), default=0):g} {k}s" for k in self._wanted)
        return f"No machine of the cluster has {asked}, which every job asks for; the most are {there}."

    def _run(self, ray: Any, place: remote.Place, commands: Sequence[Command], tell: Tell) -> None:
        watch = ray.remote(remote.watch).options(
            num_returns="streaming", num_cpus=self.cpus, num_gpus=self.gpus, max_retries=0
        )
        code, limit = code_print(), self.parallel or len(commands)
        waiting, running = deque((command, 1) for command in commands), dict[Any, tuple[Command, int]]()
        try:
            while waiting or running:
                while waiting and len(running) < limit:
                    command, tried = waiting.popleft()
                    running[watch.remote(command, code, place, carried())] = command, tried
                ready, _ = ray.wait(list(running), num_returns=1, timeout=_AGAIN_S)
                for stream in ready:
                    command, tried = running[stream]
                    event = _next(ray, stream)
                    if event["what"] in ("lost", "ended"):
                        del running[stream]
                    if event["what"] == "lost":
                        if tried < _TRIES:  # whether a node is left for it is seen below
                            waiting.append((command, tried + 1))
                        else:
                            event = ended(f"{event['reason']}, and it was tried {tried} times")
                    tell(command.name, event)
                if not ready and not self._large_enough(ray):
                    for command, _ in (*waiting, *running.values()):
                        tell(command.name, ended(self._too_small(ray)))
                    return
        finally:
            for stream in running:
                with contextlib.suppress(Exception):
                    ray.cancel(stream, force=True)


_START = "Start one with `ray start --head` and join it from the others, or give the address of its head."
_NOTHING = "No Ray cluster answers at {}. {}"


def _host_port(address: str) -> tuple[str, int] | None:
    host, _, port = address.rpartition(":")
    return (host, int(port)) if host and "/" not in host and port.isdecimal() and int(port) < 2**16 else None


def _refuse_silent(address: str) -> None:
    """Ray asks for two minutes, and then ends the process; so it is only let where something answers."""
    known = os.environ.get("RAY_ADDRESS", address) if address == "auto" else address
    place = _host_port(known)
    if place is None:
        return
    try:
        socket.create_connection(place, _ANSWER_S).close()
    except OSError as error:
        said = error.strerror or first_line(error)
        raise InputError(_NOTHING.format(known, f"The connection failed: {said}. {_START}")) from error


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Takes back what Ray makes of SIGTERM: the command has its own way to end."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _next(ray: Any, stream: Any) -> dict[str, Any]:
    """The next event of a job; ``lost`` if its node or its worker is gone."""
    try:
        event: dict[str, Any] = ray.get(next(stream))
        return event
    except StopIteration:
        return {"what": "lost", "reason": "its worker ended without a word"}
    except ray.exceptions.RayTaskError as error:
        return ended(f"its worker failed: {_said(error)}")
    except ray.exceptions.TaskCancelledError:
        return ended("it was cancelled")
    except ray.exceptions.NodeDiedError:
        return {"what": "lost", "reason": "the machine that it ran on is gone"}
    except ray.exceptions.RayError as error:
        return {"what": "lost", "reason": f"its worker was lost ({type(error).__name__})"}


def _said(error: BaseException) -> str:
    """What an error says that came through Ray, which puts the traceback before it."""
    cause = getattr(error, "cause", None)
    lines = [line.strip() for line in str(cause or error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__).rstrip(".")
