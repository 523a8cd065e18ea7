"""Exact counts: parameters and multiply-accumulates, of a network and of what a plan would leave of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import prod

import numpy as np
from numpy.typing import NDArray
from torch import nn
from torch.fx import Node

from secateur.core import arguments
from secateur.core.checks import check_inputs, check_kind
from secateur.core.errors import UnknownNameError
from secateur.core.types import Counts, ExampleInputs, LayerCount
from secateur.graph.flow import Flow, flow, module_of
from secateur.graph.groups import Groups, solve
from secateur.graph.labels import Labels
from secateur.graph.ops import Kind, facts
from secateur.graph.trace import trace

__all__ = ["MEASURES", "Costs", "count", "output_channels"]

_CONVOLUTIONS = (Kind.CONV, Kind.CONV_TRANSPOSE)

MEASURES = ("params", "macs", "energy", "size")
"""What :class:`Costs` measures of any choice of units."""

Mask = NDArray[np.bool_]


@arguments.checked
def count(model: nn.Module, example_inputs: ExampleInputs) -> Counts:
    """Counts parameters and MACs of one sample (1 MAC = 2 FLOPs).

    MACs are those of convolutions, linear layers and matrix products; element-wise work is left out, as is
    usual. Formula: Σ over operators of positions × kernel elements × C_in/groups × C_out.

    >>> import torch
    >>> count(nn.Conv2d(3, 8, 3, bias=False), torch.zeros(1, 3, 10, 10)).macs  # 8·8·9·3·8
    13824
    """
    check_kind(model)
    check_inputs(example_inputs)
    labelled = flow(trace(model, example_inputs))
    costs = Costs(solve(labelled))
    return costs.counts(np.ones(costs.groups.units, dtype=bool))


def output_channels(flow: Flow, node: Node) -> tuple[Labels, int]:
    """Labels of an operator's (first) output, and its channels: dimension 1 of convolutions, the last of all others."""
    found = flow.labels[node]
    out: Labels = found[0] if isinstance(found, list) else found
    return out, min(1, out.ndim - 1) if facts(node).kind in _CONVOLUTIONS else out.ndim - 1


