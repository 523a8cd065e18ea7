"""Everything of a task tried on a few batches, so that a misfit is told before anything is trained."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.errors import InputError, first_line
from secateur.graph.calling import preserved_rng
from secateur.task.base import Epoch, Task
from secateur.task.batch import Batch, form, shapes, wide
from secateur.task.meters import Meter

__all__ = ["output_of", "try_task"]

_LOOKED = 4  # batches that metrics are tried on
_SIZE = 16

_MISFITS = (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError, UserWarning)


def try_task(task: Task, model: nn.Module, *, train: bool = True, layout: torch.memory_format | None = None) -> None:
    """Runs the network on the first batches of every split, with loss and metrics.

    Args:
        task: The user's.
        model: The network; it is left as it was found.
        train: Whether there is to be training, which needs a loss.
        layout: Memory format of images.

    Raises:
        InputError: Says which of loader, network, loss and metrics does not fit, and how.
    """
    with preserved_rng():  # training batches come with global random numbers seeded
        _try_splits(task, model, train=train, layout=layout or torch.contiguous_format)


def _try_splits(task: Task, model: nn.Module, *, train: bool, layout: torch.memory_format) -> None:
    for split in ("train", "validation", "test"):
        if not task.has(split) and not (train and split == "train"):
            continue
        batches = _batches(task, model, split, layout)
        learns = train and split == "train"
        seen, meter = 0, task.meter()
        for batch in batches:
            seen += 1
            with _as_found(model, training=learns):
                output = output_of(task, model, batch, split)
                if learns:
                    _try_loss(task, output, batch)
                    break
            if split != "train":
                meter.update(output, batch.target, batch.size)
            if seen == _LOOKED:
                break
        if not seen:
            raise InputError(
                f"The {split} loader ends at once: it gives no batch. (An iterator that was used up is empty: give a "
                "function that makes it anew.)"
            )
        if split != "train":
            _finite(meter, split, task.unit, whole=next(batches, None) is None)


def _batches(task: Task, model: nn.Module, split: str, layout: torch.memory_format) -> Iterator[Batch]:
    tensor = next(model.parameters(), next(model.buffers(), None))
    device = torch.device("cpu") if tensor is None else tensor.device
    task.source(split)
    if split != "train":
        return task.evaluation(split, batch_size=_SIZE, device=device, layout=layout)
    task.steps(_SIZE)  # a loader that may never end is named here
    return task.training(Epoch(("trial",), _SIZE, device=device, layout=layout))


@contextmanager
def _as_found(model: nn.Module, *, training: bool) -> Iterator[None]:
    """In the mode that is asked for; modes and buffers come back."""
    modes = {module: module.training for module in model.modules()}
    state = {name: value.clone() for name, value in model.named_buffers()}
    try:
        with torch.set_grad_enabled(training):
            model.train(training)
            yield
    finally:
        model.train(modes[model])
        for module, mode in modes.items():
            module.training = mode
        with torch.no_grad():
            for name, value in model.named_buffers():
                if name in state:
                    value.copy_(state[name])


def output_of(task: Task, model: nn.Module, batch: Batch, split: str) -> Any:
    """What the network gives for a batch, in float32.

    Raises:
        InputError: It does not take the batch.
    """
    try:
        return wide(task.forward(model, batch))
    except _MISFITS as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"The network does not take the batches of {split} ({form(batch.inputs)}): {first_line(error)}"
        ) from error


def _try_loss(task: Task, output: Any, batch: Batch) -> None:
    given = f"an output of {shapes(output)} and a target of {shapes(batch.target)}"
    try:
        with warnings.catch_warnings():
            # A loss that stretches (B,) over (B, 1) compares every sample with every other one.
            warnings.filterwarnings("error", message="Using a target size")
            loss = task.loss(output, batch.target)
    except _MISFITS as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"The loss does not take {given}: {first_line(error)}") from error
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        got = f"of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
        raise InputError(f"The loss of a batch is one number, a scalar tensor; for {given} it is {got}.")
    if not math.isfinite(loss.item()):
        raise InputError(f"The loss is {loss.item()} on the first training batch, before any training.")
    if not loss.requires_grad:
        raise InputError("The loss does not depend on the network's weights, so nothing can be trained with it.")


def _finite(meter: Meter, split: str, unit: str, *, whole: bool) -> None:
    """Refuses a metric that is no number on all of a split; of the first samples alone it may not be one yet."""
    for name, value in meter.compute().items():
        if whole and not math.isfinite(value):
            raise InputError(
                f"The metric {name} is {value} on the {unit}s of {split}, before anything was changed; no epoch and no "
                "network could be chosen by it."
            )
