"""Tasks whose samples are numbered: orders and augmentation are drawn here, so that any epoch can be had again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from secateur.core.errors import InputError
from secateur.core.types import ExampleInputs
from secateur.task.base import SPLITS, Epoch, Task
from secateur.task.batch import Batch, joined, layout_of, moved
from secateur.task.plan import drawn_order, steps_per_epoch
from secateur.task.sources import digest_of

__all__ = ["NumberedTask"]


class NumberedTask(Task):
    """A task that makes its own batches of samples it can number; a subclass says how many, and makes them."""

    exact = True  # orders and augmentation are drawn here, from the seeds
    largest: int = 500
    """Samples of one evaluation batch at most."""

    def count(self, split: str) -> int:
        """Samples of a split; 0 where there is none."""
        raise NotImplementedError

    def made(self, split: str, index: Tensor, seeds: tuple[object, ...] | None = None) -> tuple[ExampleInputs, Any]:
        """Inputs and target of some samples, on the CPU.

        Args:
            split: ``train``, ``validation`` or ``test``.
            index: int64, (B,): their numbers.
            seeds: What augmentation is drawn from; ``None`` for the samples as they are.
        """
        raise NotImplementedError

    def samples(self, split: str) -> int:
        """Samples of a split."""
        if split not in SPLITS:
            raise InputError(f"A split is one of {', '.join(SPLITS)}; got {split!r}.")
        return self.count(split)

    def has(self, split: str) -> bool:
        """Whether the split has samples."""
        return self.samples(split) > 0

    def source(self, split: str) -> Any:
        """Refuses a split without samples."""
        if not self.has(split):
            raise InputError(f"The task {self.name} has no {self.unit}s in its {split} split.")
        return self

    def steps(self, batch_size: int, processes: int = 1) -> int:
        """Optimiser steps per epoch: equal ones instead of a tiny last one."""
        return steps_per_epoch(self.samples("train"), batch_size, processes)

    def training(self, epoch: Epoch) -> Iterator[Batch]:
        """The samples of an epoch in an order drawn from its seeds, changed at random where it says so."""
        order, size = drawn_order(self.samples("train"), epoch)
        seeds = (*epoch.seeds, "augment") if epoch.augment else None
        for step in torch.split(order, size * epoch.processes):
            mine = step[epoch.rank :: epoch.processes]
            yield self._batch("train", mine, epoch.device, epoch.layout, seeds)

    def evaluation(
        self,
        split: str,
        *,
        batch_size: int = 500,
        limit: int | None = None,
        share: tuple[int, int] = (0, 1),
        device: torch.device | None = None,
        layout: torch.memory_format = torch.contiguous_format,
    ) -> Iterator[Batch]:
        """The samples of a split in their order; with a ``limit``, the first of them."""
        self.source(split)
        count = min(self.samples(split), limit or self.samples(split))
        order = torch.arange(count)[share[0] :: share[1]]
        for part in torch.split(order, min(batch_size, self.largest)):
            yield self._batch(split, part, device or torch.device("cpu"), layout)

    def sample(self, count: int, *, split: str = "train", seed: int = 0) -> ExampleInputs:
        """Inputs of ``count`` samples drawn with ``seed``, fewer if there are not so many."""
        return joined([inputs for inputs, _ in self.calibration(count, split=split, seed=seed)], count)

    def calibration(self, count: int, *, split: str = "train", seed: int = 0) -> Iterator[tuple[ExampleInputs, Any]]:
        """The same samples in batches, with their target."""
        self.source(split)
        order = torch.randperm(self.samples(split), generator=torch.Generator().manual_seed(seed))[:count]
        for part in torch.split(order, min(64, self.largest)):
            yield self.made(split, part)

    def fingerprint(self, split: str) -> str:
        """SHA-256 of a split's first samples and of how many there are."""
        count = self.samples(split)
        return digest_of((count, self.made(split, torch.arange(min(count, 64))) if count else None))

    def _batch(
        self,
        split: str,
        index: Tensor,
        device: torch.device,
        layout: torch.memory_format,
        seeds: tuple[object, ...] | None = None,
    ) -> Batch:
        inputs, target = self.made(split, index, seeds)
        return Batch(layout_of(moved(inputs, device), layout), moved(target, device), len(index))
