"""What training and evaluation share: modes, layouts and the first look at a network."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from secateur.core.errors import InputError, first_line
from secateur.data.types import DataSet
from secateur.task import Classification, Task, try_task
from secateur.task.classification import logits_of

__all__ = ["choose_layout", "device_of", "first_look", "in_mode"]


def device_of(model: nn.Module) -> torch.device:
    """Where the network's tensors are."""
    tensor = next(model.parameters(), next(model.buffers(), None))
    return torch.device("cpu") if tensor is None else tensor.device


@contextlib.contextmanager
def in_mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Puts ``model`` into a mode, and every module back into its own afterwards."""
    found = [(module, module.training) for module in model.modules()]
    was = model.training
    has_modes = _set_mode(model, training)
    if training and not has_modes:
        raise InputError(
            "This exported graph has no training mode: torch.export.export made it for inference. "
            "Train the network itself, or a graph that Secateur's surgery returned."
        )
    try:
        yield
    finally:
        if has_modes:
            _set_mode(model, was)
        for module, flag in found:  # single modules may differ, a frozen batch norm for instance
            module.training = flag


def _set_mode(model: nn.Module, training: bool) -> bool:
    """Whether the network has modes; a graph from torch.export has none unless it was given them."""
    try:
        model.train(training)
    except NotImplementedError:
        return False
    return True


def choose_layout(model: nn.Module, task: Task, *, channels_last: bool) -> torch.memory_format:
    """Puts the weights into the wanted layout if the network can work in it, and returns the one to use.

    Networks that reshape with ``view`` refuse channels-last images; they get the contiguous layout.

    Raises:
        InputError: The network does not fit the task (see :func:`first_look`).
    """
    if channels_last and _has_images(model):
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        try:
            first_look(model, task, layout=torch.channels_last, train=True)
            return torch.channels_last
        except InputError as error:
            if "view size" not in str(error):
                raise
        model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    first_look(model, task, train=True)
    return torch.contiguous_format


def _has_images(model: nn.Module) -> bool:
    """Whether some weight is that of a convolution of images: the layout is about nothing else."""
    return any(p.ndim == 4 for p in model.parameters())


def first_look(
    model: nn.Module, task: Task, *, layout: torch.memory_format = torch.contiguous_format, train: bool = False
) -> None:
    """Runs a few samples, so that a misfit is told before anything else.

    Raises:
        InputError: The network does not take the task's inputs, or gives what its loss or metrics do not take.
    """
    if isinstance(task, Classification):
        _look_at_images(model, task.data, layout)
    elif train:
        try_task(task, model, layout=layout)


def _look_at_images(model: nn.Module, data: DataSet, layout: torch.memory_format) -> None:
    """Runs two black images."""
    images = torch.zeros(2, *data.shape, dtype=torch.uint8, device=device_of(model))
    inputs = data.normalise(images).contiguous(memory_format=layout)
    with torch.no_grad(), torch.random.fork_rng(devices=[]), in_mode(model, training=False):
        try:
            output = model(inputs)
        except RuntimeError as error:
            reason = first_line(error)
            raise InputError(
                f"The network does not take {data.name}'s images of shape {data.shape}: {reason}"
            ) from error
    scores = logits_of(output)
    if scores.ndim != 2 or scores.shape[1] != len(data.classes):
        raise InputError(
            f"The network returns scores of shape {tuple(scores.shape)} for 2 images; {data.name} has "
            f"{len(data.classes)} classes. Build it with classes={len(data.classes)}, or use "
            f"secateur.models.replace_head(model, {len(data.classes)})."
        )
