"""Energy of a network by a model of computation and data movement (an estimate, in multiply-accumulates)."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import nn
from torch.fx import Node

from secateur.errors import InputError
from secateur.graph.flow import Flow, flow, module_of, shape_of
from secateur.graph.groups import Groups, solve
from secateur.graph.trace import trace
from secateur.measure.counts import Costs
from secateur.types import ExampleInputs

__all__ = ["ARRAY", "BUFFER", "DRAM", "REGISTER", "Energy", "LayerEnergy", "energy", "node_energies"]

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
    groups = solve(flow(trace(model, example_inputs)))
    return Energy(tuple(node_energies(groups, batch=batch).values()))


def node_energies(groups: Groups, *, batch: int = 1) -> dict[Node, LayerEnergy]:
    """Energy of every operator that multiplies, see :func:`energy`."""
    labelled, costs = groups.flow, Costs(groups)
    sizes = costs.sizes(np.ones(groups.units, dtype=bool))
    return {
        node: _of(labelled, node, factor * prod(int(sizes[s]) for s in slots), batch)
        for node, (factor, slots) in costs.macs.items()
    }


def _of(labelled: Flow, node: Node, macs: float, batch: int) -> LayerEnergy:
    stored = [operator.attrgetter(str(n.target))(labelled.traced.module) for n in _inputs(node, weights=True)]
    weights = sum(int(torch.count_nonzero(t)) for t in stored)
    dense = [t for t in stored if t.ndim > 1]
    density = sum(int(torch.count_nonzero(t)) for t in dense) / sum(t.numel() for t in dense) if dense else 1.0
    maps = sum(prod(shape_of(n)) for n in (*_inputs(node, weights=False), node)) / labelled.traced.batch
    compute = macs * density
    movement = compute * _REGISTERS_PER_MAC * REGISTER + (maps + weights / batch) * (DRAM + BUFFER + ARRAY)
    names = [str(n.target).rpartition(".")[0] for n in _inputs(node, weights=True)]
    return LayerEnergy((names or [module_of(node)])[0], str(node.target).split(".")[1], compute, movement)


def _inputs(node: Node, *, weights: bool) -> list[Node]:
    tensors = [n for n in node.all_input_nodes if isinstance(n.meta.get("val"), torch.Tensor) or n.op == "get_attr"]
    return [n for n in tensors if (n.op == "get_attr") == weights]
