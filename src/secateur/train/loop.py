"""One epoch of training, on one process of possibly several."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from secateur.core.errors import SecateurError
from secateur.core.seeds import derive
from secateur.task import Batch, Epoch, Task
from secateur.task.batch import wide
from secateur.train.config import TrainConfig
from secateur.train.extras import Extra
from secateur.train.progress import TrainProgress
from secateur.train.schedule import learning_rate

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["Loop", "Sums", "TrainingError", "train_epoch"]


class TrainingError(SecateurError):
    """The training cannot go on: the loss is not a number any more."""


@dataclass(frozen=True)
class Sums:
    """What an epoch adds up to, over all processes.

    Attributes:
        loss: Sum over the samples.
        running: Sum over the samples of the task's running metric, if it has one.
        samples: How many were trained on.
        seconds: Of training.
        lr: Learning rate of the last step.
    """

    loss: float
    running: float
    samples: float
    seconds: float
    lr: float


@dataclass(frozen=True)
class Loop:
    """What stays the same from step to step.

    Attributes:
        fabric: Device, precision, processes.
        model: As wrapped by Fabric.
        optimizer: As wrapped by Fabric.
        task: Batches and their loss.
        config: Settings.
        layout: Memory format of images.
        loss: The task's, with the settings that it takes.
        extras: What takes part besides the loss.
    """

    fabric: Fabric
    model: nn.Module
    optimizer: Any
    task: Task
    config: TrainConfig
    layout: torch.memory_format
    loss: Callable[[Any, Any], Tensor | None]
    extras: tuple[Extra, ...] = ()

    @property
    def network(self) -> nn.Module:
        """The network itself, with the names of its parameters."""
        return getattr(self.model, "module", self.model)

    @property
    def steps(self) -> int:
        """Optimiser steps per epoch."""
        return self.task.steps(self.config.batch_size, self.fabric.world_size)

    def epoch(self, seeds: tuple[object, ...]) -> Epoch:
        """An epoch as the task is asked for it."""
        fabric, config = self.fabric, self.config
        return Epoch(seeds, config.batch_size, config.augment, fabric.global_rank, fabric.world_size,
                     fabric.device, self.layout)  # fmt: skip


def train_epoch(loop: Loop, seeds: tuple[object, ...], *, epoch: int, progress: TrainProgress) -> Sums:
    """Trains for one epoch (counted from 1) and returns its sums; everything random in it comes from ``seeds``.

    Raises:
        TrainingError: The loss is NaN or infinite, or the loader gave no batch.
    """
    fabric, config, steps = loop.fabric, loop.config, loop.steps
    sums = torch.zeros(3, device=fabric.device)
    torch.manual_seed(derive(*seeds, "layers", fabric.global_rank))
    start, rate, shown, done = time.perf_counter(), config.lr, 0, 0
    for step, batch in enumerate(loop.task.training(loop.epoch(seeds))):
        rate = learning_rate(config, (epoch - 1) * steps + step, config.epochs * steps)
        sums += _step(loop, batch, rate)
        done = step + 1
        if done % 10 == 0 or done == steps:  # reading a number waits for the device
            loss, running, seen = sums.tolist()
            _check(loss, epoch, step, rate)
            speed = seen * fabric.world_size / (time.perf_counter() - start)
            words = "" if loop.task.running is None else loop.task.running.words(running / seen)
            progress.step(done - shown, loss / seen, words, f"{speed:,.0f} {loop.task.unit}s/s")
            shown = done
        if done == steps:
            break  # a loader may have more than it says
    if not done:
        raise TrainingError(f"The training loader gave no batch in epoch {epoch}.")
    _check(float(sums[0]), epoch, done - 1, rate)
    seconds = time.perf_counter() - start
    loss, running, seen = fabric.all_reduce(sums, reduce_op="sum").tolist()  # type: ignore[union-attr]
    return Sums(loss, running, seen, seconds, rate)


def _step(loop: Loop, batch: Batch, rate: float) -> Tensor:
    """One optimiser step; returns (summed loss, summed running metric, samples) of this process."""
    for group in loop.optimizer.param_groups:
        group["lr"] = rate
    inputs, target = batch.inputs, batch.target
    for extra in loop.extras:
        inputs, target = extra.batch(inputs, target)
    output = wide(loop.task.forward(loop.model, Batch(inputs, target, batch.size)))
    loss = loop.loss(output, target)
    if loss is None:
        raise TrainingError(f"The task {loop.task.name} gives no loss for the output of a training batch.")
    with loop.fabric.autocast():
        added = [t for extra in loop.extras if (t := extra.loss(loop.network, inputs, output, target)) is not None]
    loop.fabric.backward(sum(added, loss))
    for extra in loop.extras:
        extra.gradients(loop.network)
    if loop.config.gradient_clip is not None:
        nn.utils.clip_grad_norm_(loop.model.parameters(), loop.config.gradient_clip)
    loop.optimizer.step()
    for extra in loop.extras:
        extra.weights(loop.network)
    loop.optimizer.zero_grad(set_to_none=True)
    with torch.no_grad():
        hits = loop.task.hits(output, batch.target)
        hits = loss.new_zeros(()) if hits is None else hits
        return torch.stack([loss.detach().reshape(()) * batch.size, hits, hits.new_tensor(batch.size)]).float()


def _check(loss: float, epoch: int, step: int, rate: float) -> None:
    if loss != loss or loss in (float("inf"), float("-inf")):
        raise TrainingError(
            f"The loss became {loss} by step {step + 1} of epoch {epoch}, at a learning rate of {rate:.3g}. "
            f"A lower learning rate (lr), a longer warmup or gradient_clip=1.0 usually helps."
        )
