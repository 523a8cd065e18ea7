"""Torch-Pruning's cut at given MACs, for benchmarks that set it beside Secateur's."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from secateur.cost.counts import count

CRITERIA = ("group L2", "BN scale")


class NoCutError(Exception):
    """Every ratio gave a network that does not run, or less than was to be left."""


def cut(
    model: nn.Module, x: Tensor, criterion: str, macs: float, *, everywhere: bool, whole: Sequence[str] = ()
) -> nn.Module:
    """The network cut by Torch-Pruning to at least ``macs`` (one sample), as near as its ratio gives.

    Args:
        model: The dense network; a copy is cut.
        x: Example inputs.
        criterion: One of :data:`CRITERIA`.
        macs: What is to be left; the ratio is bisected, and the nearest network *above* is taken.
        everywhere: Rank channels over the whole network (``global_pruning``) instead of the same share of every layer.
        whole: Modules that it is told to leave alone, with all that is in them; by default the last linear layer.

    Raises:
        NoCutError: It made none; the dense network in its place would look like a cut that loses nothing.
    """
    low, high, best = 0.0, 0.97, model
    for _ in range(11):
        middle = (low + high) / 2
        smaller = _pruned(model, x, criterion, middle, everywhere=everywhere, whole=whole)
        if smaller is not None and count(smaller, x[:1]).macs >= macs:
            low, best = middle, smaller
        else:
            high = middle
    if best is model:
        raise NoCutError(f"Torch-Pruning made no cut of {type(model).__name__} that leaves {macs:,.0f} MACs and runs.")
    return best


def _pruned(
    model: nn.Module, x: Tensor, criterion: str, ratio: float, *, everywhere: bool, whole: Sequence[str]
) -> nn.Module | None:
    import torch_pruning as tp

    smaller = copy.deepcopy(model).eval()
    importance = {"group L2": lambda: tp.importance.GroupMagnitudeImportance(p=2),
                  "BN scale": tp.importance.BNScaleImportance}[criterion]()  # fmt: skip
    ignored = [m for name in whole for m in smaller.get_submodule(name).modules()]
    ignored = ignored or [m for m in smaller.modules() if isinstance(m, nn.Linear)][-1:]
    pruner = tp.pruner.MetaPruner(smaller, x[:1], importance=importance, pruning_ratio=ratio, max_pruning_ratio=0.95,
                                  global_pruning=everywhere, ignored_layers=ignored)  # fmt: skip
    try:
        pruner.step()
        with torch.no_grad():
            smaller(x[:1])
    except Exception:  # a cut that it cannot make (an emptied layer) is no candidate
        return None
    return smaller


def estimate_batch_norm(model: nn.Module, batches: Callable[[], Iterator[Tensor]]) -> nn.Module:
    """A copy with running statistics estimated anew (cumulative means), as EagleEye does."""
    again: Any = copy.deepcopy(model).train()
    for module in again.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
            module.momentum = None
        elif isinstance(module, nn.Dropout):
            module.eval()
    with torch.no_grad():
        for x in batches():
            again(x)
    for new, old in zip(again.modules(), model.modules(), strict=True):
        if isinstance(new, nn.modules.batchnorm._BatchNorm):
            new.momentum = old.momentum  # type: ignore[assignment]
    return again.eval()
