"""Gradient criteria: what removing a unit does to the loss, to first and second order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from secateur.core.cross_entropy import default_cross_entropy
from secateur.core.errors import InputError
from secateur.core.inputs import Batch, pieces
from secateur.core.types import Member
from secateur.criteria.base import GroupView, criterion
from secateur.criteria.statistics import NEEDS, Collecting, Learner, Need, check_run, runs
from secateur.graph.writes import written

__all__ = ["Gradients", "default_loss", "obd", "snip", "taylor"]


@dataclass(frozen=True)
class Gradients:
    """What the loss does when a group's units are scaled; means over samples, L the loss of one sample.

    Attributes:
        squared: Mean of (∂L/∂m)², shape (n,), m = 1 a factor of the unit where it enters its consumers.
        first: Mean of ∂L/∂m over the first batch, shape (n,).
        fisher: Σ over the unit's weights of w² · mean (∂L/∂w)², shape (n,).
    """

    squared: Tensor
    first: Tensor
    fisher: Tensor


class _Gradients(Learner):
    """Adds up three numbers per unit, from the gradients of one sample at a time.

    One at a time, because squares are taken of a sample's gradients: how the data are cut into batches then makes
    no difference. (A network that takes a single size of batch gets that, and the mean loss of it.) It costs the
    arithmetic of one forward and backward pass over the data, without what a larger batch would save in overhead.
    """

    def __init__(self, setting: Collecting) -> None:
        super().__init__(setting)
        self._loss = setting.loss
        self._module = self.groups.flow.traced.module
        views = [GroupView(g, self.groups, torch.Generator()) for g in self.groups.items]
        shared: dict[int, Tensor] = {}  # tied weights are one leaf under all of their names
        named = self._module.named_parameters(remove_duplicate=False)
        real = [(n, p) for n, p in named if p.is_floating_point()]
        self._leaves = {n: shared.setdefault(id(p), p.detach().requires_grad_()) for n, p in real}
        self._sums = [_Sums(v, self._leaves) for v in views]
        self._changes = bool(written(self._module))  # a network that changes itself changes copies, made each time
        self._seen = self._first = self._size = 0

    def learn(self, batch: Batch) -> None:
        traced = self.groups.flow.traced
        first = batch.number == 1
        self._size = self._size or (1 if traced.dynamic and runs(traced, batch, 1) else traced.batch)
        for sample in pieces(batch, self._size, traced):
            products = self._products(sample)
            squares = {n: p.square() for n, p in products.items()}
            self._seen += 1
            self._first += first
            for sums in self._sums:
                sums.add(products, squares, first=first)

    def _products(self, sample: Batch) -> dict[str, Tensor]:
        """g·w of every weight, for one sample."""
        values = {**self._leaves, **(written(self._module) if self._changes else {})}
        args, kwargs = sample.copied()
        output = functional_call(self._module, values, args, kwargs)
        loss = self._loss(output, sample.labels) if self._loss is not None else default_loss(output, sample)
        if not torch.isfinite(loss):
            check_run(self.groups.flow.traced, sample)
            raise InputError(
                f"The loss is {float(loss)} on batch {sample.number} of the data; scores would mean nothing."
            )
        leaves = list({id(w): w for w in self._leaves.values()}.values())
        found = torch.autograd.grad(loss, leaves, allow_unused=True)
        product = {id(w): (g * w).detach().float() for w, g in zip(leaves, found, strict=True) if g is not None}
        return {n: product[id(w)] for n, w in self._leaves.items() if id(w) in product}

    def of(self, number: int) -> Gradients:
        sums = self._sums[number]
        return Gradients(sums.squared / self._seen, sums.first / max(self._first, 1), sums.fisher / self._seen)


class _Sums:
    """The three sums of one group."""

    def __init__(self, view: GroupView, weights: Mapping[str, Tensor]) -> None:
        self._every = [_Slices(view, m, weights[m.parameter]) for m in view.parameters if m.parameter in weights]
        entered = [s for s in self._every if s.member.consumes]
        self._gate = entered or self._every
        self.squared, self.first, self.fisher = (torch.zeros(len(view), dtype=torch.float64) for _ in range(3))

    def add(self, products: Mapping[str, Tensor], squares: Mapping[str, Tensor], *, first: bool) -> None:
        gate = torch.zeros_like(self.first)
        for part in self._gate:
            part.add(gate, products)
        self.squared += gate.square()
        self.first += gate * first
        for part in self._every:
            part.add(self.fisher, squares)


class _Slices:
    """Where the units of a group are in one weight."""

    def __init__(self, view: GroupView, member: Member, weight: Tensor) -> None:
        index = view.index(member)
        self.member = member
        self._own = torch.nonzero(index >= 0).ravel()
        self._unit = index[self._own]
        self._others = [d for d in range(weight.ndim) if d != member.dim]

    def add(self, total: Tensor, values: Mapping[str, Tensor]) -> None:
        """Adds the sum over every unit's entries to ``total``."""
        value = values.get(self.member.parameter)  # absent where the loss does not depend on it
        if value is not None:
            rows = value.sum(self._others) if self._others else value
            total.index_add_(0, self._unit, rows.double().cpu()[self._own])


