"""What a file says of how it is to be used: the kind of task, the classes, how images are prepared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from secateur.core import arguments
from secateur.core.errors import InputError
from secateur.data.preprocessing import Preprocessing
from secateur.data.types import DataSet
from secateur.task.base import Task
from secateur.task.classification import as_task

__all__ = ["ModelMetadata"]

_BY_CLASS = ("classification", "multilabel", "segmentation")
"""Tasks whose first output has the classes in dimension 1."""


@arguments.checked
@dataclass(frozen=True)
class ModelMetadata:
    """What whoever runs a file of the network has to know, written into it by :func:`secateur.export`.

    Attributes:
        task: The kind of task (``classification``, ``detection`` …); empty where it is not known.
        classes: Names of the classes, in the order of the outputs.
        preprocessing: How an image file becomes the network's input; ``None`` where that is not known.

    >>> ModelMetadata("classification", ("cat", "dog")).to_json()
    {'task': 'classification', 'classes': ['cat', 'dog']}
    """

    task: str = ""
    classes: tuple[str, ...] = ()
    preprocessing: Preprocessing | None = None

    @staticmethod
    def of(data: Task | DataSet) -> ModelMetadata:
        """What a task, or a data set of images, says of itself; nothing of where its files lie.

        >>> import secateur
        >>> ModelMetadata.of(secateur.data.load("digits")).classes[:3]
        ('0', '1', '2')
        """
        task = as_task(data)
        kind, classes = type(task).name, task.classes
        # In a task of the user's own, `classes` may be anything.
        named = isinstance(classes, list | tuple) and all(isinstance(name, str) for name in classes)
        kind = "" if kind == Task.name else kind
        return ModelMetadata(kind, tuple(classes) if named else (), task.image_preprocessing())

    def to_json(self) -> dict[str, Any]:
        """The same as data that :mod:`json` can write; what is not known is left out."""
        found: dict[str, Any] = {"task": self.task, "classes": list(self.classes)}
        if self.preprocessing is not None:
            found["preprocessing"] = self.preprocessing.to_json()
        return {key: value for key, value in found.items() if value}

    def check_outputs(self, outputs: list[Tensor]) -> None:
        """Checks that a network that gives these has as many classes.

        Raises:
            InputError: It has not.
        """
        if self.task not in _BY_CLASS or not self.classes or not outputs:
            return
        shape = tuple(outputs[0].shape)
        if len(shape) < 2 or shape[1] != len(self.classes):
            raise InputError(
                f"There are names of {len(self.classes)} classes, and the network's output has the shape {shape} "
                f"(samples, classes, …). Give as many names as it has outputs."
            )
