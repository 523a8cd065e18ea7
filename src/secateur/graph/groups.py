"""Groups: what must be cut together, solved from the constraints that flow collected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, count, takewhile
from math import gcd, lcm

import numpy as np
from numpy.typing import NDArray

from secateur.core.modes import no_gc
from secateur.core.types import Member
from secateur.graph.flow import Flow
from secateur.graph.labels import Labels, Vector
from secateur.graph.reads import read_components
from secateur.graph.solve import Solution, close_under, pick_axes

__all__ = ["Group", "Groups", "solve"]

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Group:
    """Units that are cut from the same dimensions of the same parameters.

    Attributes:
        name: The first layer that produces the channels.
        units: Numbers of its units, shape (n,); a unit is what goes as one (a channel with all that hangs on it).
        members: Parameter dimensions that every unit takes part in, in the order of execution.
        producers: Modules whose output channels the units are.
        block: The smallest module that contains all producers and at least two layers.
        spans: Whether the producers lie in several blocks of their own (a residual stream does).
        least: Units that have to stay, because an operator cannot do with fewer (the k of the k largest).
        step: A multiple of so many units has to stay, because an operator takes no other sizes.
        kind: Which operators take the members, at which argument and dimension: the same for groups that play the same
            part in their layers, whatever their sizes.
    """

    name: str
    units: NDArray[np.int64]
    members: tuple[Member, ...]
    producers: tuple[str, ...]
    block: str
    spans: bool = False
    least: int = 1
    step: int = 1
    kind: tuple[object, ...] = ()

    def __len__(self) -> int:
        """How many units it has."""
        return len(self.units)


@dataclass(frozen=True)
class Groups:
    """The solution: components of labels, of which some are units.

    Attributes:
        flow: The labelled network.
        component: Component of every label, shape (labels,).
        unit_component: Component of every unit, shape (units,).
        derived: (child component, parent components) rows: a child goes when any parent goes.
        items: The groups in the order of execution.
    """

    flow: Flow
    component: NDArray[np.int64]
    unit_component: NDArray[np.int64]
    derived: tuple[tuple[NDArray[np.int64], NDArray[np.int64]], ...]
    items: tuple[Group, ...] = field(default=())

    @property
    def units(self) -> int:
        """How many units there are."""
        return len(self.unit_component)

    @cached_property
    def unit_of_component(self) -> NDArray[np.int64]:
        """Unit of every component, −1 where it is none."""
        table = np.full(int(self.component.max()) + 1, -1, dtype=np.int64)
        table[self.unit_component] = np.arange(self.units)
        return table

    def unit_of(self, vector: Vector) -> NDArray[np.int64]:
        """Unit of every label in ``vector``, −1 where it is pinned or follows others."""
        return self.unit_of_component[self.component[vector]]

    def label_keep(self, keep: Mask) -> Mask:
        """Which labels stay, given which units stay."""
        stays = np.ones(int(self.component.max()) + 1, dtype=bool)
        stays[self.unit_component] = keep
        for _ in range(2 if self.derived else 0):
            for child, parents in self.derived:
                np.logical_and.at(stays, child, stays[parents].all(axis=0))
        return stays[self.component]

    def masks(self, labels: Labels, label_keep: Mask) -> dict[int, Mask]:
        """Kept entries by dimension, for the dimensions of ``labels`` that lose some."""
        masks = {d: np.logical_and.reduce([label_keep[v] for v in vs]) for d, vs in labels.dims.items()}
        return {d: m for d, m in masks.items() if not m.all()}


def solve(flow: Flow, pinned: Iterable[Vector] = (), granularity: str = "auto") -> Groups:
    """Solves the constraints: connected components, with one free axis for every split into blocks.

    Args:
        flow: The labelled network.
        pinned: Further labels that must stay (``ignore``, ``only``).
        granularity: What goes where a dimension is split into blocks (heads, groups, shuffles): ``whole``
            blocks, the same positions ``within`` every block, or ``auto``: whichever leaves more units; ``even`` is
            ``auto`` with the same positions of pieces that code splits a dimension into, so that they stay of one size.
    """
    edges = [*flow.constraints.edges, *((v, np.zeros_like(v)) for v in pinned)]
    edges += flow.constraints.pieces if granularity == "even" else []
    with no_gc():
        choices = pick_axes(flow.constraints, edges, granularity)
        return _build(flow, close_under(flow.constraints, edges, choices))


# ------------------------------------------------------------------------------------------------------ groups


def _build(flow: Flow, solution: Solution) -> Groups:
    component, derived = solution
    dims = [(name, d, vs[0]) for name, labels in flow.tensors.items() for d, vs in labels.dims.items()]
    blocked = {int(component[0]), *(int(c) for child, _ in derived for c in child)}
    used = np.unique(np.concatenate([np.zeros(0, np.int64), *(component[v] for *_, v in dims)]))
    units = used[~np.isin(used, list(blocked)) & read_components(flow, component)[used]]
    bare = Groups(flow, component, units, derived)
    signature = _signatures(bare, [v for *_, v in dims])
    _, first, inverse = np.unique(signature, return_index=True, return_inverse=True)
    members = _members(bare, dims, inverse, len(first))
    layers = _layers_below(flow)
    groups = [_group(flow, np.flatnonzero(inverse == g), members[g], layers) for g in range(len(first))]
    takers = _takers(flow)
    groups = [replace(g, kind=_kind(g.members, takers)) for g in groups]
    if flow.constraints.floors or flow.constraints.steps:
        groups = [replace(g, least=_least(bare, g.units), step=_step(bare, g.units)) for g in groups]
    position = {name: k for k, name in enumerate(flow.tensors)}
    order = np.argsort([position[g.members[0].parameter] for g in groups], kind="stable")
    return Groups(flow, component, units, derived, tuple(_by_names([groups[i] for i in order])))


def _by_names(groups: Sequence[Group]) -> list[Group]:
    """Groups whose names tell them apart: further ones of a layer say which dimension of its tensor they are."""
    used: set[str] = set()
    found = []
    for group in groups:
        made = f"{group.name}[{group.members[0].dim}]"
        name = next(n for n in chain((group.name, made), (f"{made}#{k}" for k in count(2))) if n not in used)
        used.add(name)
        found.append(replace(group, name=name))
    return found


def _signatures(bare: Groups, vectors: Sequence[Vector]) -> NDArray[np.uint64]:
    """A hash per unit of the set of parameter dimensions that it takes part in."""
    codes = np.random.default_rng(0).integers(1, 2**63, size=len(vectors), dtype=np.uint64)
    total = np.zeros(bare.units, dtype=np.uint64)
    for code, vector in zip(codes, vectors, strict=True):
        units = np.unique(bare.unit_of(vector))
        total[units[units >= 0]] += code
    return total


def _members(
    bare: Groups, dims: Sequence[tuple[str, int, Vector]], group_of: NDArray[np.int64], number: int
) -> list[list[Member]]:
    members: list[list[Member]] = [[] for _ in range(number)]
    for name, d, vector in dims:
        units = bare.unit_of(vector)
        consumes = bool(len(vector)) and int(vector[0]) in bare.flow.consumed
        for g in np.unique(group_of[units[units >= 0]]):
            members[g].append(Member(name, d, consumes))
    return members


def _group(flow: Flow, units: NDArray[np.int64], members: list[Member], layers: Counter[str]) -> Group:
    made = [m.parameter for m in members if not m.consumes and flow.tensors[m.parameter].ndim > 1]
    producers = tuple(dict.fromkeys(_module(name) for name in made or [members[0].parameter]))
    spans = len({_block([p], layers) for p in producers}) > 1
    block = _block(producers, layers)
    return Group(producers[0] or members[0].parameter, units, tuple(members), producers, block, spans)


def _takers(flow: Flow) -> dict[str, tuple[tuple[str, int], ...]]:
    """Operators that take every tensor of the network, each with the place among its arguments."""
    read = [n for n in flow.traced.nodes if n.op == "get_attr"]
    return {
        str(n.target): tuple(sorted((str(u.target), u.args.index(n)) for u in n.users if n in u.args)) for n in read
    }


def _kind(members: Sequence[Member], takers: Mapping[str, tuple[tuple[str, int], ...]]) -> tuple[object, ...]:
    return tuple(sorted((takers.get(m.parameter, ()), m.dim, m.consumes) for m in members))


def _least(bare: Groups, units: NDArray[np.int64]) -> int:
    """How many of a group's units operators need, if all other entries of theirs stay."""
    least = 1
    for vector, needed in bare.flow.constraints.floors:
        own = np.isin(found := bare.unit_of(vector), units)
        if own.any():
            each = own.sum() / len(np.unique(found[own]))
            least = max(least, int(np.ceil((needed - (~own).sum()) / each)))
    return least


