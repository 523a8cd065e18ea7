"""What a logger is: one class that is opened for a run, takes its numbers one by one, and is closed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from secateur.core import arguments
from secateur.core.errors import InputError
from secateur.core.registry import Registry
from secateur.runtimes.packages import need

__all__ = ["LOGGERS", "LoggedRun", "Logger", "flat", "logger", "need_loggers"]


@dataclass(frozen=True)
class LoggedRun:
    """The run that a logger is opened for.

    Attributes:
        name: What the run is called: its folder's name.
        folder: The run's folder; a logger that writes files makes a folder of its own in it.
        settings: What the run was started with, as plain data.
        id: What :meth:`Logger.start` returned when the run began; empty for a run that begins now.
        sent: How many calls of :meth:`Logger.numbers` came to an end before the run was stopped.
    """

    name: str
    folder: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    id: str = ""
    sent: int = 0


class Logger:
    """Something that takes the numbers of a run. A new one is a subclass below ``@logger("name")``.

    It is made without arguments, and its methods may raise what they like: a logger that fails is left out, with a
    note, and the run goes on.

    Attributes:
        name: Name in :data:`LOGGERS`; :func:`logger` sets it.
        title: As people call it; the name where nothing is given.
        summary: One line for listings.
        packages: What must be importable, by import name.
        extra: The extra of Secateur that installs them; empty where they are installed by their own names.
    """

    name: ClassVar[str] = ""
    title: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    packages: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = ""

    @classmethod
    def need(cls) -> None:
        """Checks that its packages are there.

        Raises:
            InputError: One is missing; the message holds the install command.
        """
        need(cls.packages, cls.extra, f"Logging to {cls.title or cls.name}")

    def start(self, run: LoggedRun) -> str:
        """Opens the logger for a run, or again for one that goes on (``run.id`` is not empty then).

        Returns:
            What the run is called there: letters, digits, ``_`` and ``-``; not empty. It is kept in the run's folder.
        """
        raise NotImplementedError

    def has(self, tag: str, step: int) -> bool:
        """Whether a number is there already, of a run that goes on.

        Only asked for numbers of which nobody knows, because the run was killed while they were sent.
        """
        return False

    def numbers(self, group: str, values: Mapping[str, float], step: int) -> None:
        """Takes numbers, and sees to it that they are not lost if the process is killed after this call.

        Args:
            group: What they belong to: the role of a network (``dense``, ``pruned`` …), or ``results``.
            values: Finite numbers by name; the tag of one is ``group/name``.
            step: Where they stand: epochs trained until then, or the position of the step of the recipe, from 1.
        """
        raise NotImplementedError

    def finish(self, files: Sequence[Path] = (), *, complete: bool = True) -> None:
        """Closes the logger.

        Args:
            files: The report and what else is worth keeping, for loggers that keep files.
            complete: Whether the run has come to its end; else it was stopped, or failed, and may go on later.
        """


L = TypeVar("L", bound=type[Logger])

LOGGERS: Registry[type[Logger]] = Registry("logger", check="secateur.loggers.conformance:check_logger")
"""All loggers by name."""


@arguments.checked
def logger(name: str) -> Callable[[L], L]:
    """Registers the class below as the logger called ``name``."""

    def decorate(cls: L) -> L:
        cls.name = name
        LOGGERS.add(name, cls)
        return cls

    return decorate


def need_loggers(names: str | Iterable[str]) -> tuple[str, ...]:
    """The names of loggers that can be used, none twice, checked before a run begins.

    Raises:
        UnknownNameError: There is no such logger.
        InputError: A package is missing that it needs; the message holds the install command.

    >>> need_loggers("tensorbord")
    Traceback (most recent call last):
    secateur.core.errors.UnknownNameError: There is no logger named 'tensorbord'. Did you mean 'tensorboard'?
    """
    found = tuple(dict.fromkeys([names] if isinstance(names, str) else names))
    for name in found:
        if not isinstance(name, str):
            raise InputError(f"log=… takes names of loggers ({', '.join(LOGGERS)}); got {type(name).__name__}.")
        LOGGERS[name].need()
    return found


def flat(settings: Any, prefix: str = "") -> Iterator[tuple[str, str | int | float | bool | None]]:
    """Nested settings as pairs of a dotted name and a plain value.

    >>> dict(flat({"steps": [{"prune": {"ratio": 0.5}}], "seed": 0}))
    {'steps.0.prune.ratio': 0.5, 'seed': 0}
    """
    if isinstance(settings, Mapping):
        for key, value in settings.items():
            yield from flat(value, f"{prefix}{key}.")
    elif isinstance(settings, list | tuple):
        for place, value in enumerate(settings):
            yield from flat(value, f"{prefix}{place}.")
    else:
        plain = settings if isinstance(settings, str | int | float | bool | None) else str(settings)
        yield prefix.removesuffix("."), plain
