"""Weight sharing: every layer's weights take one of a few values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from secateur.core import arguments
from secateur.core.checks import check_weights
from secateur.core.errors import InputError
from secateur.core.patterns import checked, covered
from secateur.sparsity.masks import copied, weights_of
from secateur.train.extras import Extra

__all__ = ["HoldShared", "bits_of", "codebook", "share_weights"]

Bits = int | Mapping[str, int]


def codebook(values: NDArray[np.float32], bits: int, *, rounds: int = 100) -> NDArray[np.float32]:
    """k-means in one dimension, k = 2^bits, from a linear start.

    Han et al. 2016, Deep Compression, arXiv:1510.00149, §3: minimises Σ |w − c|² by Lloyd's algorithm; centroids
    start evenly between the smallest and the largest weight, which keeps the few large weights well represented
    (here without the gap around zero that pruning leaves, where a centroid would find no weights).
    Values of which there are no more than k different ones are their own centroids. Exact on sorted values, with
    running sums: O(n log n + rounds · k log n).

    Args:
        values: (n,), n ≥ 1.
        bits: 1 to 8.
        rounds: At most so many; it stops when no centroid moves.

    Returns:
        Ascending different centroids that are in use: float32, (≤ 2^bits,).

    >>> codebook(np.array([-1.0, -0.9, 1.0, 1.1], dtype=np.float32), 1)
    array([-0.95,  1.05], dtype=float32)
    """
    ordered = np.sort(values.reshape(-1).astype(np.float64))
    different = np.unique(ordered)
    if len(different) <= 2**bits:
        return different.astype(np.float32)
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    centroids = _evenly(ordered, 2**bits)
    for _ in range(rounds):
        edges = np.searchsorted(ordered, (centroids[1:] + centroids[:-1]) / 2)
        edges = np.concatenate([[0], edges, [len(ordered)]])
        counts = np.diff(edges)
        used = counts > 0
        moved = np.where(used, np.diff(sums[edges]) / np.maximum(counts, 1), centroids)
        if np.array_equal(moved, centroids):
            break
        centroids = moved
    return np.unique(centroids[used].astype(np.float32))


def _evenly(ordered: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Evenly spaced numbers from the first to the last, skipping the gap around zero."""
    middle = int(np.searchsorted(ordered, 0.0))
    gap = ordered[middle] - ordered[middle - 1] if 0 < middle < len(ordered) else 0.0
    spots: NDArray[np.float64] = np.linspace(0.0, ordered[-1] - ordered[0] - gap, count) + ordered[0]
    edge = ordered[middle - 1] if gap else ordered[-1]
    spots[spots > edge] += gap
    return spots


def assign(values: NDArray[np.float32], centroids: NDArray[np.float32]) -> NDArray[np.int64]:
    """Index of the nearest centroid of every value; ``centroids`` ascend."""
    middles = (centroids[1:].astype(np.float64) + centroids[:-1]) / 2
    return np.searchsorted(middles, values.astype(np.float64))


def bits_of(model: nn.Module, bits: Bits, weights: Iterable[str]) -> dict[str, int]:
    """Bits of every weight: one number for all, or by layer name or pattern (the last that fits counts).

    Raises:
        InputError: Not 1 to 8.
        UnknownNameError: A name that fits nothing.
    """
    table = bits if isinstance(bits, Mapping) else {"*": bits}
    for name, number in table.items():
        if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= 8:
            raise InputError(f"bits are whole numbers from 1 to 8; got {number!r} for {name!r}.")
    checked(table, [n for n, _ in model.named_modules() if n] + [n for n, _ in model.named_parameters()], "bits")
    found = {n: [number for name, number in table.items() if covered(n, [name])] for n in weights}
    return {n: numbers[-1] for n, numbers in found.items() if numbers}


