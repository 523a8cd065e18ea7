"""Which weights stay: exact counts from scores, in every layer or over the whole network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from secateur.sparsity.patterns import Pattern

__all__ = ["Layer", "by_pattern", "by_ratio", "by_threshold"]

_NEVER = float("-inf")


@dataclass(frozen=True)
class Layer:
    """One layer's scores, ready to be chosen from.

    Attributes:
        name: Of the parameter.
        scores: One per weight, of the weight's shape; float64.
        alive: bool, of the same shape: what earlier masks left. The rest goes first and stays gone.
    """

    name: str
    scores: Tensor
    alive: Tensor

    def units(self, pattern: Pattern) -> Tensor:
        """Mean score per unit, −∞ for units of which nothing is left: float64, (units,)."""
        alive = pattern.split(self.name, self.alive)
        scores = pattern.split(self.name, torch.where(self.alive, self.scores, 0)).mean(1)
        return torch.where(alive.any(1), scores, _NEVER)


def by_ratio(layers: list[Layer], pattern: Pattern, ratios: Mapping[str, float], *, pooled: bool) -> dict[str, Tensor]:
    """Removes the lowest scores until the asked share of the weights is gone, to the nearest unit.

    The order is a stable sort, so counts are exact under ties too. The best unit of every layer stays.

    Args:
        layers: What to choose from.
        pattern: What is removed as one.
        ratios: Share of the weights to remove per layer; with ``pooled`` they are all the same.
        pooled: Rank all layers together instead of each on its own.
    """
    units = {layer.name: layer.units(pattern) for layer in layers}
    size = {layer.name: layer.scores.numel() // len(units[layer.name]) for layer in layers}
    pools = [list(units)] if pooled else [[name] for name in units]
    keep: dict[str, Tensor] = {}
    for pool in pools:
        chosen = _lowest([units[n] for n in pool], [size[n] for n in pool], ratios[pool[0]])
        keep |= dict(zip(pool, chosen, strict=True))
    return {layer.name: _mask(layer, pattern, keep[layer.name]) for layer in layers}


def _lowest(scores: list[Tensor], sizes: list[int], ratio: float) -> list[Tensor]:
    """Which units stay, per layer, when ``ratio`` of the weights of them all together goes."""
    guarded = []
    for values in scores:
        values = values.clone()
        values[values.argmax()] = float("inf")  # no layer empties
        guarded.append(values)
    lengths = [len(values) for values in scores]
    flat = torch.cat(guarded)
    wanted = ratio * sum(n * size for n, size in zip(lengths, sizes, strict=True)) + 1e-9
    if len(set(sizes)) == 1:
        count = min(int(wanted / sizes[0] + 0.5), len(flat) - len(scores))
        return list(torch.split(~_first(flat, count), lengths))
    weight = torch.cat([torch.full((n,), size) for n, size in zip(lengths, sizes, strict=True)])
    order = torch.argsort(flat, stable=True)
    taken = (weight[order].cumsum(0) - weight[order] / 2 <= wanted) & ~torch.isposinf(flat[order])
    keep = torch.ones(len(flat), dtype=torch.bool)
    keep[order[taken]] = False
    return list(torch.split(keep, lengths))


def _first(values: Tensor, count: int) -> Tensor:
    """The ``count`` lowest as a mask, as a stable sort orders them, in linear time."""
    if count == 0:
        return torch.zeros(len(values), dtype=torch.bool)
    edge = float(np.partition(values.numpy(), count - 1)[count - 1])
    lower, equal = values < edge, values == edge
    return lower | (equal & (equal.cumsum(0) <= count - int(lower.sum())))


def by_threshold(layers: list[Layer], pattern: Pattern, thresholds: Mapping[str, float]) -> dict[str, Tensor]:
    """Removes what scores below the layer's threshold; the best unit of every layer stays."""
    found = {}
    for layer in layers:
        units = layer.units(pattern)
        keep = units >= thresholds[layer.name]
        keep[units.argmax()] = True
        found[layer.name] = _mask(layer, pattern, keep)
    return found


def by_pattern(layers: list[Layer], pattern: Pattern) -> dict[str, Tensor]:
    """n:m: of every m consecutive inputs the n highest scores stay, the first ones of equals."""
    found = {}
    for layer in layers:
        runs = pattern.split(layer.name, torch.where(layer.alive, layer.scores, _NEVER))
        order = torch.argsort(runs, dim=1, descending=True, stable=True)
        keep = torch.zeros_like(runs, dtype=torch.bool).scatter_(1, order[:, : pattern.n], True)
        found[layer.name] = pattern.join(keep, layer.scores.shape) & layer.alive
    return found


def _mask(layer: Layer, pattern: Pattern, keep: Tensor) -> Tensor:
    """From units to the weight's shape; what was gone stays gone."""
    entries = pattern.split(layer.name, layer.alive).shape[1]
    return pattern.join(keep[:, None].expand(-1, entries), layer.scores.shape) & layer.alive
