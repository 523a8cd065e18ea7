"""Groups: what must be cut together, solved from the constraints that flow collected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import takewhile

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from secateur.graph.flow import Flow
from secateur.graph.labels import Constraints, Labels, Site, Vector
from secateur.types import Member

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
    """

    name: str
    units: NDArray[np.int64]
    members: tuple[Member, ...]
    producers: tuple[str, ...]
    block: str

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


def solve(flow: Flow, pinned: Iterable[Vector] = ()) -> Groups:
    """Solves the constraints: connected components, with one free axis for every split.

    Args:
        flow: The labelled network.
        pinned: Further labels that must stay (``ignore``, ``only``).
    """
    constraints = flow.constraints
    edges = list(constraints.edges) + [(v, np.zeros_like(v)) for v in pinned]
    choices = _choose(constraints, edges)
    component, derived = _close(constraints, edges, choices)
    stuck = _stuck(constraints, choices, component)
    if stuck:
        other = {i: 1 - a if i in stuck else a for i, a in choices.items()}
        again, more = _close(constraints, edges, other)
        if np.count_nonzero(again != again[0]) > np.count_nonzero(component != component[0]):
            component, derived = again, more
    return _build(flow, component, derived)


# ------------------------------------------------------------------------------------------------ components


def _components(count: int, edges: Sequence[tuple[Vector, Vector]]) -> NDArray[np.int64]:
    a = np.concatenate([np.zeros(0, np.int64), *(np.ravel(e[0]) for e in edges)])
    b = np.concatenate([np.zeros(0, np.int64), *(np.ravel(e[1]) for e in edges)])
    graph = coo_matrix((np.ones(len(a), dtype=np.int8), (a, b)), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)


def _choose(constraints: Constraints, edges: list[tuple[Vector, Vector]]) -> dict[int, int]:
    """Picks the free axis of every split; splits that hang together choose together.

    The finer axis wins (whole groups of a grouped convolution with many small groups, positions within the
    groups of a channel shuffle), unless a rule prefers one.
    """
    splits = [(i, s) for i, s in enumerate(constraints.sites) if s.split]
    if not splits:
        return {}
    every = [(np.broadcast_to(s.children, s.parents.shape), s.parents) for s in constraints.sites]
    not_pins = [e for e in edges if e[1].any() or not len(e[1])]
    cluster = _components(constraints.count, [*not_pins, *every])
    votes: dict[int, NDArray[np.float64]] = {}
    for _, site in splits:
        vote = votes.setdefault(int(cluster[site.children[0]]), np.zeros(2))
        sizes = [len(np.unique(row)) for row in site.parents]
        vote += (sizes[0], sizes[-1])
        if site.prefer is not None:
            vote[min(site.prefer, 1)] += 1e9
    return {i: int(np.argmax(votes[int(cluster[s.children[0]])])) for i, s in splits}


def _close(
    constraints: Constraints, edges: list[tuple[Vector, Vector]], choices: dict[int, int]
) -> tuple[NDArray[np.int64], tuple[tuple[NDArray[np.int64], NDArray[np.int64]], ...]]:
    """Adds edges until every site holds: one free parent is united, none pins, a pinned child pins its parents."""
    edges = list(edges)
    for i, axis in choices.items():
        parents = constraints.sites[i].parents
        free = 0 if axis == 0 else len(parents) - 1
        edges += [(row, np.zeros_like(row)) for k, row in enumerate(parents) if k != free]
    while True:
        component = _components(constraints.count, edges)
        more, derived = _demands(constraints.sites, component)
        if not more:
            return component, derived
        edges += more