def _step(bare: Groups, units: NDArray[np.int64]) -> int:
    """Of how many units a multiple has to stay; 1 where units differ in size or the rest does not divide."""
    step = 1
    for vector, size in bare.flow.constraints.steps:
        own = np.isin(found := bare.unit_of(vector), units)
        if own.any() and (~own).sum() % size == 0:
            each = int(own.sum()) // len(np.unique(found[own]))
            step = lcm(step, size // gcd(size, each))
    return step


def _module(parameter: str) -> str:
    return parameter.rpartition(".")[0]


def _layers_below(flow: Flow) -> Counter[str]:
    """How many weight-bearing modules every module contains."""
    layers = {_module(name) for name, labels in flow.tensors.items() if labels.ndim > 1}
    return Counter(above for layer in layers for above in _above(layer))


def _above(module: str) -> list[str]:
    """The modules that contain ``module``, outermost first, without itself."""
    parts = module.split(".")
    return [".".join(parts[:k]) for k in range(len(parts))]


def _block(producers: Sequence[str], layers: Counter[str]) -> str:
    """The smallest module that contains all producers and at least two layers."""
    shared = [parts[0] for parts in takewhile(lambda p: len(set(p)) == 1, zip(*map(_above, producers), strict=False))]
    return next((path for path in reversed(shared) if layers[path] > 1), "")
