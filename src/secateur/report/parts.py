"""A network's parts as a reader sees them: what each is and costs, which groups its channels are of, what stays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secateur.core.types import LayerCount
from secateur.cost.counts import output_channels
from secateur.cut.analysis import Analysis
from secateur.cut.explain import reason_of
from secateur.graph.flow import module_of
from secateur.graph.groups import Groups
from secateur.graph.labels import Labels, Vector
from secateur.graph.outline import Part, Vertex, outline
from secateur.graph.schema import plain_name

__all__ = ["NetworkPart", "parts_of"]


@dataclass(frozen=True)
class NetworkPart:
    """An input, a layer, a place where results meet, or the output.

    Attributes:
        part: Which of them.
        name: The module that it is in; empty at the top level.
        operator: For instance ``conv2d`` or ``add``.
        sources: Numbers of the parts whose results reach it.
        channels: Its output channels; 0 for the output.
        free: How many of them may go.
        groups: Numbers of the groups that they are of, the one with most of them first.
        params: Parameters that it holds.
        macs: MACs of one sample.
        reason: Why channels stay, where some or all do.
    """

    part: Part
    name: str
    operator: str
    sources: tuple[int, ...] = ()
    channels: int = 0
    free: int = 0
    groups: tuple[int, ...] = ()
    params: int = 0
    macs: int = 0
    reason: str = ""

    @property
    def pinned(self) -> bool:
        """Whether it is a layer of which no channel may go."""
        return self.part is Part.LAYER and not self.free


def parts_of(analysis: Analysis) -> tuple[NetworkPart, ...]:
    """Returns the parts of a network in the order of execution."""
    groups = analysis.groups
    counts = analysis.costs.layers(np.ones(groups.units, dtype=bool))
    owners = _Owners(groups)
    return tuple(_part(groups, owners, vertex, counts.get(vertex.node)) for vertex in outline(groups.flow))


def _part(groups: Groups, owners: _Owners, vertex: Vertex, count: LayerCount | None) -> NetworkPart:
    labels = groups.flow.labels.get(vertex.node)
    if isinstance(labels, list):
        labels = labels[0] if labels else None
    name, operator = module_of(vertex.node), vertex.part.value
    if vertex.node.op == "call_function":
        operator = plain_name(vertex.node.target).removeprefix("aten.")
    if vertex.part in (Part.INPUT, Part.OUTPUT) or not isinstance(labels, Labels) or not labels.ndim:
        return NetworkPart(vertex.part, name, operator, vertex.sources)
    labels, dim = output_channels(groups.flow, vertex.node) if count is not None else (labels, _channels(labels))
    vectors = labels.at(dim)
    found, free = owners.of(vectors, labels.shape[dim])
    made = NetworkPart(vertex.part, name, operator, vertex.sources, labels.shape[dim], int(free.sum()), found)
    if count is None:
        return made
    stays = "" if free.all() else _reason(groups, vectors, ~free)
    return NetworkPart(vertex.part, count.name or name, operator, vertex.sources, made.channels, made.free, found,
                       count.params, count.macs, stays)  # fmt: skip


def _channels(labels: Labels) -> int:
    """The dimension of a join that carries channels: dimension 1 of maps, the last of all else."""
    carrying = [d for d in labels.dims if d and labels.at(d)]
    return carrying[0] if carrying else min(1, labels.ndim - 1)


def _reason(groups: Groups, vectors: tuple[Vector, ...], stays: NDArray[np.bool_]) -> str:
    return reason_of(groups, vectors[0][stays]) if vectors else "its entries are made of all channels at once"


class _Owners:
    """The groups of labels, those included that go when any of several units goes."""

    def __init__(self, groups: Groups) -> None:
        self.groups = groups
        of_unit = np.full(groups.units + 1, -1, dtype=np.int64)  # the last one: of no unit
        for number, group in enumerate(groups.items):
            of_unit[group.units] = number
        self.of_component = of_unit[groups.unit_of_component]
        for _ in range(2):  # what follows may be followed
            for child, parents in groups.derived:
                self.of_component[child] = self.of_component[parents].max(axis=0)

    def of(self, vectors: tuple[Vector, ...], size: int) -> tuple[tuple[int, ...], NDArray[np.bool_]]:
        """Numbers of the groups, the largest first, and which of the entries may go."""
        free = np.zeros(size, dtype=bool)
        found: list[int] = []
        for vector in vectors:
            owners = self.of_component[self.groups.component[vector]]
            free |= owners >= 0
            numbers, counts = np.unique(owners[owners >= 0], return_counts=True)
            found += [int(n) for n in numbers[np.argsort(-counts, kind="stable")]]
        return tuple(dict.fromkeys(found)), free
