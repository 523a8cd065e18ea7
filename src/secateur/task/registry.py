"""Tasks by name, as recipes and the command line say them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from secateur.core.registry import Registry
from secateur.data import DATASETS, load
from secateur.task.base import Task
from secateur.task.classification import Classification

__all__ = ["TASKS", "Request", "TaskKind"]


@dataclass(frozen=True)
class Request:
    """The data that a recipe asks for.

    Attributes:
        name: Of the data set, or its path.
        validation: Share of the training samples that is held out.
        limit: At most this many samples of each split.
        image_size: Side in pixels that images get; ``None`` for the task's own.
        seed: Of what is held out.
    """

    name: str
    validation: float = 0.05
    limit: int | None = None
    image_size: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class TaskKind:
    """A kind of task.

    Attributes:
        open: Makes the task of a data set, with the options of the recipe.
        summary: One line.
        data: The data set that is taken where none is named.
        model: The network that is taken where the task alone is named.
        texts: Whether it takes a tokenizer and a length.
    """

    open: Callable[..., Task]
    summary: str
    data: str
    model: str
    texts: bool = False


TASKS: Registry[TaskKind] = Registry("task")
"""All kinds of tasks by name."""


def _classification(request: Request) -> Classification:
    return Classification(
        load(
            request.name,
            validation=request.validation,
            seed=request.seed,
            limit=request.limit,
            image_size=request.image_size,
        )
    )


def _sound(request: Request) -> Classification:
    name = request.name
    if ":" not in name and name not in DATASETS:
        name = f"sound:{name}"
    return _classification(replace(request, name=name))


TASKS.add(
    "sound", TaskKind(_sound, "one class for every sound, by its spectrogram: top-1, top-5", "tones", "resnet_digits")
)
TASKS.add(
    "classification",
    TaskKind(_classification, "one class for every image of one size: top-1 and top-5", "digits", "resnet_digits"),
)
