"""A whole recipe looked at before its first training: everything that is known to go wrong, in one message."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from torch import nn

from secateur.core.errors import InputError, SecateurError
from secateur.models.create import made_at_random
from secateur.models.random_weights import has_random_weights
from secateur.recipe.prepare import Given
from secateur.recipe.schema import Recipe, StepEntry
from secateur.recipe.steps import STEPS
from secateur.recipe.steps.base import DENSE, Ahead
from secateur.task import Task

__all__ = ["Problems", "assumed", "check_place", "check_steps", "foresee"]


class _Problem(NamedTuple):
    """What is wrong, and where, if the error does not say so itself."""

    place: str
    error: SecateurError

    def __str__(self) -> str:
        return f"{self.place}: {self.error}" if self.place else str(self.error)


class Problems:
    """Collects what is wrong, to tell all of it at once."""

    def __init__(self) -> None:
        """Nothing is wrong yet."""
        self._found: list[_Problem] = []

    @contextlib.contextmanager
    def at(self, place: str = "") -> Iterator[None]:
        """Notes an error of the block, and goes on after it; ``place`` is where it lies, if it does not say so."""
        try:
            yield
        except SecateurError as error:
            self._found.append(_Problem(place, error))

    def tell(self) -> None:
        """Raises what was found: a single error that says where it lies as it is.

        Raises:
            SecateurError: One problem a line.
        """
        if len(self._found) == 1 and not self._found[0].place:
            raise self._found[0].error
        if self._found:
            raise InputError("\n".join(dict.fromkeys(map(str, self._found)))) from self._found[0].error


def check_steps(recipe: Recipe, problems: Problems) -> None:
    """Asks every step whether what it needs is installed."""
    for entry in recipe.steps:
        if entry.kind in STEPS:  # an iterate over layers becomes steps when the network is there
            with problems.at():
                STEPS[entry.kind].check(entry.config)


def check_place(out: Path, problems: Problems) -> None:
    """Asks whether a folder can be made at ``out``."""
    with problems.at():
        there = _nearest(out)
        if not there.is_dir() or not os.access(there, os.W_OK):
            why = "may not be written to" if there.is_dir() else "is no folder"
            raise InputError(f"Cannot make the folder {out}: {there} {why}. Choose another.")


def foresee(recipe: Recipe, task: Task, model: nn.Module, out: Path, problems: Problems) -> None:
    """Asks every step whether it can succeed at its place, and whether the disk has room for what training leaves.

    Of rounds of an ``iterate`` the last one is asked, which reaches furthest.

    Args:
        recipe: With its rounds written out.
        task: Its task.
        model: The dense network as the run begins.
        out: Where the run's folder will be.
        problems: Gets what was found.
    """
    last = {entry.place or position: position for position, entry in enumerate(recipe.steps)}
    needed = 0
    for position, entry in enumerate(recipe.steps):
        name = "" if recipe.model.given else recipe.model.name
        ahead = Ahead(model, task, recipe.steps[:position], recipe.seed, name)
        needed += STEPS[entry.kind].leaves(entry.config, ahead)
        if last[entry.place or position] == position:
            with problems.at(_place(entry, position)):
                STEPS[entry.kind].foresee(entry.config, ahead)
    with problems.at():
        _check_disk(out, needed)


def assumed(recipe: Recipe, given: Given) -> tuple[str, ...]:
    """What a run assumes that nobody said: that the network is a trained one, where it has random weights.

    Nothing is said where the first step trains it.
    """
    config, first = recipe.model, recipe.steps[0]
    if config.adapted is not None:
        random = False  # the weights of the run that trained it
    elif given.model is not None:
        random = has_random_weights(given.model)
    else:
        random = made_at_random(config.name, config.weights, config.options)
    if not random or _trains(first):
        return ()
    later = " before the first training" if any(entry.kind not in STEPS or STEPS[entry.kind].trains
                                               for entry in recipe.steps) else ""  # fmt: skip
    return (
        f"{config.name} began with random weights, for none were given and the first step, {first.kind}, does not "
        f"train it: figures of accuracy{later} mean nothing",
    )


def _trains(entry: StepEntry) -> bool:
    """Whether a step trains the dense network."""
    step = STEPS.get(entry.kind)
    return step is not None and step.trains and step.role == DENSE and getattr(entry.config, "epochs", None) != 0


def _place(entry: StepEntry, position: int) -> str:
    """Where a step stands in its recipe, counted as it was written."""
    numbers = [part for part in entry.place if isinstance(part, int)]
    within = f" of {entry.place[2]}" if len(numbers) > 1 else ""
    return f"Step {'.'.join(str(n + 1) for n in numbers) or position + 1} ({entry.kind}{within})"


def _nearest(path: Path) -> Path:
    """The path, or the nearest above it that is there."""
    path = path.absolute()
    return next(place for place in (path, *path.parents) if os.path.lexists(place))


def _check_disk(out: Path, needed: int) -> None:
    free = shutil.disk_usage(_nearest(out)).free
    if needed > free:
        raise InputError(
            f"The checkpoints of the dense network alone will take {needed / 1e9:.2f} GB, and where {out} is to be, "
            f"{free / 1e9:.2f} GB are free. Free some space, or choose another --out."
        )
