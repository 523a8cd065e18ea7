"""Everything random about an epoch over images, drawn before it starts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.core.seeds import derive, generator
from secateur.data.types import DataSet
from secateur.task.augment import Draws, draw
from secateur.task.base import Epoch

__all__ = ["EpochPlan", "plan_epoch", "steps_per_epoch"]


@dataclass(frozen=True)
class EpochPlan:
    """What one process does in an epoch.

    Attributes:
        order: int64: which images this process sees, in which order.
        size: Images per step on this process.
        draws: Crops and mirrors, aligned with ``order``; ``None`` without augmentation.
        crop_seed: For splits that crop while decoding; ``None`` without augmentation.
    """

    order: Tensor
    size: int
    draws: Draws | None
    crop_seed: int | None


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


def plan_epoch(data: DataSet, epoch: Epoch) -> EpochPlan:
    """Draws an epoch's order and augmentation from its seeds alone.

    All processes draw the same numbers for the whole epoch and take their own share of every step.
    """
    order, size = drawn_order(len(data.train), epoch)
    used, rank, processes = len(order), epoch.rank, epoch.processes
    mine = torch.arange(used)
    # Every step's images go to the processes in turn.
    mine = torch.cat([step[rank::processes] for step in torch.split(mine, size * processes)])
    draws = None
    if epoch.augment and (data.pad or data.flip):
        every = draw(used, pad=data.pad, flip=data.flip, generator=generator(*epoch.seeds, "augment"))
        draws = every.take(mine)
    crop_seed = derive(*epoch.seeds, "crop") if epoch.augment else None
    return EpochPlan(order[mine], size, draws, crop_seed)


def drawn_order(samples: int, epoch: Epoch) -> tuple[Tensor, int]:
    """(the order of the samples that all processes use, samples per step and process)."""
    size, used = _sizes(samples, epoch.batch_size, epoch.processes)
    return torch.randperm(samples, generator=generator(*epoch.seeds, "order"))[:used], size
