"""Accuracy and loss of a network in the runtime that it runs in."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from secateur.core.batches import resize
from secateur.core.modes import evaluating
from secateur.runtimes import RUNTIMES
from secateur.timing.entrants import Entrant
from secateur.train import Evaluation
from secateur.train.evaluate import totals

if TYPE_CHECKING:
    from secateur.data import AnySplit, DataSet
    from secateur.train import Evaluation

__all__ = ["quality", "scores"]

_BATCH = 32


def quality(entrant: Entrant, data: DataSet, split: AnySplit, *, threads: int = 1) -> Evaluation:
    """Runs labelled images through a network in its own runtime.

    Args:
        entrant: What to run.
        data: Says how to normalise.
        split: The images, usually (some of) ``data.test``.
        threads: Threads inside an operator.

    Returns:
        Top-1 and top-5 in percent, mean cross-entropy, images, and seconds per image of the passes.

    Raises:
        InputError: The runtime refuses the file or the images.
    """
    size, seconds = entrant.batch or _BATCH, 0.0
    program = RUNTIMES[entrant.runtime].open(entrant.network, threads, trust=entrant.trust)

    def forward(images: Tensor) -> Tensor:
        nonlocal seconds
        # A file of a fixed batch size gets its last, smaller batch filled up.
        prepared = program.prepare(resize(images, size))
        start = perf_counter()
        found = program.run(prepared)
        seconds += perf_counter() - start
        return program.outputs(found)[0][: len(images)]

    with _settled(entrant.network):
        sums = totals(forward, split.batches(size), data=data, device=torch.device("cpu"))
    loss, top1, top5, count = sums.tolist()
    return Evaluation(100 * top1 / count, 100 * top5 / count, loss / count, int(count), seconds / count)


def scores(
    entrants: Iterable[Entrant], data: DataSet, *, images: int | None = None, threads: int = 1
) -> dict[tuple[str, str], Evaluation]:
    """Scores every network that runs, on the same test images; of fixed batch sizes in the largest.

    Args:
        entrants: What to score.
        data: The test images, and how to normalise them.
        images: How many of them, drawn once; ``None`` for all, 0 for no scores.
        threads: Threads inside an operator.

    Returns:
        By the entrant's label and runtime.
    """
    if images == 0:
        return {}
    split = data.test
    if images is not None and images < len(split):
        split = split.subset(torch.randperm(len(split), generator=torch.Generator().manual_seed(0))[:images])
    ready = sorted((e for e in entrants if not e.problem), key=lambda e: e.batch or _BATCH)
    largest = {(e.label, e.runtime): e for e in ready}
    return {key: quality(entrant, data, split, threads=threads) for key, entrant in largest.items()}


def _settled(network: nn.Module | Path) -> AbstractContextManager[object]:
    return evaluating(network) if isinstance(network, nn.Module) else nullcontext()
