"""The lines of a run's ``metrics.jsonl``, as its loggers get them."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from secateur.loggers.log import RECORD, Log, LoggerWarning, epoch_values, scalars
from secateur.recipe.folder import RunFolder
from secateur.recipe.schema import Recipe
from secateur.recipe.steps import STEPS, descent

__all__ = ["FILES", "Entry", "entries", "follow", "open_log"]

FILES = ("report.html", "results.json", "recipe.yaml")
"""What loggers that keep files get at the end of a run."""


class Entry(NamedTuple):
    """What one line becomes: the arguments of :meth:`secateur.loggers.Log.put`."""

    key: str
    group: str
    values: Mapping[str, float]
    step: int


def open_log(folder: RunFolder, recipe: Recipe) -> Log:
    """The loggers of a run; a run that somebody else began does not write with this user's accounts."""
    if not (folder.own or folder.trusted):
        if (folder.path / RECORD).exists():
            warnings.warn(
                f"The run in {folder.path} was not started here, so its loggers get nothing; with --trust they do.",
                LoggerWarning,
                stacklevel=2,
            )
        return Log(None)
    about = {key: folder.about[key] for key in ("command", "created", "data", "machine")}
    return Log(folder.path, {**recipe.to_dict(), **about})


def follow(log: Log, lines: Iterable[Mapping[str, Any]]) -> None:
    """Sends every line to the loggers that have not had it."""
    for entry in entries(lines) if log.loggers else ():
        log.put(*entry)


def entries(lines: Iterable[Mapping[str, Any]]) -> Iterator[Entry]:
    """Epochs as curves of their network, over all epochs that led to it; results of steps over the recipe's steps."""
    lines = list(lines)
    epochs = Counter(str(line["step"]) for line in lines if line.get("epoch") is not None)
    before = {step: _before(step, epochs) for step in epochs}
    for line in lines:
        step, epoch = str(line["step"]), line.get("epoch")
        if epoch is None:
            yield Entry(step, "results", scalars(line), _position(step))
            continue
        values = epoch_values({key: value for key, value in line.items() if key != "step"})
        yield Entry(f"{step}/{epoch}", _role(step), values, before[step] + epoch)


def _before(step: str, epochs: Mapping[str, int]) -> int:
    """Epochs of earlier steps that the network of ``step`` has behind it."""
    line, position = descent(_role(step)), _position(step)
    return sum(count for name, count in epochs.items() if _position(name) < position and _role(name) in line)


def _position(step: str) -> int:
    return int(step.partition("-")[0])


def _role(step: str) -> str:
    kind = step.partition("-")[2]
    return STEPS[kind].role if kind in STEPS else kind
