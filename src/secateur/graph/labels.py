"""Labels: integers that flow through the graph in place of numbers.

Every index of every dimension of every parameter gets a label; label 0 is *pinned* (never removed). A tensor
carries, for each of its dimensions, any number of label vectors: an index of the dimension goes when **any**
of its labels goes. What operators demand of labels is collected here and solved once, in ``groups``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.graph.reasons import MEETS

__all__ = ["PINNED", "Constraints", "Labels", "Pin", "SplitLabels", "Vector"]

Vector = NDArray[np.int64]
"""Labels of one dimension, shape (size of the dimension,)."""

PINNED = 0


@dataclass(frozen=True)
class Labels:
    """Labels of one tensor.

    Attributes:
        shape: The dense tensor's shape.
        dims: Label vectors by dimension; a dimension that is absent carries none and is not prunable.
        points: Labels of what the tensor's values are numbers of (experts that a router chose); ``None`` for values
            that are no numbers of entries. Where nobody knows what is done with the numbers, these are pinned.
    """

    shape: tuple[int, ...]
    dims: Mapping[int, tuple[Vector, ...]] = field(default_factory=dict)
    points: Vector | None = None

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def at(self, dim: int) -> tuple[Vector, ...]:
        """Label vectors of dimension ``dim`` (empty: none); ``dim`` may be negative."""
        return self.dims.get(dim % self.ndim, ()) if self.ndim else ()

    def with_dims(self, dims: Mapping[int, tuple[Vector, ...]]) -> Labels:
        """The same shape with other labels."""
        return Labels(self.shape, {d: v for d, v in dims.items() if v})

    def pointing(self, points: Vector | None) -> Labels:
        """The same labels on values that are numbers of the entries ``points``."""
        return Labels(self.shape, self.dims, points)


@dataclass(frozen=True)
class SplitLabels:
    """Children that go when **any** of their parents goes.

    A reshape that splits a labelled dimension into blocks makes one: the children are the old labels, the
    parents fresh labels of each new axis. Only one of the axes may stay free, or else the result would not be
    a rectangle; which one is chosen when the groups are built.

    Attributes:
        children: Labels, shape (n,).
        parents: One row of labels per axis, shape (axes, n).
        split: Whether the axes compete (a split); otherwise every parent counts.
        prefer: Index of the axis to leave free where the rule knows better than the default.
    """

    children: Vector
    parents: NDArray[np.int64]
    split: bool
    prefer: int | None = None


@dataclass(frozen=True)
class Pin:
    """What holds labels.

    Attributes:
        labels: The labels.
        where: The operator whose rule demands it; ``None`` where it is none.
        reason: Why; empty where the operator needs all entries, whatever it computes.
    """

    labels: Vector
    where: Any
    reason: str


class Constraints:
    """Collects what the operators demand; nothing is solved here.

    >>> c = Constraints()
    >>> a, b = c.fresh(2), c.fresh(2)
    >>> c.unite(a, b); c.pin(a[:1])
    >>> c.count, len(c.edges)
    (5, 2)
    """

    def __init__(self) -> None:
        """Starts with the pinned label alone."""
        self.count = 1
        self.edges: list[tuple[Vector, Vector]] = []
        self.here: Any = None
        self.pins: list[Pin] = []
        self.sites: list[SplitLabels] = []
        self.floors: list[tuple[Vector, int]] = []
        self.steps: list[tuple[Vector, int]] = []
        self.pieces: list[tuple[Vector, Vector]] = []

    def alike(self, one: Vector, other: Vector) -> None:
        """Notes two pieces of one size that code takes to be of one size (of ``chunk``, of padding at both ends)."""
        self.pieces.append((one, other))

    def multiple_of(self, vector: Vector, step: int) -> None:
        """Demands that a multiple of ``step`` entries of a dimension stay: an operator takes no other sizes."""
        self.steps.append((vector, step))

    def at_least(self, vector: Vector, count: int) -> None:
        """Demands that ``count`` entries of a dimension stay: an operator cannot do with fewer."""
        self.floors.append((vector, count))

    def fresh(self, size: int) -> Vector:
        """Returns ``size`` new labels."""
        self.count += size
        return np.arange(self.count - size, self.count, dtype=np.int64)

    def unite(self, a: Vector, b: Vector) -> None:
        """Demands that ``a[i]`` and ``b[i]`` go together."""
        if a is not b:
            self.edges.append((a, b))

    def pin(self, *vectors: Vector, reason: str = "") -> None:
        """Demands that no label of ``vectors`` goes, for a ``reason``."""
        for vector in vectors:
            self.edges.append((vector, np.zeros_like(vector)))
            self.pins.append(Pin(vector, self.here, reason))

    def pin_all(self, labels: Labels, reason: str = "") -> None:
        """Pins every dimension of a tensor."""
        for vectors in labels.dims.values():
            self.pin(*vectors, reason=reason)

    def single(self, vectors: Sequence[Vector]) -> Vector:
        """Returns one vector that goes wherever any of ``vectors`` goes."""
        if len(vectors) == 1:
            return vectors[0]
        child = self.fresh(len(vectors[0]))
        self.sites.append(SplitLabels(child, np.stack(vectors), split=False))
        return child

    def tie(self, a: Sequence[Vector], b: Sequence[Vector]) -> None:
        """Demands that two dimensions of the same size lose the same indices; one without labels pins."""
        if not a or not b:
            self.pin(*a, *b, reason=MEETS)
        elif len(a) == len(b) > 1:
            for u, v in zip(a, b, strict=True):
                self.unite(u, v)
        else:
            self.unite(self.single(a), self.single(b))

    def _fresh_slices(self, array: NDArray[np.int64], axis: int) -> Vector:
        """New labels for the slices along an axis; equal slices (copies over the batch) share one."""
        rows = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
        _, inverse = np.unique(rows, axis=0, return_inverse=True)
        return self.fresh(int(inverse.max()) + 1)[inverse.ravel()]

    def split(self, array: NDArray[np.int64], prefer: int | None = None) -> dict[int, Vector]:
        """Turns an array of labels over several axes into one vector per axis that it varies along.

        Args:
            array: Labels over the axes of a rectangle.
            prefer: Axis to leave free.

        Returns:
            Axis → vector. An array that varies along one axis alone is that axis' vector.
        """
        if not array.size:  # a piece of nothing
            return {}
        varying = [k for k in range(array.ndim) if np.any(array != array.take([0], axis=k))]
        if not varying:
            return {0: array.reshape(array.shape[0], -1)[:, 0]} if array.size and array.flat[0] else {}
        index = tuple(slice(None) if k in varying else 0 for k in range(array.ndim))
        if len(varying) == 1:
            return {varying[0]: array[index]}
        core = array[index]
        fresh = [self._fresh_slices(core, axis) for axis in range(core.ndim)]
        rows = [
            np.broadcast_to(v.reshape([-1 if k == i else 1 for k in range(core.ndim)]), core.shape).ravel()
            for i, v in enumerate(fresh)
        ]
        choice = varying.index(prefer) if prefer in varying else None
        self.sites.append(SplitLabels(core.ravel(), np.stack(rows), split=True, prefer=choice))
        return dict(zip(varying, fresh, strict=True))
