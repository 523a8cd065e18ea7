"""Reconstruction criteria: channels are chosen by what the layers that use them would still compute."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import Node

from secateur.criteria.base import GroupView, NotApplicable, criterion
from secateur.criteria.places import Place, places
from secateur.criteria.responses import Splitter, splitter
from secateur.criteria.statistics import NEEDS, Need, Setting, Watcher

__all__ = ["greedy_order", "lasso", "lasso_order", "thinet"]

POSITIONS = 10
"""Sampled positions per sample, as in both papers."""

OUTPUTS = 8
"""Sampled output channels per position."""


class _Consumer:
    """One layer that a group enters: the Gram matrix of its response, split by the group's units."""

    def __init__(self, place: Place, split: Splitter, units: int, seed: Sequence[int]) -> None:
        self.place, self.split = place, split
        self._sampler = np.random.default_rng(seed)
        self.gram = torch.zeros(units, units, dtype=torch.float64)

    def add(self, value: Tensor) -> None:
        """Adds x̂ᵀx̂ of sampled rows x̂, the parts of one response that come from each unit."""
        parts = self.split.rows(value, self._sampler, POSITIONS, OUTPUTS)
        own = torch.nonzero(self.place.index >= 0).ravel()
        index = self.place.index[own].to(parts.device)
        rows = torch.zeros(len(parts), len(self.gram), dtype=torch.float64, device=parts.device)
        rows.index_add_(1, index, parts[:, own.to(parts.device)].double())
        self.gram += (rows.T @ rows).cpu()


class _Responses(Watcher):
    """Adds up Gram matrices of sampled responses: n² numbers for each layer that n units enter."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._consumers: list[_Consumer] = []
        for split in filter(None, (splitter(self.groups.flow, n) for n in self.groups.flow.macs)):
            for place in places(self.groups, [split.source]):
                if place.dim == split.dim:
                    size = len(self.groups.items[place.group])
                    self._consumers.append(_Consumer(place, split, size, [setting.seed, len(self._consumers)]))
        self.nodes = [c.split.node for c in self._consumers]

    def see(self, node: Node, value: Tensor, inputs: Sequence[Any]) -> None:
        for consumer in self._consumers:
            if consumer.split.node is node:
                consumer.add(inputs[0])

    def of(self, number: int) -> NDArray[np.float64]:
        grams = [c.gram for c in self._consumers if c.place.group == number]
        if not grams:
            raise NotApplicable(
                f"the channels of {self.groups.items[number].name!r} enter no convolution or linear layer whose "
                "response can be split by channel"
            )
        scaled = [g / g.trace().clamp_min(torch.finfo(torch.float64).tiny) for g in grams]
        return np.asarray(torch.stack(scaled).mean(0).numpy())


NEEDS.add("responses", Need(_Responses, "inputs"))


def _ranks(order: Sequence[int]) -> Tensor:
    """Scores in (0, 1] from the order in which units go: the first gets the lowest."""
    scores = torch.empty(len(order), dtype=torch.float64)
    scores[torch.as_tensor(order)] = torch.arange(1, len(order) + 1, dtype=torch.float64) / len(order)
    return scores


def greedy_order(gram: NDArray[np.float64]) -> list[int]:
    """The order in which ThiNet removes channels: next goes whichever keeps ‖Σ_{removed} x̂‖² smallest.

    Args:
        gram: Σ over responses of x̂ᵀx̂, shape (n, n).

    >>> greedy_order(np.array([[4.0, -3.9, 0.0], [-3.9, 4.0, 0.0], [0.0, 0.0, 3.0]]))
    [2, 0, 1]
    """
    left = np.ones(len(gram), dtype=bool)
    cross, total, order = np.zeros(len(gram)), 0.0, []
    for _ in range(len(gram)):
        error = np.where(left, total + 2 * cross + gram.diagonal(), np.inf)
        pick = int(error.argmin())
        total, cross, left[pick] = float(error[pick]), cross + gram[pick], False
        order.append(pick)
    return order


@criterion("thinet", paper="Luo et al. 2017, ThiNet, arXiv:1707.06342, eq. 6, algorithm 1", needs=("responses",))
def thinet(view: GroupView) -> Tensor:
    """Greedy selection on the consumers' response: least ‖Σ removed‖² goes first.

    min over T of Σ_i (Σ_{c ∈ T} x̂_ic)², T the removed channels, x̂_ic the part of sampled response i that comes
    from channel c. Grown greedily from the empty set; the score is the place in the order of removal, in (0, 1].
    With several consumers their errors are added, each relative to Σ x̂².

    Raises:
        NotApplicable: No convolution or linear layer uses the channels.
    """
    return _ranks(greedy_order(view.statistic("responses")))


def lasso_order(gram: NDArray[np.float64], steps: int = 60, sweeps: int = 100) -> list[int]:
    """The order in which channels drop out of the LASSO as its penalty grows.

    min over β of ½‖y − Zβ‖² + α‖β‖₁ with y = Z·1, by coordinate descent on G = ZᵀZ for α from 1e-4 of the value
    at which everything is zero up to that value, each solution starting the next. Channels that leave between the
    same two α are told apart by their last |β|·‖z‖.

    Args:
        gram: G, shape (n, n).
        steps: How many values of α, a geometric row.
        sweeps: Most passes over the coordinates for one α.
    """
    target, scale = gram.sum(1), np.sqrt(gram.diagonal())
    beta = np.ones(len(gram))
    top = float(np.abs(target).max())
    last, size = np.full(len(gram), -1), scale.copy()
    for step, alpha in enumerate(top * np.geomspace(1e-4, 1, steps)):
        beta = _lasso(gram, target, alpha, beta, sweeps)
        alive = np.abs(beta) > 0
        last[alive], size[alive] = step, (np.abs(beta) * scale)[alive]
    return [int(c) for c in np.lexsort((size, last))]


def _lasso(
    gram: NDArray[np.float64], target: NDArray[np.float64], alpha: float, beta: NDArray[np.float64], sweeps: int
) -> NDArray[np.float64]:
    """Coordinate descent: β_c ← soft(z_c·(residual without c), α) / ‖z_c‖², until nothing moves."""
    beta, diagonal = beta.copy(), gram.diagonal()
    rest = target - gram @ beta
    for _ in range(sweeps):
        moved = 0.0
        for c in np.flatnonzero(diagonal > 0):
            pull = rest[c] + diagonal[c] * beta[c]
            new = np.sign(pull) * max(abs(pull) - alpha, 0.0) / diagonal[c]
            change = new - beta[c]
            if change:
                beta[c] = new
                rest -= gram[c] * change
                moved = max(moved, abs(change) * np.sqrt(diagonal[c]))
        if moved <= 1e-7 * np.sqrt(diagonal.max()):
            break
    beta[diagonal <= 0] = 0
    return beta


@criterion("lasso", paper="He et al. 2017, Channel Pruning, arXiv:1707.06168, eq. 2", needs=("responses",))
def lasso(view: GroupView) -> Tensor:
    """LASSO on the consumers' response: what drops out first as the penalty grows.

    min over β of 1/2N ‖Y − Σ_c β_c X_c W_cᵀ‖² + λ‖β‖₁ on sampled responses Y without bias; the score is the place
    in the order of dropping out, in (0, 1]. With several consumers their errors are added, each relative to Σ x̂².

    Raises:
        NotApplicable: No convolution or linear layer uses the channels.
    """
    return _ranks(lasso_order(view.statistic("responses")))
