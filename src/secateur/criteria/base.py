"""What a criterion sees of a group, and how one is registered."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from secateur.core import arguments
from secateur.core.errors import InputError, UnknownNameError
from secateur.core.registry import Registry
from secateur.core.types import Member
from secateur.graph.groups import Group, Groups
from secateur.graph.labels import Vector
from secateur.graph.scales import scale_names

__all__ = ["CRITERIA", "KINDS", "Criterion", "GroupView", "NotApplicable", "criterion", "of_kind"]


class NotApplicable(InputError):
    """A criterion has nothing to say of one group: it is left whole and named, unless that is true of every group."""


@dataclass(frozen=True)
class GroupView:
    """A group with the numbers behind it.

    Attributes:
        group: The group.
        groups: All groups of the network.
        generator: Source of randomness for criteria that need one.
        statistics: What was collected of the group, by the names in the criterion's ``needs``; the reason where
            the network has nothing to collect.
        read: Gives a parameter's values by its name, where the network's own are on the meta device.
    """

    group: Group
    groups: Groups
    generator: torch.Generator
    statistics: Mapping[str, Any] = field(default_factory=dict)
    read: Callable[[str], Tensor] | None = None

    def statistic(self, need: str) -> Any:
        """What was collected of the group under the name ``need`` (see `secateur.criteria.statistics.NEEDS`).

        Raises:
            NotApplicable: The network has nothing of the kind for this group.
            InputError: It was not asked for.
        """
        if need not in self.statistics:
            raise InputError(f"No {need} were collected: register the criterion with needs=({need!r},).")
        found = self.statistics[need]
        if isinstance(found, NotApplicable):
            raise found
        return found

    def __len__(self) -> int:
        """Number of units n."""
        return len(self.group)

    @cached_property
    def batch_norm_scales(self) -> frozenset[str]:
        """Names of the parameters that are the scale γ of a batch normalisation."""
        return frozenset(scale_names(self.groups.flow.traced.nodes))

    def weights(self, *, consumers: bool = True) -> Iterator[tuple[Member, Tensor]]:
        """Members that are trainable parameters (statistics are not weights)."""
        names = self.groups.flow.parameters
        for member in self.group.members:
            if member.parameter in names and (consumers or not member.consumes):
                value = names[member.parameter].detach() if self.read is None else self.read(member.parameter)
                value = value.abs() if value.is_complex() else value  # complex weights by their modulus
                yield member, value if value.dtype == torch.float64 else value.float()

    def index(self, member: Member) -> Tensor:
        """Position in the group (0…n−1) of every index of the member's dimension, −1 for other groups' units."""
        return self.position(self.groups.flow.tensors[member.parameter].at(member.dim)[0])

    def position(self, vector: Vector) -> Tensor:
        """Position in the group (0…n−1) of every label, −1 for what is not one of its units."""
        return self._place[torch.from_numpy(self.groups.unit_of(vector))]

    @cached_property
    def _place(self) -> Tensor:
        """Position in the group of every unit of the network; the last entry is for what is no unit."""
        place = torch.full((self.groups.units + 1,), -1, dtype=torch.long)
        place[torch.from_numpy(self.group.units)] = torch.arange(len(self))
        return place

    @cached_property
    def parameters(self) -> tuple[Member, ...]:
        """Members that are trainable parameters, each once (tied weights have several names)."""
        tensors = self.groups.flow.tensors
        first: dict[tuple[int, int], Member] = {}
        names = self.groups.flow.parameters
        for member in self.group.members:
            if member.parameter in names:
                first.setdefault((id(tensors[member.parameter]), member.dim), member)
        return tuple(first.values())

    @property
    def consumers(self) -> tuple[Member, ...]:
        """The weight dimensions through which units enter the layers that use them, each once."""
        return tuple(m for m in self.parameters if m.consumes)

    def filters(self) -> Tensor:
        """Every unit's own weights in one row, shape (n, values): its filters in all layers that produce it.

        A unit of several indices (a head) has them one after the other; where another unit has more of them,
        the row ends in zeros.
        """
        parts = [self._rows(m, w) for m, w in self.weights(consumers=False) if w.ndim > 1]
        return torch.cat(parts, 1) if parts else torch.zeros(len(self), 0)

    def _rows(self, member: Member, weight: Tensor) -> Tensor:
        index = self.index(member)
        rows = weight.movedim(member.dim, 0).flatten(1).cpu()
        own = torch.nonzero(index >= 0).ravel()
        units = index[own]
        order = torch.argsort(units, stable=True)
        counts = torch.bincount(units, minlength=len(self))
        turn = torch.arange(len(own)) - torch.repeat_interleave(counts.cumsum(0) - counts, counts)
        made = torch.zeros(len(self), int(counts.max()) if len(own) else 0, rows.shape[1], dtype=rows.dtype)
        made[units[order], turn] = rows[own[order]]
        return made.flatten(1)

    def per_unit(self, member: Member, values: Tensor) -> Tensor:
        """Sums ``values`` (the member tensor's shape) to one number per unit, shape (n,)."""
        others = [d for d in range(values.ndim) if d != member.dim]
        return self._gathered(member, values.sum(others) if others else values)

    def norms(self, member: Member, weight: Tensor, order: float) -> Tensor:
        """Norm of a unit's slices to the power of ``order`` (the largest for infinity), shape (n,); no copies."""
        return self._gathered(member, _powers(weight, member.dim, order), largest=order == float("inf"))

    def _gathered(self, member: Member, rows: Tensor, *, largest: bool = False) -> Tensor:
        """Adds up (or takes the largest of) the member's indices unit by unit."""
        index, rows = self.index(member), rows.cpu()
        own, start = index >= 0, torch.zeros(len(self), dtype=rows.dtype)
        if largest:
            return start.index_reduce(0, index[own], rows[own], "amax")
        return start.index_add(0, index[own], rows[own])


AT_ONCE = 1 << 18
"""Entries of a weight that are reduced at once: they stay in the processor's cache."""


def _powers(weight: Tensor, dim: int, order: float) -> Tensor:
    """Norm of every slice along ``dim`` to the power of ``order`` (the largest entry for infinity)."""
    others = [d for d in range(weight.ndim) if d != dim]
    largest = order == float("inf")
    if not others:
        return weight.abs() if largest else weight.abs() ** order
    if dim == 0:
        norms: Tensor = torch.linalg.vector_norm(weight, order, others)
        return norms if largest else norms**order
    total: Tensor | None = None  # of all rows: PyTorch itself goes through the columns one by one, which is slow
    for rows in torch.split(weight, max(1, AT_ONCE // max(1, weight[:1].numel()))):
        powers = rows.square() if order == 2 else rows.abs() if order == 1 or largest else rows.abs() ** order
        part = powers.amax(0) if largest else powers.sum(0)
        total = part if total is None else torch.maximum(total, part) if largest else total.add_(part)
    assert total is not None
    rest = [d for d in range(total.ndim) if d != dim - 1]
    return total if not rest else total.amax(rest) if largest else total.sum(rest)


Score = Callable[[GroupView], Tensor]
"""Of channels: from a group's view to one score per unit, shape (n,)."""

WeightScore = Callable[..., Tensor]
"""Of single weights: from the weights of one layer, a source of randomness and what was collected of these weights (one
tensor for each need, in their order) to scores of the same shape."""

BranchScore = Callable[[Any], Tensor | float]
"""Of residual branches: from a branch's view (:class:`~secateur.criteria.branches.BranchView`) to one number."""

KINDS = {"channels": "criterion", "weights": "weight criterion", "branches": "criterion of residual branches"}
"""What criteria score, and what messages call a criterion of that kind."""

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Criterion:
    """A registered criterion: one name, one idea, for one or several kinds of what can go.

    Attributes:
        name: What recipes and the command line call it.
        score: Scores channels; returns one score per unit of a group, shape (n,), higher = keep.
        summary: One line for ``secateur criteria``.
        paper: Where it comes from.
        needs: What has to be collected to score channels, see `secateur.criteria.statistics.NEEDS`.
        absolute: Whether scores of different groups compare as they are; otherwise each group's are divided by
            their mean before groups are compared (scopes ``global`` and ``block``).
        additive: See :class:`~secateur.criteria.scoring.Scores`.
        scope: The scope of a cut that asks for none.
        weights: Scores single weights, higher = keep.
        weight_needs: What has to be collected to score single weights, see
            `secateur.criteria.weight_statistics.WEIGHT_NEEDS`.
        branches: Scores residual branches, higher = keep.
        order: What goes first, in words; empty for the lowest of what is called ``name``.
    """

    name: str
    score: Score | None
    summary: str
    paper: str
    needs: tuple[str, ...] = ()
    absolute: bool = False
    additive: bool = False
    scope: str = "local"
    weights: WeightScore | None = None
    weight_needs: tuple[str, ...] = ()
    branches: BranchScore | None = None
    order: str = ""

    @property
    def goes_first(self) -> str:
        """What goes first, in words, for what reports say of a cut."""
        return self.order or f"lowest {self.name} first"

    @property
    def kinds(self) -> tuple[str, ...]:
        """What it scores: some of :data:`KINDS`."""
        scores = {"channels": self.score, "weights": self.weights, "branches": self.branches}
        return tuple(kind for kind in KINDS if scores[kind] is not None)


CRITERIA: Registry[Criterion] = Registry("criterion", check="secateur.criteria.conformance:check_criterion")


def of_kind(name: str, kind: str) -> Criterion:
    """The criterion called ``name``, which scores ``kind``.

    Raises:
        UnknownNameError: There is none of that name, or it scores other things.

    >>> of_kind("magnitude", "channels")
    Traceback (most recent call last):
    secateur.core.errors.UnknownNameError: There is no criterion named 'magnitude'. ... 'magnitude' scores weights.
    """
    offered = [other for other in CRITERIA if kind in CRITERIA[other].kinds]
    if name not in offered:
        hint = f"{name!r} scores {' and '.join(CRITERIA[name].kinds)}." if name in CRITERIA else ""
        raise UnknownNameError(KINDS[kind], name, offered, hint)
    return CRITERIA[name]


@arguments.checked
def criterion(
    name: str,
    *,
    paper: str,
    kind: str = "channels",
    needs: tuple[str, ...] = (),
    absolute: bool = False,
    additive: bool = False,
    scope: str = "local",
    order: str = "",
) -> Callable[[F], F]:
    """Registers a function as a criterion; its docstring's first line is the summary.

    The same name may be given once for each kind: the criterion then is one entry that scores all of them.

    Args:
        name: What recipes and the command line call it.
        paper: Where it comes from.
        kind: What the function scores. ``channels``: a function of a :class:`GroupView` that gives one score per
            unit, for :func:`secateur.prune`. ``weights``: of a layer's weights, a generator of random numbers and a
            tensor for each of ``needs``, scores of the same shape, for :func:`secateur.sparsify`. ``branches``: of a
            :class:`~secateur.criteria.branches.BranchView`, one number, for :func:`secateur.remove_layers`.
            Higher = keep.
        needs: What has to be collected for it. Of channels, in one pass over calibration data; the function finds it
            with :meth:`GroupView.statistic`. Of weights, some of ``gradient``, ``curvature`` and ``start``; the
            function is given the layer's tensors. Branches need nothing.
        absolute: Whether scores of different groups compare as they are (channels only).
        additive: Whether what a group loses is the sum of the scores that go (channels only).
        scope: The scope of a cut that asks for none (channels only).
        order: What goes first, in words, where "lowest NAME first" would say it wrongly.

    Raises:
        InputError: The name is taken for this kind.
        UnknownNameError: There is no such kind.

    >>> @criterion("doctest_largest", paper="none", kind="weights")
    ... def largest(weight, generator):
    ...     '''Size of the weight.'''
    ...     return weight.abs()
    >>> CRITERIA["doctest_largest"].kinds
    ('weights',)
    """
    if kind not in KINDS:
        raise UnknownNameError("kind of criteria", kind, KINDS, argument="kind")
    if kind != "channels" and (absolute or additive or scope != "local"):
        raise InputError(f"absolute, additive and scope are of channels; got one of them with kind={kind!r}.")
    if kind == "branches" and needs:
        raise InputError(f"Criteria of residual branches see the network's weights alone; got needs={needs!r}.")
    field_of = {"channels": "score", "weights": "weights", "branches": "branches"}[kind]

    def decorate(score: F) -> F:
        if not callable(score):
            raise InputError(f"@criterion({name!r}, …) goes above a function of a group's view; got {score!r}.")
        summary = next(iter((score.__doc__ or "").strip().splitlines()), "")
        known = CRITERIA[name] if name in CRITERIA.present else None  # registering looks for no plug-ins
        if known is None or kind in known.kinds:
            known = CRITERIA.add(name, Criterion(name, None, summary, paper))
        if kind == "channels":
            known = replace(known, needs=needs, absolute=absolute, additive=additive, scope=scope)
        elif kind == "weights":
            known = replace(known, weight_needs=needs)
        known = replace(known, order=order or known.order)
        CRITERIA.replace(name, replace(known, **{field_of: score}))  # type: ignore[arg-type]
        return score

    return decorate