def _demands(
    sites: Sequence[Site], component: NDArray[np.int64]
) -> tuple[list[tuple[Vector, Vector]], tuple[tuple[NDArray[np.int64], NDArray[np.int64]], ...]]:
    zero = component[0]
    edges: list[tuple[Vector, Vector]] = []
    derived: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    for site in sites:
        child, parents = component[site.children], component[site.parents]
        loose = np.where(parents == zero, -1, parents)
        lead = loose.max(axis=0)  # any free parent
        same = (loose == lead) | (loose == -1)
        one = same.all(axis=0) & (lead >= 0)
        none = lead < 0
        several = ~one & ~none
        pick = site.parents[loose.argmax(axis=0), np.arange(len(child))]
        for where, target in ((one & (child != lead), pick), (none & (child != zero), np.zeros_like(pick))):
            if where.any():
                edges.append((site.children[where], target[where]))
        held = several & (child == zero)
        if held.any():
            rows = site.parents[:, held]
            edges.append((rows.ravel(), np.zeros(rows.size, np.int64)))
        if (several & ~held).any():
            derived.append((child[several & ~held], parents[:, several & ~held]))
    return edges + _conflicts(derived, component), tuple(derived)


def _conflicts(
    derived: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]], component: NDArray[np.int64]
) -> list[tuple[Vector, Vector]]:
    """A child with two different sets of parents has no exact solution here, so it is pinned."""
    parents_of: dict[int, frozenset[int]] = {}
    bad: set[int] = set()
    for child, parents in derived:
        for c, column in zip(child.tolist(), parents.T.tolist(), strict=True):
            if parents_of.setdefault(c, frozenset(column)) != frozenset(column):
                bad.add(c)
    if not bad:
        return []
    labels = np.flatnonzero(np.isin(component, list(bad)))
    return [(labels, np.zeros_like(labels))]


def _stuck(constraints: Constraints, choices: dict[int, int], component: NDArray[np.int64]) -> set[int]:
    """Splits whose children all ended up pinned."""
    return {i for i in choices if (component[constraints.sites[i].children] == component[0]).all()}


# ------------------------------------------------------------------------------------------------------ groups


def _build(
    flow: Flow, component: NDArray[np.int64], derived: tuple[tuple[NDArray[np.int64], NDArray[np.int64]], ...]
) -> Groups:
    dims = [(name, d, vs[0]) for name, labels in flow.tensors.items() for d, vs in labels.dims.items()]
    blocked = {int(component[0]), *(int(c) for child, _ in derived for c in child)}
    used = np.unique(np.concatenate([np.zeros(0, np.int64), *(component[v] for *_, v in dims)]))
    units = used[~np.isin(used, list(blocked))]
    bare = Groups(flow, component, units, derived)
    signature = _signatures(bare, [v for *_, v in dims])
    _, first, inverse = np.unique(signature, return_index=True, return_inverse=True)
    members = _members(bare, dims, inverse, len(first))
    layers = _layers_below(flow)
    groups = [_group(flow, np.flatnonzero(inverse == g), members[g], layers) for g in range(len(first))]
    position = {name: k for k, name in enumerate(flow.tensors)}
    order = np.argsort([position[g.members[0].parameter] for g in groups], kind="stable")
    return Groups(flow, component, units, derived, tuple(groups[i] for i in order))


def _signatures(bare: Groups, vectors: Sequence[Vector]) -> NDArray[np.uint64]:
    """A hash per unit of the set of parameter dimensions that it takes part in."""
    codes = np.random.default_rng(0).integers(1, 2**63, size=len(vectors), dtype=np.uint64)
    total = np.zeros(bare.units, dtype=np.uint64)
    for code, vector in zip(codes, vectors, strict=True):
        units = np.unique(bare.unit_of(vector))
        total[units[units >= 0]] += code
    return total


def _members(
    bare: Groups, dims: Sequence[tuple[str, int, Vector]], group_of: NDArray[np.int64], count: int
) -> list[list[Member]]:
    members: list[list[Member]] = [[] for _ in range(count)]
    for name, d, vector in dims:
        units = bare.unit_of(vector)
        consumes = bool(len(vector)) and int(vector[0]) in bare.flow.consumed
        for g in np.unique(group_of[units[units >= 0]]):
            members[g].append(Member(name, d, consumes))
    return members


def _group(flow: Flow, units: NDArray[np.int64], members: list[Member], layers: Counter[str]) -> Group:
    made = [m.parameter for m in members if not m.consumes and flow.tensors[m.parameter].ndim > 1]
    producers = tuple(dict.fromkeys(_module(name) for name in made or [members[0].parameter]))
    return Group(producers[0] or members[0].parameter, units, tuple(members), producers, _block(producers, layers))


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