class Costs:
    """Counts under a plan, fast enough to be searched over.

    All measures are made of products of kept sizes, and all sizes come from one vectorised pass over the
    labels: a plan of a ResNet-50 costs about a millisecond.
    """

    def __init__(self, groups: Groups) -> None:
        """Collects the terms of ``groups``' network."""
        self.groups = groups
        flow: Flow = groups.flow
        module = flow.traced.module
        self._sizes: dict[tuple[int, int], int] = {}
        self._vectors: list[NDArray[np.int64]] = []
        self._several: dict[int, tuple[NDArray[np.int64], ...]] = {}
        self._measures: dict[str, Callable[[Mask], float]] = {}
        self._all = self._starts = np.zeros(0, np.int64)
        unique = {id(p): n for n, p in module.named_parameters(remove_duplicate=False)}
        self._owned = {n: self._term(1.0, [(flow.tensors[n], d) for d in range(flow.tensors[n].ndim)])
                       for n in unique.values() if n in flow.tensors}  # fmt: skip
        self.params = list(self._owned.values())
        every = {n: p.numel() for n, p in module.named_parameters() if unique[id(p)] not in flow.tensors}
        self._unlabelled, self._unused = every, sum(every.values())
        batch = flow.traced.batch
        self.macs = {node: self._term(t.factor / batch, t.sizes) for node, t in flow.macs.items()}
        self._more = {
            node: [self._term(t.factor / batch, t.sizes) for t in terms] for node, terms in flow.more_macs.items()
        }
        self._outputs = {node: self._output(node) for node in (*self.macs, *self._more)}
        self._held = {node: self._weights_of(node) for node in (*self.macs, *self._more)}

    def _term(self, factor: float, sizes: Iterable[tuple[Labels, int]]) -> tuple[float, list[int]]:
        return factor, [self.slot(labels, dim % labels.ndim) for labels, dim in sizes]

    def _output(self, node: Node) -> int:
        """Slot of an operator's output channels."""
        return self.slot(*output_channels(self.groups.flow, node))

    def slot(self, labels: Labels, dim: int) -> int:
        """Slot of a dimension in the vector that :meth:`sizes` gives."""
        key = (id(labels), dim)
        if key not in self._sizes:
            slot = self._sizes[key] = len(self._vectors)
            vectors = labels.at(dim)
            if len(vectors) > 1:
                self._several[slot] = vectors
            self._vectors.append(vectors[0] if vectors else np.zeros(labels.shape[dim], np.int64))
        return self._sizes[key]

    def sizes(self, keep: Mask) -> NDArray[np.int64]:
        """Kept sizes of all slots under ``keep`` (which units stay)."""
        stays = self.groups.label_keep(keep)
        flat, starts = self._flat()
        before = np.concatenate([np.zeros(1, np.int64), np.cumsum(stays[flat], dtype=np.int64)])
        counts = np.diff(before[starts], append=before[-1:])  # of tensors without entries, too
        for slot, vectors in self._several.items():
            counts[slot] = np.logical_and.reduce([stays[v] for v in vectors]).sum()
        return counts

    def _flat(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """All label vectors in one, and where each starts; made anew when a slot was added."""
        if len(self._starts) != len(self._vectors):
            self._all = np.concatenate(self._vectors)
            self._starts = np.cumsum([0, *(len(v) for v in self._vectors)])[:-1]
        return self._all, self._starts

    def measure(self, name: str, keep: Mask) -> float:
        """``"params"``, ``"macs"``, ``"energy"`` or ``"size"`` under ``keep``, as :class:`Target` names them."""
        if name not in self._measures:
            self._measures[name] = self._make(name)
        return self._measures[name](keep)

    def params_in(self, module: str, keep: Mask) -> int:
        """Parameters of a module, by its dotted name (empty for the network), under ``keep``."""
        sizes, below = self.sizes(keep), f"{module}." if module else ""
        own = (prod(int(sizes[s]) for s in slots) for n, (_, slots) in self._owned.items() if n.startswith(below))
        return sum(own) + sum(size for name, size in self._unlabelled.items() if name.startswith(below))

    def _make(self, name: str) -> Callable[[Mask], float]:
        """What measures ``name``; terms are collected when they are first asked for."""
        from secateur.cost.energy import EnergyOf
        from secateur.cost.stored import StoredSize

        if name == "energy":
            return EnergyOf(self).total
        if name == "size":
            return StoredSize(self).total
        if name not in MEASURES:
            raise UnknownNameError("measure", name, MEASURES)
        further = [term for terms in self._more.values() for term in terms]
        terms = self.params if name == "params" else [*self.macs.values(), *further]
        rest = self._unused if name == "params" else 0

        def total(keep: Mask) -> float:
            sizes = self.sizes(keep)
            return float(sum(factor * prod(int(sizes[s]) for s in slots) for factor, slots in terms) + rest)

        return total

    def counts(self, keep: Mask) -> Counts:
        """Everything under ``keep``, layer by layer."""
        sizes = self.sizes(keep)

        def value(term: tuple[float, list[int]]) -> int:
            return round(term[0] * prod(int(sizes[s]) for s in term[1]))

        layers = tuple(self._layer(node, value(term), sizes) for node, term in self.macs.items())
        params = sum(value(t) for t in self.params) + self._unused
        further = sum(value(term) for terms in self._more.values() for term in terms)
        return Counts(params, sum(value(t) for t in self.macs.values()) + further, layers)

    def layers(self, keep: Mask) -> dict[Node, LayerCount]:
        """Counts under ``keep`` by operator; recurrent layers too, which :meth:`counts` has in its totals alone."""
        sizes = self.sizes(keep)
        found = {}
        for node in self.groups.flow.labels:
            terms = [self.macs[node]] if node in self.macs else self._more.get(node)
            if terms is not None:
                macs = sum(round(factor * prod(int(sizes[s]) for s in slots)) for factor, slots in terms)
                found[node] = self._layer(node, macs, sizes)
        return found

    def _layer(self, node: Node, macs: int, sizes: NDArray[np.int64]) -> LayerCount:
        held = self._held[node]
        params = sum(prod(int(sizes[s]) for s in slots) for slots in held.values())
        name = next(iter(held)).rpartition(".")[0] if held else module_of(node)
        kind = str(node.target).split(".")[1]
        return LayerCount(name, kind, int(sizes[self._outputs[node]]), params, macs)

    def _weights_of(self, node: Node) -> dict[str, list[int]]:
        """Slots of the parameters that an operator takes directly."""
        names = [str(n.target) for n in node.all_input_nodes if n.op == "get_attr"]
        tensors = {n: t for n in names if (t := self.groups.flow.tensors.get(n)) is not None}
        return {n: [self.slot(t, d) for d in range(t.ndim)] for n, t in tensors.items()}
