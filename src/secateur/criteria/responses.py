"""Criteria of responses (ThiNet, LASSO): channels are chosen by what the layers that use them would still compute."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import Node

from secateur.criteria.base import GroupView, NotApplicable, criterion
from secateur.criteria.places import Place, places
from secateur.criteria.splitting import Splitter, splitter
from secateur.criteria.statistics import NEEDS, Collecting, Need, Watcher

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

    def __init__(self, setting: Collecting) -> None:
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


@criterion(
    "thinet",
    paper="Luo et al. 2017, ThiNet, arXiv:1707.06342, eq. 6, algorithm 1",
    needs=("responses",),
    order="those first whose loss changes the next response least (ThiNet)",
)
def thinet(view: GroupView) -> Tensor:
    """Greedy selection on the consumers' response: least ‖Σ removed‖² goes first.

    min over T of Σ_i (Σ_{c ∈ T} x̂_ic)², T the removed channels, x̂_ic the part of sampled response i that comes
    from channel c. Grown greedily from the empty set; the score is the place in the order of removal, in (0, 1].
    With several consumers their errors are added, each relative to Σ x̂².

    Raises:
        NotApplicable: No convolution or linear layer uses the channels.
    """
    return _ranks(greedy_order(view.statistic("responses")))


def lasso_order(gram: NDArray[np.float64]) -> list[int]:
    """The order in which channels drop out of the LASSO as its penalty grows.

    min over β of ½‖y − Zβ‖² + α‖β‖₁ with y = Z·1, whose solutions are followed exactly from the α at which all
    are zero down to 0 (least-angle regression with the LASSO's removals, Efron et al. 2004, §3.1). A channel drops
    out at the largest α at which it still takes part. Those that never take part (they say nothing, or nothing
    that others do not) are the first, the smallest ‖z‖ before the others.

    Args:
        gram: ZᵀZ, shape (n, n).

    >>> lasso_order(np.array([[4.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 9.0]]))
    [1, 0, 2]
    """
    path = _Path(gram)
    entered = list(dict.fromkeys(path.entries()))
    silent = [int(c) for c in np.argsort(gram.diagonal(), kind="stable") if c not in set(entered)]
    return silent + entered[::-1]


class _Path:
    """The LASSO's path of solutions, from the largest penalty downwards."""

    def __init__(self, gram: NDArray[np.float64]) -> None:
        self.gram, self.rest = gram, gram.sum(1)  # rest: Zᵀ(y − Zβ)
        self.beta = np.zeros(len(gram))
        self.alpha = float(np.abs(self.rest).max())
        self.active: list[int] = []
        self._store = np.zeros_like(gram)
        self.barred = gram.diagonal() <= 0

    @property
    def inverse(self) -> NDArray[np.float64]:
        """Of the Gram matrix of the active channels."""
        return self._store[: len(self.active), : len(self.active)]

    def entries(self) -> Iterator[int]:
        """Yields channels as they enter."""
        end = 1e-9 * self.alpha
        candidate: int | None = int(np.where(self.barred, -1, np.abs(self.rest)).argmax())
        for _ in range(8 * len(self.gram)):
            if candidate is not None and self._add(candidate):
                yield candidate
            if self.alpha <= end or (not self.active and self.barred.all()):
                return
            candidate = self._step()

    def _step(self) -> int | None:
        """Lowers the penalty until a channel leaves (it is removed) or wants to enter (it is returned)."""
        slope = self.inverse @ np.sign(self.rest[self.active])
        whole = np.zeros(len(self.gram))
        whole[self.active] = slope
        fall = self.gram @ whole
        free = ~self.barred
        free[self.active] = False
        enter, who = self._first_to_enter(fall, free)
        with np.errstate(divide="ignore", invalid="ignore"):
            crossing = -self.beta[self.active] / slope
        leave = np.where(crossing > 1e-12 * self.alpha, crossing, np.inf)
        length = min(enter, float(leave.min(initial=np.inf)), self.alpha)
        self.beta[self.active] += length * slope
        self.rest, self.alpha = self.rest - length * fall, self.alpha - length
        if length < enter and leave.min(initial=np.inf) <= length:
            self._remove(int(leave.argmin()))
            return None
        return who if length == enter else None

    def _first_to_enter(self, fall: NDArray[np.float64], free: NDArray[np.bool_]) -> tuple[float, int]:
        """How far the penalty falls until |rest| of an inactive channel reaches it, and which one that is."""
        with np.errstate(divide="ignore", invalid="ignore"):
            rows = np.stack([(self.alpha - self.rest) / (1 - fall), (self.alpha + self.rest) / (1 + fall)])
        rows = np.where(free & (rows > 1e-12 * self.alpha), rows, np.inf).min(0)
        return float(rows.min()), int(rows.argmin())

    def _add(self, channel: int) -> bool:
        """Adds a channel to the inverse of the active Gram matrix; bars one that the active ones can stand for."""
        across = self.gram[self.active, channel]
        share = self.inverse @ across
        own = self.gram[channel, channel] - across @ share
        if own <= 1e-10 * self.gram[channel, channel]:
            self.barred[channel] = True
            return False
        column = np.append(-share, 1.0)
        self.active.append(channel)
        self._store[len(share)], self._store[:, len(share)] = 0.0, 0.0
        self.inverse[:] += np.outer(column / own, column)
        return True

    def _remove(self, position: int) -> None:
        rest = np.arange(len(self.active)) != position
        column = self.inverse[rest, position]
        left = self.inverse[np.ix_(rest, rest)] - np.outer(column / self.inverse[position, position], column)
        self.beta[self.active.pop(position)] = 0.0
        self.inverse[:] = left


@criterion(
    "lasso",
    paper="He et al. 2017, Channel Pruning, arXiv:1707.06168, eq. 2",
    needs=("responses",),
    order="those first that a growing L1 penalty on the next response drops (LASSO)",
)
def lasso(view: GroupView) -> Tensor:
    """LASSO on the consumers' response: what drops out first as the penalty grows.

    min over β of 1/2N ‖Y − Σ_c β_c X_c W_cᵀ‖² + λ‖β‖₁ on sampled responses Y without bias; the score is the place
    in the order of dropping out, in (0, 1]. With several consumers their errors are added, each relative to Σ x̂².

    Raises:
        NotApplicable: No convolution or linear layer uses the channels.
    """
    return _ranks(lasso_order(view.statistic("responses")))
