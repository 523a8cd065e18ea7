"""Solving constraints: connected components, sites closed until all of them hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from secateur.core.errors import UnknownNameError
from secateur.graph.labels import PINNED, Constraints, Pin, SplitLabels, Vector

__all__ = ["GRANULARITIES", "Edges", "Solution", "close_under", "clusters", "nearest", "pick_axes"]

GRANULARITIES: Mapping[str, tuple[int, ...]] = {
    "auto": (-1, -2, -3),
    "within": (-1, -2, -3),
    "whole": (-2, -1, -3),
    "even": (-1, -2, -3),
}
"""Axes of a split to try, counted from the last one (positions within blocks) outwards (blocks, packs of them)."""

Edges = list[tuple[Vector, Vector]]

Derived = tuple[tuple[NDArray[np.int64], NDArray[np.int64]], ...]

Solution = tuple[NDArray[np.int64], Derived]
"""Component of every label, and (child component, parent components) rows of what follows several parents."""


def _components(count: int, edges: Sequence[tuple[Vector, Vector]], *, pins: bool = True) -> NDArray[np.int64]:
    """Connected components of labels; without ``pins`` the pinned label connects nothing."""
    a = np.concatenate([np.zeros(0, np.int64), *(np.ravel(e[0]) for e in edges)])
    b = np.concatenate([np.zeros(0, np.int64), *(np.ravel(e[1]) for e in edges)])
    if not pins:
        free = (a != 0) & (b != 0)
        a, b = a[free], b[free]
    graph = coo_matrix((np.ones(len(a), dtype=np.int8), (a, b)), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)


def pick_axes(constraints: Constraints, edges: Edges, granularity: str) -> dict[int, int]:
    """Picks the free axis of every split; splits that hang together choose together.

    Every choice is tried on all clusters at once, and each cluster takes the first one (``within``,
    ``whole``) or the best one (``auto``) that leaves it units: the number of different things that can go.

    Returns:
        Number of the site → axis.
    """
    if granularity not in GRANULARITIES:
        raise UnknownNameError("granularity", granularity, GRANULARITIES)
    splits = {i: s for i, s in enumerate(constraints.sites) if s.split}
    if not splits:
        return {}
    cluster = clusters(constraints, edges)
    home = {i: int(cluster[s.children[s.children.argmax()]]) for i, s in splits.items()}
    pinned = _components(constraints.count, edges)
    open_axes = {i: _open(s, pinned) for i, s in splits.items()}
    best: dict[int, tuple[int, int]] = {}
    for place in GRANULARITIES[granularity]:
        choices = {i: _axis(s, open_axes[i], place) for i, s in splits.items()}
        for where, units in _freed(constraints, edges, choices, home).items():
            if units > best.get(where, (0, 0))[0] and (granularity in ("auto", "even") or where not in best):
                best[where] = (units, place)
    return {i: _axis(s, open_axes[i], best.get(home[i], (0, -1))[1]) for i, s in splits.items()}


def clusters(constraints: Constraints, edges: Edges) -> NDArray[np.int64]:
    """What hangs together in any way, pins left out: an operator that pins one label keeps its whole cluster."""
    every = [(np.broadcast_to(s.children, s.parents.shape), s.parents) for s in constraints.sites]
    return _components(constraints.count, [*edges, *every], pins=False)


def nearest(constraints: Constraints, labels: Vector) -> Iterator[list[Pin]]:
    """What holds labels: the pins of what they are united with, then those of all that hangs together with them."""
    for component in (_components(constraints.count, constraints.edges, pins=False),
                      clusters(constraints, constraints.edges)):  # fmt: skip
        mine = np.unique(component[labels[labels != PINNED]])
        yield [pin for pin in constraints.pins if np.isin(component[pin.labels[pin.labels != PINNED]], mine).any()]


def _open(site: SplitLabels, component: NDArray[np.int64]) -> list[int]:
    """Axes that are not pinned anyway (the three of a packed query, key and value are taken apart one by one)."""
    axes = [k for k, row in enumerate(site.parents) if (component[row] != component[0]).any()]
    return axes or list(range(len(site.parents)))


def _axis(site: SplitLabels, axes: list[int], place: int) -> int:
    return site.prefer if site.prefer is not None else axes[max(0, len(axes) + place)]


def _freed(constraints: Constraints, edges: Edges, choices: dict[int, int], home: dict[int, int]) -> dict[int, int]:
    """How many different units the splits of every cluster have under ``choices``."""
    component, _ = close_under(constraints, edges, choices)
    parts: dict[int, list[NDArray[np.int64]]] = {}
    for i in choices:
        parts.setdefault(home[i], []).append(component[constraints.sites[i].children])
    found = {where: np.unique(np.concatenate(p)) for where, p in parts.items()}
    return {where: int(np.count_nonzero(units != component[0])) for where, units in found.items()}


def close_under(constraints: Constraints, edges: Edges, choices: Mapping[int, int]) -> Solution:
    """Adds edges until every site holds: one free parent is united, none pins, a pinned child pins its parents."""
    edges = list(edges)
    for i, axis in choices.items():
        parents = constraints.sites[i].parents
        edges += [(row, np.zeros_like(row)) for k, row in enumerate(parents) if k != axis]
    while True:
        component = _components(constraints.count, edges)
        more, derived = _demands(constraints.sites, component)
        if not more:
            return component, derived
        edges += more


def _demands(
    sites: Sequence[SplitLabels], component: NDArray[np.int64]
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
