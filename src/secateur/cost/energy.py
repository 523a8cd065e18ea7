"""Energy of a network by a model of computation and data movement (an estimate, in multiply-accumulates)."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.fx import Node

from secateur.core import arguments
from secateur.core.checks import check_inputs, check_kind
from secateur.core.errors import InputError
from secateur.core.types import ExampleInputs
from secateur.cost.counts import Costs
from secateur.graph.flow import flow, module_of
from secateur.graph.groups import Groups, solve
from secateur.graph.labels import Labels
from secateur.graph.trace import trace

__all__ = ["ARRAY", "BUFFER", "DRAM", "REGISTER", "Energy", "EnergyOf", "LayerEnergy", "energy",
           "node_energies"]  # fmt: skip

DRAM, BUFFER, ARRAY, REGISTER = 200.0, 6.0, 2.0, 1.0
"""Energy of one access relative to one multiply-accumulate: memory, on-chip buffer, between processing elements,
register file (Chen et al. 2016, Eyeriss; used by Yang et al. 2017, arXiv:1611.05128)."""

_REGISTERS_PER_MAC = 4
"""Weight, input and partial sum are read, the partial sum is written."""

_PJ_PER_MAC = 4.6
"""Picojoules of a 32-bit floating multiplication (3.7) and addition (0.9) at 45 nm (Horowitz, ISSCC 2014)."""


@dataclass(frozen=True)
class LayerEnergy:
    """Energy of one operator for one sample, in multiply-accumulates.

    Attributes:
        name: Dotted module name.
        kind: The operator, for instance ``conv2d``.
        compute: Multiply-accumulates that are not with a zero weight.
        movement: Data movement through registers, array, buffer and memory.
    """

    name: str
    kind: str
    compute: float
    movement: float

    @property
    def total(self) -> float:
        """Computation and data movement."""
        return self.compute + self.movement


@dataclass(frozen=True)
class Energy:
    """Energy of a network for one sample.

    Attributes:
        layers: Convolutions, linear layers and matrix products in the order of execution.
    """

    layers: tuple[LayerEnergy, ...]

    @property
    def total(self) -> float:
        """In multiply-accumulates: relative, to compare networks with."""
        return sum(layer.total for layer in self.layers)

    @property
    def estimated_mj(self) -> float:
        """In millijoules at 45 nm and 32 bits (4.6 pJ a multiply-accumulate): an estimate, nothing is measured."""
        return self.total * _PJ_PER_MAC * 1e-9


@arguments.checked
def energy(model: nn.Module, example_inputs: ExampleInputs, *, batch: int = 1) -> Energy:
    """Estimates the energy of ``model`` for one sample after Yang et al. 2017 (arXiv:1611.05128, §3).

    Formula, per operator: ``macs·(1 + 4·register) + values·(dram + buffer + array)``, where ``values`` are the
    inputs, the outputs and the weights (shared by the samples of a batch). Every value crosses each level once:
    ideal reuse, so a lower bound; the paper's dataflow optimiser counts the repeats. As in the paper, weights that
    are zero are neither moved nor multiplied.

    Args:
        model: Any network.
        example_inputs: What it is called with.
        batch: Samples that share one fetch of the weights.

    Raises:
        InputError: A batch below 1.

    >>> found = energy(nn.Linear(3, 2, bias=False), torch.ones(1, 3))  # 6 MACs; 3 + 2 + 6 values
    >>> found.total == 6 * (1 + 4) + 11 * 208
    True
    """
    if batch < 1:
        raise InputError(f"energy(batch=…) is at least 1; got {batch!r}.")
    check_kind(model)
    check_inputs(example_inputs)
    groups = solve(flow(trace(model, example_inputs)))
    return Energy(tuple(node_energies(groups, batch=batch).values()))


def node_energies(groups: Groups, *, batch: int = 1) -> dict[Node, LayerEnergy]:
    """Energy of every operator that multiplies, see :func:`energy`."""
    return EnergyOf(Costs(groups), batch).nodes(np.ones(groups.units, dtype=bool))


class EnergyOf:
    """Energy under a plan: the same formula over the sizes that are kept."""

    def __init__(self, costs: Costs, batch: int = 1) -> None:
        """Collects the sizes of everything that moves; ``costs`` counts them."""
        self.costs, self.batch = costs, batch
        self._maps = {n: [self._slots(m) for m in (*_inputs(n, weights=False), n)] for n in costs.macs}
        self._weights = {n: [_Weight(costs, w) for w in _inputs(n, weights=True)] for n in costs.macs}

    def _slots(self, node: Node) -> list[int]:
        labels = self.costs.groups.flow.labels[node]
        return [self.costs.slot(labels, dim) for dim in range(labels.ndim)]

    def total(self, keep: NDArray[np.bool_]) -> float:
        """Of the whole network under ``keep`` (which units stay), in multiply-accumulates."""
        return sum(layer.total for layer in self.nodes(keep).values())

    def nodes(self, keep: NDArray[np.bool_]) -> dict[Node, LayerEnergy]:
        """Of every operator that multiplies."""
        sizes = self.costs.sizes(keep)
        return {node: self._of(node, sizes, keep) for node in self.costs.macs}

    def _of(self, node: Node, sizes: NDArray[np.int64], keep: NDArray[np.bool_]) -> LayerEnergy:
        factor, slots = self.costs.macs[node]
        weights = [weight.left(sizes, keep) for weight in self._weights[node]]
        dense = [entries for entries, matrix in zip(weights, self._weights[node], strict=True) if matrix.ndim > 1]
        density = sum(nonzero for nonzero, _ in dense) / max(1, sum(held for _, held in dense)) if dense else 1.0
        maps = sum(_product(sizes, m) for m in self._maps[node]) / self.costs.groups.flow.traced.batch
        compute = factor * _product(sizes, slots) * density
        values = maps + sum(nonzero for nonzero, _ in weights) / self.batch
        movement = compute * _REGISTERS_PER_MAC * REGISTER + values * (DRAM + BUFFER + ARRAY)
        names = [weight.name.rpartition(".")[0] for weight in self._weights[node]]
        return LayerEnergy((names or [module_of(node)])[0], str(node.target).split(".")[1], compute, movement)


class _Weight:
    """Entries of one weight that are not zero, under any choice of what stays."""

    def __init__(self, costs: Costs, node: Node) -> None:
        self.name, self._groups = str(node.target), costs.groups
        self._labels: Labels = costs.groups.flow.labels[node]
        tensor = operator.attrgetter(self.name)(costs.groups.flow.traced.module)
        self.ndim = tensor.ndim
        self._slots = [costs.slot(self._labels, d) for d in range(tensor.ndim)]
        dense = tensor.is_meta or int(torch.count_nonzero(tensor)) == tensor.numel()
        self._nonzero = None if dense else (tensor != 0).cpu().numpy()

    def left(self, sizes: NDArray[np.int64], keep: NDArray[np.bool_]) -> tuple[float, float]:
        """How many entries are kept and not zero, and how many are kept."""
        held = _product(sizes, self._slots)
        if self._nonzero is None:
            return held, held
        found = self._nonzero
        for d, mask in self._groups.masks(self._labels, self._groups.label_keep(keep)).items():
            found = found.compress(mask, axis=d)
        return float(found.sum()), held


def _product(sizes: NDArray[np.int64], slots: Sequence[int]) -> float:
    return float(prod(int(sizes[s]) for s in slots))


def _inputs(node: Node, *, weights: bool) -> list[Node]:
    tensors = [n for n in node.all_input_nodes if isinstance(n.meta.get("val"), torch.Tensor) or n.op == "get_attr"]
    return [n for n in tensors if (n.op == "get_attr") == weights]
