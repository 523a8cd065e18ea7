"""LASSO pruning: channels are chosen by what the layers that use them have to give, as the dense network does."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import Node

from secateur.core.inputs import Batch
from secateur.core.plan import Plan
from secateur.criteria.base import GroupView, criterion
from secateur.criteria.least_squares.layout import transposed
from secateur.criteria.least_squares.sites import Site, sites
from secateur.criteria.responses import Consumer, consumers, of_group, ranks
from secateur.criteria.statistics import NEEDS, Collecting, Learner, Need, Watcher, watch
from secateur.graph.flow import Flow

__all__ = ["lasso", "lasso_order"]


class _Kept(Watcher):
    """What some operators gave for the last batch."""

    def __init__(self, setting: Collecting, nodes: Sequence[Node]) -> None:
        super().__init__(setting)
        self.nodes = nodes
        self.values: dict[Node, Tensor] = {}
        self.inputs: dict[Node, Tensor] = {}

    def see(self, node: Node, value: Tensor, inputs: Sequence[Any]) -> None:
        self.values[node] = value
        if inputs:
            self.inputs[node] = inputs[0]

    def of(self, number: int) -> Any:
        raise NotImplementedError  # it keeps values of operators, not of groups


@dataclass(frozen=True)
class _Pair:
    """A layer in the network as it is and in the dense one.

    Attributes:
        now: The layer as it is.
        dense: The same layer in the dense network.
        outputs: Which of its dense outputs it still has.
        dim: Dimension of the response that they lie in.
    """

    now: Site
    dense: Site
    outputs: Tensor
    dim: int

    @property
    def skips(self) -> bool:
        """Whether what a shortcut brings counts: the sum is what the dense network gave."""
        return self.now.skip is not None and self.dense.skip is not None

    def target(self, flow: Flow, now: Mapping[Node, Tensor], dense: Mapping[Node, Tensor]) -> tuple[Tensor, Tensor]:
        """The response without bias that the layer has to give, and the factor of every output, shape (O,).

        Behind a shortcut both are of the batch normalisation's output, to which the shortcut is added.
        """
        value = self._kept(dense[self.dense.node])
        factor = value.new_ones(value.shape[self.dim])
        shape = [-1 if d == self.dim else 1 for d in range(value.ndim)]
        if self.now.bias is not None:
            value = value - _tensor(flow, self.now.bias).to(value).reshape(shape)
        if not self.skips:
            return value, factor
        norm = self.now.norm
        if norm is not None:
            assert norm.weight is not None  # a site has no other
            sigma = (_tensor(flow, norm.var) + norm.eps).sqrt()
            factor = (_tensor(flow, norm.weight) / sigma).to(value)
        assert self.now.skip is not None
        assert self.dense.skip is not None
        brought = self._kept(dense[self.dense.skip]) - now[self.now.skip]
        return value * factor.reshape(shape) + brought, factor

    def _kept(self, value: Tensor) -> Tensor:
        return value.index_select(self.dim, self.outputs.to(value.device))


def _tensor(flow: Flow, name: str) -> Tensor:
    found: Tensor = operator.attrgetter(name)(flow.traced.module)
    return found.detach()


class _DenseResponses(Learner):
    """Gram matrices ZᵀZ of responses split by unit, and Zᵀy with the dense network's responses y."""

    def __init__(self, setting: Collecting) -> None:
        super().__init__(setting)
        flow, dense = self.groups.flow, setting.dense
        self._consumers = consumers(self.groups, setting.seed)
        self._dense = None if dense is None or dense.flow is None else dense.flow()
        if dense is not None and self._dense is None:
            self.notes = ("the network before its first cut is not known here (copies and files drop it), so lasso "
                          "fits what the network gives now",)  # fmt: skip
        self._pairs = {} if self._dense is None or dense is None else _pairs(flow, self._dense, dense.plan)
        self._right = [torch.zeros(len(c.gram), dtype=torch.float64) for c in self._consumers]
        skips = [n for pair in self._pairs.values() if pair.skips for n in (pair.now.skip, pair.dense.skip) if n]
        own, others = {*flow.traced.nodes}, [pair.dense.node for pair in self._pairs.values()]
        self._now = _Kept(setting, [*(c.split.node for c in self._consumers), *(n for n in skips if n in own)])
        self._then = _Kept(setting, [*others, *(n for n in skips if n not in own)])

    def learn(self, batch: Batch) -> None:
        if self._dense is not None and self._pairs:
            watch(self._dense.traced, [self._then], batch)
        watch(self.groups.flow.traced, [self._now], batch)
        for number, consumer in enumerate(self._consumers):
            self._add(number, consumer)
        for kept in (self._now, self._then):
            kept.values.clear()
            kept.inputs.clear()

    def _add(self, number: int, consumer: Consumer) -> None:
        node = consumer.split.node
        value, pair = self._now.inputs[node], self._pairs.get(node)
        drawn = consumer.draw(value)
        rows = consumer.rows(value, drawn)
        if pair is None:
            y = consumer.split.rows_at(value, drawn).double().sum(1)
        else:
            target, factor = pair.target(self.groups.flow, self._now.values, self._then.values)
            y = consumer.split.pick(target, drawn).double()
            rows = rows * factor[drawn.output].flatten().double()[:, None]
        consumer.gram += (rows.T @ rows).cpu()
        self._right[number] += (rows.T @ y).cpu()

    def of(self, number: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        found = of_group(self._consumers, self.groups, number)
        right = {id(c): r for c, r in zip(self._consumers, self._right, strict=True)}
        grams, rights = [c.gram / c.scale for c in found], [right[id(c)] / c.scale for c in found]
        return np.asarray(torch.stack(grams).mean(0).numpy()), np.asarray(torch.stack(rights).mean(0).numpy())


def _pairs(flow: Flow, dense: Flow, plan: Plan) -> dict[Node, _Pair]:
    """The layers that both networks have, by their operator in the first; they are called alike."""
    then = {site.weight: site for site in sites(dense)}
    found = {}
    for site in sites(flow):
        other = then.get(site.weight)
        if other is None:
            continue
        dim = int(transposed(other.node))
        every = range(dense.tensors[site.weight].shape[dim])
        kept = torch.as_tensor(plan.keep.get(site.weight, {}).get(dim, tuple(every)))
        if len(kept) == flow.tensors[site.weight].shape[dim]:
            response = other.node.meta["val"]
            found[site.node] = _Pair(site, other, kept, 1 if len(flow.tensors[site.weight].shape) > 2 else
                                     response.ndim - 1)  # fmt: skip
    return found


NEEDS.add("dense_responses", Need(_DenseResponses, "inputs"))


def lasso_order(gram: NDArray[np.float64], right: NDArray[np.float64] | None = None) -> list[int]:
    """The order in which channels drop out of the LASSO as its penalty grows.

    min over β of ½‖y − Zβ‖² + α‖β‖₁, whose solutions are followed exactly from the α at which all
    are zero down to 0 (least-angle regression with the LASSO's removals, Efron et al. 2004, §3.1). A channel drops
    out at the largest α at which it still takes part. Those that never take part (they say nothing, or nothing
    that others do not) are the first, the smallest ‖z‖ before the others.

    Args:
        gram: ZᵀZ, shape (n, n).
        right: Zᵀy, shape (n,); by default of y = Z·1, the response that all channels give together.

    >>> lasso_order(np.array([[4.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 9.0]]))
    [1, 0, 2]
    >>> lasso_order(np.eye(3), np.array([0.5, 2.0, -1.0]))
    [0, 2, 1]
    """
    path = _Path(gram, gram.sum(1) if right is None else right)
    entered = list(dict.fromkeys(path.entries()))
    silent = [int(c) for c in np.argsort(gram.diagonal(), kind="stable") if c not in set(entered)]
    return silent + entered[::-1]


class _Path:
    """The LASSO's path of solutions, from the largest penalty downwards."""

    def __init__(self, gram: NDArray[np.float64], right: NDArray[np.float64]) -> None:
        self.gram, self.rest = gram, right.copy()  # rest: Zᵀ(y − Zβ)
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
    needs=("dense_responses",),
    order="those first that a growing L1 penalty on the next response drops (LASSO)",
)
def lasso(view: GroupView) -> Tensor:
    """LASSO on the consumers' response: what drops out first as the penalty grows.

    min over β of 1/2N ‖Y − Σ_c β_c X_c W_cᵀ‖² + λ‖β‖₁ on sampled responses Y without bias; the score is the place
    in the order of dropping out, in (0, 1]. X is what the network computes now. Y is what the network before its first
    cut gives there, where that is known (§3.2 of the paper, whole model pruning: errors of earlier cuts are made good),
    else what the network gives now; behind a residual branch less what the shortcut brings. With several consumers
    their errors are added, each relative to Σ x̂².

    Raises:
        NotApplicable: No convolution or linear layer uses the channels.
    """
    gram, right = view.statistic("dense_responses")
    return ranks(lasso_order(gram, right))
