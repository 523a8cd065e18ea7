"""Large image folders: decoded by worker processes as the batches are asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from secateur.core.errors import DataError
from secateur.data.decode import decode

__all__ = ["StreamedSplit"]

_WORKERS = min(8, os.cpu_count() or 1)
_Batch = tuple[Tensor, Tensor] | str


@dataclass(frozen=True, repr=False, eq=False)
class StreamedSplit:
    """Labelled image files.

    Attributes:
        files: One path per image.
        labels: int64, (N,).
        shape: (C, H, W) that every file is scaled and cropped to.
        workers: Processes that decode; 0 decodes in the calling process.
        deep: Whether they have more than 8 bits, and are given as float32.
    """

    files: tuple[Path, ...]
    labels: Tensor
    shape: tuple[int, int, int]
    workers: int = _WORKERS
    deep: bool = False

    def __len__(self) -> int:
        """Number of images."""
        return len(self.files)

    def __repr__(self) -> str:
        """Says how many images of which shape."""
        return f"StreamedSplit({len(self)} of {'×'.join(map(str, self.shape))})"

    def batches(
        self, batch_size: int, *, order: Tensor | None = None, crop_seed: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields (uint8 or float32 images, labels) in ``order``.

        With ``crop_seed`` every image is a random crop that depends on the seed and the image alone, so
        that it is the same with any number of workers.

        Raises:
            DataError: A file is damaged; the message names it.
        """
        chosen = (torch.arange(len(self)) if order is None else order).tolist()
        loader: DataLoader[_Batch] = DataLoader(
            _Files(self, crop_seed),  # type: ignore[arg-type]
            batch_size=batch_size,
            sampler=chosen,
            num_workers=self.workers if len(chosen) > batch_size else 0,
            collate_fn=_collate,
            generator=torch.Generator().manual_seed(0),  # else it would draw from the global one
        )
        for batch in loader:
            if isinstance(batch, str):
                raise DataError(batch)
            yield batch

    def subset(self, indices: Tensor) -> StreamedSplit:
        """The images at ``indices``."""
        files = tuple(self.files[i] for i in indices.tolist())
        return StreamedSplit(files, self.labels[indices], self.shape, self.workers, self.deep)


_Item = tuple[Tensor, int] | str


class _Files(Dataset[_Item]):
    """Decodes one file; a damaged one becomes its error message, which crosses processes unharmed."""

    def __init__(self, split: StreamedSplit, crop_seed: int | None) -> None:
        self.split, self.crop_seed = split, crop_seed

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> _Item:
        seed = None if self.crop_seed is None else f"{self.crop_seed}/{index}"
        try:
            image = decode(self.split.files[index], self.split.shape, deep=self.split.deep, crop_seed=seed)
        except DataError as error:
            return str(error)
        return image, int(self.split.labels[index])


def _collate(items: list[_Item]) -> _Batch:
    images, labels = [], []
    for item in items:
        if isinstance(item, str):
            return item
        images.append(item[0])
        labels.append(item[1])
    return torch.stack(images), torch.tensor(labels)
