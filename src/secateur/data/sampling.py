"""Seeded choice of samples: stratified by class, or of splits that are missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor

__all__ = ["Subsets", "complete", "draw", "hold_out"]


class Subsets(Protocol):
    """A split of which some samples can be taken."""

    def __len__(self) -> int:
        """Number of samples."""

    def subset(self, indices: Sequence[int]) -> Self:
        """The samples at ``indices``."""


S = TypeVar("S", bound=Subsets)


def complete(splits: Mapping[str, S], *, validation: float, seed: int, limit: int | None = None) -> tuple[S, S, S]:
    """Training, validation and test part, those that are missing drawn from what is there.

    Where there is no test part, the validation part is the test part; where there is neither, a fifth of the training
    samples, the same for any seed.

    Args:
        splits: ``train``, and ``validation`` and ``test`` where they are there.
        validation: Share of the training samples that is held out where there is no validation part.
        seed: Of that choice.
        limit: At most so many training and test samples, the first of each.
    """
    splits = dict(splits)
    if "test" not in splits and "validation" in splits:
        splits["test"] = splits.pop("validation")  # the only held-out samples are for the final figure
    train = splits["train"]
    if "test" not in splits:
        train, splits["test"] = _parted(train, 0.2, 0)
    train, test = (s.subset(range(min(len(s), limit or len(s)))) for s in (train, splits["test"]))
    if "validation" in splits:
        return train, splits["validation"], test
    return (*_parted(train, validation, seed), test)


def _parted(split: S, share: float, seed: int) -> tuple[S, S]:
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed)).tolist()
    held = round(share * len(split))
    return split.subset(sorted(order[held:])), split.subset(sorted(order[:held]))


def draw(labels: Tensor, count: int, seed: int) -> Tensor:
    """Indices of ``count`` images, in stored order, with every class represented in proportion.

    >>> draw(torch.tensor([0, 0, 0, 0, 1, 1]), 3, seed=0).shape
    torch.Size([3])
    """
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    by_class = shuffled[torch.argsort(labels[shuffled], stable=True)]
    counts = torch.bincount(labels)
    first = (counts.cumsum(0) - counts)[labels[by_class]]
    # An image's place within its class, as a share: the lowest shares are a stratified sample.
    share = (torch.arange(len(labels)) - first + 0.5) / counts[labels[by_class]]
    return by_class[torch.argsort(share, stable=True)[:count]].sort().values


def hold_out(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Splits indices into (rest, held out), the latter a stratified ``share`` of all images."""
    held = draw(labels, round(share * len(labels)), seed)
    rest = torch.ones(len(labels), dtype=torch.bool)
    rest[held] = False
    return rest.nonzero().flatten(), held
