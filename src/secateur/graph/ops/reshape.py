"""Reshapes: labels move within runs of dimensions; a labelled dimension that is split becomes a product."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from secateur.graph.facts import Facts, Kind
from secateur.graph.flow import Call
from secateur.graph.labels import Constraints, Labels, Vector
from secateur.graph.reasons import OTHER_TYPE
from secateur.graph.rules import operator

if TYPE_CHECKING:
    from secateur.graph.rewriting import Rewriter

__all__ = ["reshape", "rewrite_sizes"]

_TO_SIZES = Facts(kind=Kind.RESHAPE, same_entries=True)
_RESHAPED = Facts(same_entries=True)


def reshape(c: Constraints, x: Labels, shape: Sequence[int]) -> Labels:
    """Reshapes labels; a labelled dimension that is split into blocks becomes a product of its axes.

    Input and output shapes are cut into the smallest runs of dimensions with equal products; labels move
    within a run. Flattening C × H × W repeats each channel's label H·W times.
    """
    dims: dict[int, tuple[Vector, ...]] = {}
    for source, target in _segments(x.shape, shape):
        if not target:
            for d in source:
                c.pin(*x.at(d))
            continue
        for d in source:
            for vector in x.at(d):
                array = _spread(vector, [x.shape[s] for s in source], source.index(d))
                for axis, own in c.split(array.reshape([shape[t] for t in target])).items():
                    dims[target[axis]] = (*dims.get(target[axis], ()), own)
    return Labels(tuple(shape)).with_dims(dims)


def _spread(vector: Vector, shape: list[int], axis: int) -> NDArray[np.int64]:
    """Repeats a dimension's labels over the other dimensions of its run."""
    view = vector.reshape([-1 if k == axis else 1 for k in range(len(shape))])
    return np.broadcast_to(view, shape)


def _segments(a: Sequence[int], b: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Pairs runs of dimensions of equal product; dimensions of size 1 stay apart where they can.

    >>> _segments((2, 6, 4), (2, 3, 2, 4))
    [([0], [0]), ([1], [1, 2]), ([2], [3])]
    >>> _segments((2, 8, 1, 1), (2, 8))
    [([0], [0]), ([1], [1]), ([2, 3], [])]
    """
    runs: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(a) and j < len(b):
        left, right = [i], [j]
        i, j = i + 1, j + 1
        while prod(a[k] for k in left) != prod(b[k] for k in right):
            if prod(a[k] for k in left) < prod(b[k] for k in right):
                left.append(i)
                i += 1
            else:
                right.append(j)
                j += 1
        runs.append((left, right))
    rest = (list(range(i, len(a))), list(range(j, len(b))))
    return [*runs, rest] if rest[0] or rest[1] else runs


def rewrite_sizes(name: str) -> Any:
    """A rewrite that recomputes the sizes given as argument ``name``."""

    def rewrite(r: Rewriter) -> None:
        r.set(name, r.sizes(r[name]))

    return rewrite


@operator("aten.view", rewrite=rewrite_sizes("size"), facts=_TO_SIZES)
@operator("aten._unsafe_view", rewrite=rewrite_sizes("size"), facts=replace(_TO_SIZES, aliases=True))
@operator("aten.reshape", rewrite=rewrite_sizes("shape"), facts=_TO_SIZES)
@operator("aten.flatten", "aten.squeeze", "aten.unsqueeze", "aten.ravel", facts=_RESHAPED)
@operator("aten.view_as", "aten.reshape_as", facts=_RESHAPED)
def _reshape(call: Call) -> Labels | Any:
    if not isinstance(call["self"], Labels) or "dtype" in call.values:
        return call.pin(OTHER_TYPE)
    return reshape(call.c, call["self"], call.shape)


def _rewrite_unflatten(r: Rewriter) -> None:
    dim, count = r["dim"] % len(r.labels(r.node_of("self")).shape), len(r["sizes"])
    r.set("sizes", r.sizes(r["sizes"], offset=dim, count=count))


@operator("aten.unflatten", rewrite=_rewrite_unflatten, facts=_RESHAPED)
def _unflatten(call: Call) -> Labels:
    return reshape(call.c, call["self"], call.shape)