@arguments.checked
def share_weights(
    model: nn.Module, bits: Bits = 5, *, only: Iterable[str] | None = None, ignore: Iterable[str] = ()
) -> nn.Module:
    """Gives every layer's weights at most 2^bits values; zeros stay zero.

    Args:
        model: It is left untouched.
        bits: 1 to 8; or by layer name or pattern, other layers being left alone.
        only: Modules or parameters that alone are dealt with.
        ignore: Modules or parameters that are left alone.

    Returns:
        A new network.

    Raises:
        InputError: Bits out of range, whole-number weights.
        UnknownNameError: A name that fits nothing.
    """
    check_weights(model)
    shared = copied(model)
    weights = weights_of(shared, only=only, ignore=ignore)
    with torch.no_grad():
        for name, number in bits_of(model, bits, weights).items():
            weight = weights[name]
            values = weight.detach().float().cpu().numpy()
            stays = values != 0
            if stays.any():
                centroids = codebook(values[stays], number)
                shared_values = np.zeros_like(values)
                shared_values[stays] = centroids[assign(values[stays], centroids)]
                weight.copy_(torch.from_numpy(shared_values))
    return shared


class HoldShared(Extra):
    """Trains shared weights: all weights of one value keep one value, zeros stay zero.

    The gradient of a centroid is that of its weights (arXiv:1510.00149, eq. 3). Here their mean stands for the
    paper's sum, so that a step does not grow with the number of weights that share the centroid.
    """

    @arguments.checked
    def __init__(self, only: Iterable[str] | None = None, ignore: Iterable[str] = ()) -> None:
        """``only`` and ``ignore``: as in :func:`share_weights`."""
        self.only = None if only is None else tuple(only)
        self.ignore = tuple(ignore)
        self._shared: list[tuple[nn.Parameter, Tensor, Tensor]] = []
        self._codes: dict[str, Tensor] = {}

    def settings(self) -> dict[str, Any]:
        """What is shared."""
        chosen = {"only": None if self.only is None else list(self.only), "ignore": list(self.ignore)}
        return {**super().settings(), **chosen}

    @torch.no_grad()
    def start(self, model: nn.Module, steps_per_epoch: int, epochs: int) -> None:
        """Reads the values off the weights, unless a checkpoint said which weights belong together."""
        self._shared = []
        for name, weight in weights_of(model, only=self.only, ignore=self.ignore).items():
            if name not in self._codes:
                values, codes = torch.unique(weight.detach().cpu(), return_inverse=True)
                if len(values) > 257:
                    continue
                zero = int((values == 0).nonzero()[0]) if (values == 0).any() else -1
                # Zeros get the code 0, values follow from 1.
                codes = torch.where(codes == zero, 0, codes + 1 - ((codes > zero) & (zero >= 0)).long())
                self._codes[name] = codes.to(torch.int16)
            codes = torch.empty_like(weight, dtype=torch.int64).copy_(self._codes[name])
            counts = codes.flatten().bincount().clamp_min(1)
            self._shared.append((weight, codes, counts))

    @torch.no_grad()
    def gradients(self, model: nn.Module) -> None:
        """Every weight gets the mean gradient of those it shares its value with."""
        for weight, codes, counts in self._shared:
            if weight.grad is not None:
                weight.grad.copy_(self._means(weight.grad, codes, counts))

    @torch.no_grad()
    def weights(self, model: nn.Module) -> None:
        """Rounding may part weights that share a value; their mean joins them again."""
        for weight, codes, counts in self._shared:
            weight.copy_(self._means(weight, codes, counts))

    @staticmethod
    def _means(values: Tensor, codes: Tensor, counts: Tensor) -> Tensor:
        """The mean of each code at its places, zero for code 0."""
        sums = torch.zeros(len(counts), dtype=torch.float64, device=values.device)
        means = sums.index_add_(0, codes.flatten(), values.flatten().double()) / counts
        means[0] = 0
        return means.to(values.dtype)[codes]

    def state_dict(self) -> dict[str, Any]:
        """Which weights share a value."""
        return {"codes": self._codes}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes it back."""
        self._codes = dict(state["codes"])
