"""How well a network does on a split, by the loss and the metrics of its task."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import nn

from secateur.core import arguments
from secateur.core.errors import InputError
from secateur.data.types import AnySplit, DataSet
from secateur.task import Batch, Classification, Meter, Task, as_task
from secateur.task.batch import wide
from secateur.task.trial import output_of
from secateur.train.common import device_of, first_look, in_mode
from secateur.train.history import Evaluation

__all__ = ["add_up", "evaluate", "evaluation_of"]


@arguments.checked
def evaluate(
    model: nn.Module,
    task: Task | DataSet,
    split: str | AnySplit = "test",
    *,
    limit: int | None = None,
    batch_size: int = 500,
    precision: Literal["32", "bf16"] = "32",
    device: str | torch.device | None = None,
) -> Evaluation:
    """Evaluates ``model``, which is left as it was found (mode, device, weights).

    Args:
        model: The network, or a graph or pruned network of it.
        task: Data, loss and metrics; a data set of images stands for its classification.
        split: ``train``, ``validation`` or ``test``; of a data set of images also some of its images.
        limit: Stop once there were so many samples (batches of a loader are not cut); all by default.
        batch_size: Samples per forward pass, where the task makes the batches.
        precision: ``bf16`` runs under automatic mixed precision.
        device: Where to run; by default where the network is.

    Returns:
        The task's metrics (of classification top-1 and top-5 in percent), the mean loss, seconds per sample of the
        forward passes.

    Raises:
        InputError: The network does not fit the data, the split is empty or there is none.

    >>> x = torch.randn(6, 4)
    >>> task = Task(test=(x, x.sum(1, keepdim=True)), loss=nn.functional.mse_loss)
    >>> evaluate(nn.Linear(4, 1), task).samples
    6
    """
    task = as_task(task)
    network = model if isinstance(model, nn.Module) else getattr(model, "model", model)
    if limit is not None and limit < 1:
        raise InputError(f"evaluate(limit=…) is a number of samples, at least 1; got {limit}.")
    if not isinstance(split, str) and not isinstance(task, Classification):
        raise InputError("Only a data set of images can be evaluated on a split of one's own; name one of the task's.")
    task.source(split)  # type: ignore[arg-type]
    home = device_of(network)
    target = home if device is None else _device(device)
    try:
        network.to(target)
        first_look(network, task)
        with in_mode(network, training=False), _autocast(target, precision):
            asked: dict[str, Any] = {"batch_size": batch_size, "limit": limit, "device": target}
            batches = task.evaluation(split, **asked)  # type: ignore[arg-type]
            name = split if isinstance(split, str) else "the split"
            meter, count, seconds = add_up(task, batches, lambda batch: output_of(task, network, batch, name))
    finally:
        network.to(home)
    return evaluation_of(meter, count, seconds)


def evaluation_of(meter: Meter, count: int, seconds: float) -> Evaluation:
    """What a meter has added up, per sample."""
    if not count:
        raise InputError("There was no sample to evaluate on: the loader ended at once.")
    return Evaluation(meter.compute(), count, seconds / count)


def add_up(task: Task, batches: Any, forward: Callable[[Batch], Any]) -> tuple[Meter, int, float]:
    """Runs batches and adds up their metrics; returns the meter, the samples and the seconds of the forward passes."""
    meter, count, seconds = task.meter(), 0, 0.0
    with torch.no_grad():
        for batch in batches:
            start = time.perf_counter()
            output = forward(batch)
            _wait(output)
            seconds += time.perf_counter() - start
            meter.update(wide(output), batch.target, batch.size)
            count += batch.size
    return meter, count, seconds


def _device(name: str | torch.device) -> torch.device:
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise InputError(f"evaluate(device=…) is a device like cpu or cuda:0; got {str(name)[:60]!r}.") from error


def _wait(output: object) -> None:
    if isinstance(output, torch.Tensor) and output.is_cuda:
        torch.cuda.synchronize(output.device)


def _autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    if precision == "bf16":
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()
