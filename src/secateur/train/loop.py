"""One epoch of training, on one process of possibly several."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.core.errors import SecateurError
from secateur.data.types import DataSet
from secateur.train.augment import Draws, crop_and_flip, draw
from secateur.train.common import logits_of
from secateur.train.config import TrainConfig
from secateur.train.extras import Extra
from secateur.train.progress import TrainProgress
from secateur.train.schedule import learning_rate
from secateur.train.seeds import derive, generator

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["EpochPlan", "Loop", "Sums", "TrainingError", "plan_epoch", "steps_per_epoch", "train_epoch"]


class TrainingError(SecateurError):
    """The training cannot go on: the loss is not a number any more."""


@dataclass(frozen=True)
class EpochPlan:
    """Everything random about an epoch, drawn before it starts.

    Attributes:
        order: int64: which images this process sees, in which order.
        size: Images per step on this process.
        draws: Crops and mirrors, aligned with ``order``; ``None`` without augmentation.
        crop_seed: For splits that crop while decoding; ``None`` without augmentation.
        layer_seed: For what the network itself draws (dropout).
    """

    order: Tensor
    size: int
    draws: Draws | None
    crop_seed: int | None
    layer_seed: int


@dataclass(frozen=True)
class Sums:
    """What an epoch adds up to, over all processes."""

    loss: float
    hits: float
    images: float
    seconds: float
    lr: float


def _sizes(images: int, batch_size: int, processes: int) -> tuple[int, int]:
    """(images per process and step, images used): equal steps instead of a tiny last one."""
    steps = -(-images // batch_size)
    size = -(-images // (steps * processes))
    tail = images % (size * processes)
    # A last step with one image per process is dropped: batch norm has no statistics of one value.
    return size, images - tail if tail < 2 * processes and images > tail else images


def steps_per_epoch(images: int, batch_size: int, processes: int = 1) -> int:
    """Optimiser steps per epoch.

    >>> steps_per_epoch(45_000, 128), steps_per_epoch(129, 128)
    (352, 2)
    """
    size, used = _sizes(images, batch_size, processes)
    return -(-used // (size * processes))


def plan_epoch(
    data: DataSet, config: TrainConfig, seeds: tuple[object, ...], *, rank: int = 0, processes: int = 1
) -> EpochPlan:
    """Draws an epoch's order and augmentation from ``seeds`` alone.

    All processes draw the same numbers for the whole epoch and take their own share of every step.
    """
    images = len(data.train)
    size, used = _sizes(images, config.batch_size, processes)
    order = torch.randperm(images, generator=generator(*seeds, "order"))[:used]
    mine = torch.arange(used)
    # Every step's images go to the processes in turn.
    mine = torch.cat([step[rank::processes] for step in torch.split(mine, size * processes)])
    draws = None
    if config.augment and (data.pad or data.flip):
        every = draw(used, pad=data.pad, flip=data.flip, generator=generator(*seeds, "augment"))
        draws = every.take(mine)
    crop_seed = derive(*seeds, "crop") if config.augment else None
    return EpochPlan(order[mine], size, draws, crop_seed, derive(*seeds, "layers", rank))


@dataclass(frozen=True)
class Loop:
    """What stays the same from step to step.

    Attributes:
        fabric: Device, precision, processes.
        model: As wrapped by Fabric.
        optimizer: As wrapped by Fabric.
        data: Images and how to normalise them.
        config: Settings.
        layout: Memory format of the images.
        extras: What takes part besides the loss on the labels.
    """

    fabric: Fabric
    model: nn.Module
    optimizer: Any
    data: DataSet
    config: TrainConfig
    layout: torch.memory_format
    extras: tuple[Extra, ...] = ()

    @property
    def network(self) -> nn.Module:
        """The network itself, with the names of its parameters."""
        return getattr(self.model, "module", self.model)

    @property
    def steps(self) -> int:
        """Optimiser steps per epoch."""
        return steps_per_epoch(len(self.data.train), self.config.batch_size, self.fabric.world_size)


def train_epoch(loop: Loop, plan: EpochPlan, *, epoch: int, progress: TrainProgress) -> Sums:
    """Trains for one epoch (counted from 1) and returns its sums.

    Raises:
        TrainingError: The loss is NaN or infinite.
    """
    fabric, config, steps = loop.fabric, loop.config, loop.steps
    sums = torch.zeros(3, device=fabric.device)
    torch.manual_seed(plan.layer_seed)
    start, rate, shown = time.perf_counter(), config.lr, 0
    batches = loop.data.train.batches(plan.size, order=plan.order, crop_seed=plan.crop_seed)
    for step, (images, labels) in enumerate(batches):
        rate = learning_rate(config, (epoch - 1) * steps + step, config.epochs * steps)
        draws = plan.draws and plan.draws.part(step * plan.size, (step + 1) * plan.size)
        sums += _step(loop, _inputs(loop, images, draws), labels.to(fabric.device), rate)
        if (step + 1) % 10 == 0 or step + 1 == steps:  # reading a number waits for the device
            loss, hits, seen = sums.tolist()
            _check(loss, epoch, step, rate)
            speed = seen * fabric.world_size / (time.perf_counter() - start)
            progress.step(step + 1 - shown, loss / seen, 100 * hits / seen, speed)
            shown = step + 1
    seconds = time.perf_counter() - start
    loss, hits, seen = fabric.all_reduce(sums, reduce_op="sum").tolist()  # type: ignore[union-attr]
    return Sums(loss, hits, seen, seconds, rate)


def _inputs(loop: Loop, images: Tensor, draws: Draws | None) -> Tensor:
    """Images as decoded → augmented and normalised, on the device."""
    images = images.to(loop.fabric.device)
    if draws is not None:
        images = crop_and_flip(images, draws)
    return loop.data.normalise(images).contiguous(memory_format=loop.layout)


def _step(loop: Loop, inputs: Tensor, labels: Tensor, rate: float) -> Tensor:
    """One optimiser step; returns (summed loss, hits, images) of this process."""
    for group in loop.optimizer.param_groups:
        group["lr"] = rate
    targets = labels
    for extra in loop.extras:
        inputs, targets = extra.batch(inputs, targets)
    scores = logits_of(loop.model(inputs)).float()
    loss = F.cross_entropy(scores, targets, label_smoothing=loop.config.label_smoothing)
    with loop.fabric.autocast():
        added = [t for extra in loop.extras if (t := extra.loss(loop.network, inputs, scores, targets)) is not None]
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
        hits = (scores.argmax(1) == labels).sum()
        return torch.stack([loss.detach() * len(labels), hits, hits.new_tensor(len(labels))])


def _check(loss: float, epoch: int, step: int, rate: float) -> None:
    if loss != loss or loss in (float("inf"), float("-inf")):
        raise TrainingError(
            f"The loss became {loss} by step {step + 1} of epoch {epoch}, at a learning rate of {rate:.3g}. "
            f"A lower learning rate (lr), a longer warmup or gradient_clip=1.0 usually helps."
        )
