"""Accuracy and loss of a network on a split."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.core.errors import InputError
from secateur.data.types import AnySplit, DataSet
from secateur.train.common import device_of, first_look, in_mode, logits_of
from secateur.train.history import Evaluation

__all__ = ["evaluate", "totals"]


def evaluate(
    model: nn.Module,
    split: AnySplit,
    *,
    data: DataSet,
    batch_size: int = 500,
    precision: Literal["32", "bf16"] = "32",
    device: str | torch.device | None = None,
) -> Evaluation:
    """Evaluates ``model``, which is left as it was found (mode, device, weights).

    Args:
        model: Any module from images (B, C, H, W) to class scores (B, classes); a graph module too.
        split: Usually ``data.test``.
        data: Says how to normalise.
        batch_size: Images per forward pass.
        precision: ``bf16`` runs under automatic mixed precision.
        device: Where to run; by default where the network is.

    Returns:
        Top-1 and top-5 in percent, mean cross-entropy, seconds per image of the forward passes.

    Raises:
        InputError: The network does not fit the data, or the split is empty.
    """
    if not len(split):
        raise InputError(f"There are no images to evaluate on in this split of {data.name}.")
    home = device_of(model)
    target = home if device is None else torch.device(device)
    try:
        model.to(target)
        first_look(model, data)
        seconds = [0.0]
        with in_mode(model, training=False), _autocast(target, precision):
            forward = _timed(model, target, seconds)
            found = totals(forward, split.batches(batch_size), data=data, device=target).tolist()
    finally:
        model.to(home)
    loss, top1, top5, count = found
    return Evaluation(100 * top1 / count, 100 * top5 / count, loss / count, int(count), seconds[0] / count)


def totals(
    forward: Callable[[Tensor], object],
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    data: DataSet,
    device: torch.device,
    layout: torch.memory_format = torch.contiguous_format,
) -> Tensor:
    """Sums over a split: cross-entropy, top-1 hits, top-5 hits, images; float64, (4,), on the CPU."""
    sums = torch.zeros(4, dtype=torch.float64)
    with torch.no_grad():
        for images, labels in batches:
            inputs = data.normalise(images.to(device)).contiguous(memory_format=layout)
            scores = logits_of(forward(inputs)).float().cpu()
            best = scores.topk(min(5, scores.shape[1])).indices == labels[:, None]
            loss = F.cross_entropy(scores, labels, reduction="sum")
            sums += torch.stack([loss, best[:, 0].sum(), best.sum(), torch.tensor(len(labels))]).double()
    return sums


def _timed(model: nn.Module, device: torch.device, seconds: list[float]) -> Callable[[Tensor], object]:
    """Adds the time of each forward pass to ``seconds``."""

    def forward(images: Tensor) -> object:
        start = time.perf_counter()
        output = model(images)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds[0] += time.perf_counter() - start
        return output

    return forward


def _autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    if precision == "bf16":
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()