def default_loss(output: Any, sample: Batch) -> Tensor:
    """Mean cross-entropy of a batch, where nobody gave a loss.

    Raises:
        InputError: It does not fit what the network gives, or the labels.
    """
    labels = sample.labels
    if not isinstance(output, Tensor) or not isinstance(labels, Tensor):
        raise InputError(
            f"Gradients need one number to differentiate: the network gives a {type(output).__name__} and the labels "
            f"are a {type(labels).__name__}, so cross-entropy does not fit. Give loss=, a function of both."
        )
    try:
        return default_cross_entropy(output, labels)
    except InputError as error:
        raise InputError(f"Batch {sample.number} of the data: {error}") from error


NEEDS.add("gradients", Need(_Gradients, "inputs, labels"))


@criterion("taylor", paper="Molchanov et al. 2019, arXiv:1906.10771, §3", needs=("gradients",), absolute=True)
def taylor(view: GroupView) -> Tensor:
    """First-order effect on the loss, squared: E[(Σ g·w)²].

    Formula: I = E[(Σ_{s ∈ S} g_s w_s)²], the joint contribution of a set S, which is the paper's gate (∂L/∂z)²: S
    are the weights through which the unit enters its consumers (all of its weights where it enters none), so that
    Σ g·w is the derivative of the loss by a factor of the unit. Squares are of single samples.

    Raises:
        InputError: Data without labels.
    """
    found: Gradients = view.statistic("gradients")
    return found.squared


@criterion("snip", paper="Lee et al. 2019, SNIP, arXiv:1810.02340, eq. 5", needs=("gradients",), absolute=True)
def snip(view: GroupView) -> Tensor:
    """Sensitivity of the loss to the unit's mask on the first batch: |Σ g·w|.

    Formula: |∂L/∂m|, where m is one factor of all weights through which the unit enters its consumers. The paper
    divides by the sum over the network, which changes no order.

    Raises:
        InputError: Data without labels.
    """
    found: Gradients = view.statistic("gradients")
    return found.first.abs()


@criterion(
    "obd",
    paper="LeCun et al. 1990, Optimal Brain Damage, §2; Fisher: arXiv:1801.05787",
    needs=("gradients",),
    absolute=True,
)
def obd(view: GroupView) -> Tensor:
    """Second-order effect on the loss with a diagonal Hessian: Σ ½·h·w².

    The sum is over the unit's weights and everything coupled to it. h is the diagonal of the Hessian, taken as the
    empirical Fisher information: h = E[(∂L/∂w)²] over samples, with the given labels.

    Raises:
        InputError: Data without labels.
    """
    found: Gradients = view.statistic("gradients")
    return found.fisher / 2
