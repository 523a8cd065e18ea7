"""What a data set is: three splits, class names, and how to normalise and augment the images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from secateur.core import arguments
from secateur.core.errors import InputError

__all__ = ["IMAGENET", "AnySplit", "DataSet", "Split", "scale_of", "statistics"]

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of most ImageNet networks."""


@runtime_checkable
class AnySplit(Protocol):
    """Labelled images, in memory (:class:`Split`) or decoded from files as they are asked for."""

    @property
    def labels(self) -> Tensor:
        """int64, (N,)."""
        ...

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        ...

    def __len__(self) -> int:
        """Number of images."""
        ...

    def batches(
        self, batch_size: int, *, order: Tensor | None = None, crop_seed: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields (images (B, C, H, W): uint8 or float32, int64 labels (B,)), in ``order`` or as stored."""
        ...

    def subset(self, indices: Tensor) -> AnySplit:
        """The images at ``indices``."""
        ...


@arguments.checked
@dataclass(frozen=True, repr=False, eq=False)
class Split:
    """Labelled images in memory.

    Attributes:
        images: uint8, or float32 for images of more than 8 bits; (N, C, H, W).
        labels: int64, (N,).

    >>> split = Split(torch.zeros(5, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 0, 1, 1]))
    >>> len(split), split.shape, [len(labels) for _, labels in split.batches(2)]
    (5, (1, 8, 8), [2, 2, 1])
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        """Checks types and shapes."""
        if self.images.ndim != 4 or self.images.dtype not in (torch.uint8, torch.float32):
            got = f"{self.images.dtype} {tuple(self.images.shape)}"
            raise InputError(f"Split(images=…) wants uint8 or float32 images of shape (N, C, H, W); got {got}.")
        if self.images.is_floating_point() and not bool(self.images.isfinite().all()):
            raise InputError("Split(images=…) wants finite numbers; got NaN or infinity among them.")
        if self.labels.shape != self.images.shape[:1] or self.labels.dtype != torch.int64:
            got = f"{self.labels.dtype} {tuple(self.labels.shape)} for {len(self.images)} images"
            raise InputError(f"Split(labels=…) wants one int64 label per image; got {got}.")

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    def __repr__(self) -> str:
        """Says how many images of which shape."""
        return f"Split({len(self)} of {'×'.join(map(str, self.shape))})"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    def batches(
        self, batch_size: int, *, order: Tensor | None = None, crop_seed: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields (images, labels) in ``order``; ``crop_seed`` is for streamed splits only."""
        for start in range(0, len(self if order is None else order), batch_size):
            stop = start + batch_size
            if order is None:
                yield self.images[start:stop], self.labels[start:stop]
            else:
                yield self.images[order[start:stop]], self.labels[order[start:stop]]

    def subset(self, indices: Tensor) -> Split:
        """A copy of the images at ``indices``."""
        return Split(self.images[indices], self.labels[indices])


@dataclass(frozen=True)
class DataSet:
    """Training, validation and test images, and how to feed them to a network.

    Attributes:
        name: For instance ``cifar10``.
        classes: Class names; label ``i`` means ``classes[i]``.
        shape: (C, H, W) of every image.
        train: Images to train on (what ``validation`` holds out is not in it).
        validation: Images held out of the training images; may be empty.
        test: Images that no decision is based on.
        mean: Per channel, of pixels divided by ``scale``.
        std: Per channel, of pixels divided by ``scale``.
        pad: Default augmentation: pixels of zero padding before the random crop; 0 for none.
        flip: Default augmentation: mirror half of the images.
        source: Where the images came from (a path as given, or ``embedded``).
        scale: What pixels are divided by before anything else: 255, or for images of more than 8 bits the largest
            number in the training images (:func:`scale_of`).
    """

    name: str
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    train: AnySplit
    validation: AnySplit
    test: AnySplit
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pad: int = 0
    flip: bool = False
    source: str = ""
    scale: float = 255.0

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 or float32 (B, C, H, W) → float32 ``(images / scale − mean) / std``, same memory layout."""
        mean, std = (torch.tensor(v, device=images.device).view(-1, 1, 1) for v in (self.mean, self.std))
        return images.to(torch.float32, copy=True).sub_(mean * self.scale).mul_(1 / (std * self.scale))

    def sample(self, count: int, *, split: str = "train", seed: int = 0) -> Tensor:
        """``count`` normalised images (fewer if there are not so many), drawn with ``seed``.

        Returns:
            float32, (count, C, H, W): calibration data, example inputs.
        """
        parts = [images for images, _ in self.labelled(count, split=split, seed=seed, batch_size=256)]
        return torch.cat(parts) if parts else torch.empty(0, *self.shape)

    def labelled(
        self, count: int, *, split: str = "train", seed: int = 0, batch_size: int = 64
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The same images as :meth:`sample` in batches, with their labels (int64): calibration data for gradients."""
        chosen: AnySplit = getattr(self, split)
        order = torch.randperm(len(chosen), generator=torch.Generator().manual_seed(seed))[:count]
        for images, labels in chosen.batches(batch_size, order=order):
            yield self.normalise(images), labels

    def with_normalisation(self, mean: tuple[float, ...], std: tuple[float, ...]) -> DataSet:
        """The same images with another mean and standard deviation (one value per channel)."""
        channels = self.shape[0]
        if len(mean) != channels or len(std) != channels or min(std, default=0) <= 0:
            raise InputError(
                f"{self.name} has {channels} channels and wants as many means and positive standard "
                f"deviations; got mean {mean} and std {std}."
            )
        return replace(self, mean=tuple(mean), std=tuple(std))


@arguments.checked
def scale_of(split: AnySplit, limit: int = 50_000) -> float:
    """What the pixels of a split are divided by: 255 for bytes, else the largest magnitude that occurs in it.

    So images of 12 bits in files of 16, of 32 bits and of floating-point numbers all come to lie within [−1, 1].

    Args:
        split: The training images.
        limit: How many of them are looked at.
    """
    if limit < 1:
        raise InputError(f"scale_of(limit=…) is how many images are looked at, at least 1; got {limit}.")
    largest = 0.0
    for images, _ in split.batches(500, order=_spread(split, limit)):
        if images.dtype == torch.uint8:
            return 255.0
        largest = max(largest, float(images.abs().max()))
    return largest or 1.0


def _spread(split: AnySplit, limit: int) -> Tensor:
    return torch.arange(len(split))[:: max(1, -(-len(split) // limit))]


@arguments.checked
def statistics(
    split: AnySplit, limit: int = 50_000, *, scale: float | None = None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of (up to ``limit``) images divided by ``scale``.

    Args:
        split: The training images.
        limit: How many of them are looked at.
        scale: By default what :func:`scale_of` gives: 255 for bytes.
    """
    if limit < 1:
        raise InputError(f"statistics(limit=…) is how many images are looked at, at least 1; got {limit}.")
    if scale is None:
        scale = scale_of(split, limit)
    if scale <= 0:
        raise InputError(f"statistics(scale=…) is what pixels are divided by, above 0; got {scale}.")
    channels = split.shape[0]
    total, squares, pixels = torch.zeros(channels).double(), torch.zeros(channels).double(), 0
    for images, _ in split.batches(500, order=_spread(split, limit)):
        values = images.transpose(0, 1).reshape(channels, -1).float() / scale
        total += values.sum(1).double()
        squares += values.square().sum(1).double()
        pixels += values.shape[1]
    mean = total / max(pixels, 1)
    std = (squares / max(pixels, 1) - mean**2).clamp(min=1e-12).sqrt()
    return tuple(round(v, 6) for v in mean.tolist()), tuple(round(max(v, 1e-3), 6) for v in std.tolist())
