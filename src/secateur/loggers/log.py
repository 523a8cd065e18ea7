"""All loggers of a run at once: each number reaches each of them once, over stops and resumes, and none stops the run.

``loggers.json`` in the run's folder says which loggers it has, what the run is called there, and what they were sent.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from secateur.core import arguments
from secateur.core.errors import DataError, SecateurWarning, first_line
from secateur.core.files import read_json, write_json
from secateur.loggers.base import LOGGERS, LoggedRun, Logger, need_loggers

__all__ = ["RECORD", "Log", "LoggerWarning", "epoch_values", "log_epochs", "new_record", "scalars"]

RECORD = "loggers.json"
_FORMAT = 1
Key = Annotated[str, Field(max_length=300)]


class LoggerWarning(SecateurWarning):
    """A logger failed, and the run goes on without it."""


class _Sent(BaseModel):
    """What one logger was sent: the keys of :meth:`Log.put`, in order; the name of the run there; whether it ended."""

    model_config = ConfigDict(strict=True, extra="forbid")

    id: Annotated[str, Field(pattern=r"^[\w-]{0,128}$")] = ""
    sent: list[Key] = Field(default_factory=list)
    done: bool = False


class _Record(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    format: int = _FORMAT
    loggers: dict[Annotated[str, Field(max_length=100)], _Sent] = Field(default_factory=dict)


def new_record(names: Sequence[str]) -> dict[str, Any]:
    """The record of a run that begins with these loggers, as plain data."""
    return _Record(loggers={name: _Sent() for name in names}).model_dump()


class Log:
    """The loggers of a run, as its folder names them; a folder without a record has none.

    Attributes:
        loggers: Those that work, by name.
    """

    def __init__(self, folder: Path | None, settings: Mapping[str, Any] | None = None, *, reopen: bool = False) -> None:
        """Opens the loggers that ``folder`` names (``None``: no folder); one that fails is left out with a warning.

        One that a run came to its end with has all numbers, and is left alone unless ``reopen``.

        Raises:
            DataError: The record is damaged.
        """
        self.loggers: dict[str, Logger] = {}
        self._again: set[str] = set()  # those that may have, of a run that was killed, what is not noted here
        self._record = _Record()
        if folder is None:
            return
        self._path = folder / RECORD
        self._record = _read(self._path)
        self._sent = {name: set(known.sent) for name, known in self._record.loggers.items()}
        for name, known in self._record.loggers.items():
            if known.done and not reopen:
                continue
            run = LoggedRun(folder.name, folder, settings or {}, known.id, len(known.sent))
            with self._survived(name):
                LOGGERS[name].need()
                made = LOGGERS[name]()
                begun = made.start(run)
                if begun != known.id:
                    self._record.loggers[name] = known.model_copy(update={"id": begun})
                    self._write()
                self.loggers[name] = made
                if run.id:
                    self._again.add(name)

    def put(self, key: str, group: str, values: Mapping[str, float], step: int) -> None:
        """Sends numbers to the loggers that were not sent them before.

        Args:
            key: Tells what is sent apart from all else that is sent in this run.
            group: See :meth:`Logger.numbers`.
            values: See there; what is not finite is left out.
            step: See there.
        """
        finite = {name: float(value) for name, value in values.items() if math.isfinite(value)}
        for name, one in tuple(self.loggers.items()):
            if key in self._sent[name]:
                continue
            with self._survived(name):
                new = finite
                if name in self._again:
                    new = {tag: value for tag, value in finite.items() if not one.has(f"{group}/{tag}", step)}
                if new:
                    one.numbers(group, new, step)
                self._sent[name].add(key)
                self._record.loggers[name].sent.append(key)
                self._write()

    def finish(self, files: Sequence[Path] = (), *, complete: bool) -> None:
        """Closes the loggers; see :meth:`Logger.finish`."""
        there = [file for file in files if file.is_file()]
        for name, one in tuple(self.loggers.items()):
            with self._survived(name):
                one.finish(there, complete=complete)
                if complete:
                    self._record.loggers[name].done = True
                    self._write()
        self.loggers = {}

    def _write(self) -> None:
        write_json(self._path, self._record.model_dump())

    @contextlib.contextmanager
    def _survived(self, name: str) -> Iterator[None]:
        """Whatever a logger raises costs the logger, never the run."""
        try:
            yield
        except Exception as error:
            self.loggers.pop(name, None)
            said = first_line(error).rstrip(".")
            warnings.warn(
                f"The logger {name} failed: {said}. The run goes on without it; what it misses is sent when the run "
                f"in {self._path.parent} is resumed.",
                LoggerWarning,
                stacklevel=4,
            )


def _read(path: Path) -> _Record:
    if not path.exists():
        return _Record()
    try:
        found = _Record.model_validate(read_json(path))
    except ValidationError as error:
        item = error.errors(include_url=False)[0]
        where = ".".join(str(part)[:60] for part in item["loc"])
        raise DataError(f"{path} is damaged: {where}: {item['msg']}. Without it, the run goes on unlogged.") from error
    if found.format != _FORMAT:
        raise DataError(f"{path} has format {found.format}; this version of Secateur reads format {_FORMAT}.")
    return found


def scalars(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers among nested values, by their path; texts, truths, lists and ``None`` are left out.

    >>> scalars({"train": {"loss": 0.5, "top1": None}, "lr": 0.1, "note": "none", "proven": True})
    {'train/loss': 0.5, 'lr': 0.1}
    """
    found: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= scalars(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[f"{prefix}{name}"] = value
    return found


def epoch_values(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of an epoch, as `secateur.train.EpochRecord.to_dict` gives it, without its own number."""
    return scalars({name: value for name, value in record.items() if name != "epoch"})


@contextlib.contextmanager
@arguments.checked
def log_epochs(
    folder: str | Path,
    log: str | Sequence[str],
    *,
    name: str = "train",
    settings: Mapping[str, Any] | None = None,
) -> Iterator[Callable[[Any], None]]:
    """Loggers for :func:`secateur.fit`: gives what its ``on_epoch`` takes.

    Called again with the same folder it goes on in the same runs of the loggers, and sends no epoch twice.

    Args:
        folder: Made if it is not there; that of the training's checkpoints is a good one.
        log: Names of loggers.
        name: What the network is called there, above its curves.
        settings: What the training was started with, as plain data.

    Raises:
        UnknownNameError: There is no such logger.
        InputError: A package is missing; the message holds the install command.
        DataError: The folder's record of what was sent is damaged.
    """
    folder = Path(folder)
    names = need_loggers(log)
    folder.mkdir(parents=True, exist_ok=True)
    known = _read(folder / RECORD).loggers
    both = {**new_record(names)["loggers"], **{key: value.model_dump() for key, value in known.items()}}
    write_json(folder / RECORD, {"format": _FORMAT, "loggers": both})
    opened = Log(folder, settings, reopen=True)
    complete = False

    def on_epoch(record: Any) -> None:
        opened.put(f"{name}/{record.epoch}", name, epoch_values(record.to_dict()), record.epoch)

    try:
        yield on_epoch
        complete = True
    finally:
        opened.finish(complete=complete)
