"""The dense and the pruned network side by side, operator by operator."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from secateur.core.errors import InputError, PlanError
from secateur.core.plan import Plan
from secateur.core.types import call
from secateur.cut.prune import fitting
from secateur.cut.pruned import Pruned
from secateur.graph.copies import deep_copy
from secateur.graph.groups import Groups
from secateur.graph.trace import preserved_rng, to_args
from secateur.graph.views import labelled
from secateur.recovery.walk import Walker
from secateur.surgery.graph import twin_graph

__all__ = ["Twin", "twin"]

TOLERANCE = 1e-3
"""Largest relative difference between the pruned network and its graph: rounding, and nothing else."""


@dataclass(frozen=True)
class Twin:
    """Two graphs whose operators correspond; the pruned one has weights of its own that may be written.

    Attributes:
        groups: Groups of the dense network.
        label_keep: Which of its labels stay.
        dense: The dense network's graph.
        pruned: The pruned network's graph.
        copies: Operator of the dense graph → operator of the pruned graph.
    """

    groups: Groups
    label_keep: NDArray[np.bool_]
    dense: Walker
    pruned: Walker
    copies: Mapping[Node, Node]

    def kept(self, node: Node, value: Tensor) -> Tensor:
        """The entries of a dense operator's ``value`` that the pruned network still has."""
        for dim, mask in self.groups.masks(self.groups.flow.labels[node], self.label_keep).items():
            value = value.index_select(dim, torch.as_tensor(np.flatnonzero(mask), device=value.device))
        return value

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Weights and statistics of the pruned graph by name."""
        module = self.pruned.module
        found = dict(module.named_parameters(remove_duplicate=False))
        return {n: t.detach() for n, t in (*found.items(), *module.named_buffers(remove_duplicate=False))}

    def write(self, name: str, value: Tensor) -> None:
        """Sets a weight or statistic of the pruned graph, in place."""
        with torch.no_grad():
            self.tensors[name].copy_(value)

    def into(self, model: nn.Module) -> nn.Module:
        """A copy of the pruned network with the graph's weights."""
        new = deep_copy(model)
        with torch.no_grad():
            for name, tensor in new.state_dict(keep_vars=True).items():
                if isinstance(tensor, Tensor) and name in self.tensors:
                    tensor.copy_(self.tensors[name])
        return new


def twin(pruned: Pruned, dense: nn.Module) -> Twin:
    """Pairs the operators of a pruned network with those of the network that it was cut from.

    Raises:
        InputError: The plan does not fit ``dense``, or the two are not what the plan made of one another.
    """
    if not isinstance(dense, nn.Module):
        raise InputError(f"dense is the network before the cut, a torch.nn.Module; got {type(dense).__name__}.")
    found, _ = labelled(dense, pruned.inputs)
    try:
        analysis, keep = fitting(found, Plan(pruned.plan.keep, pruned.plan.dense_shapes))
    except PlanError as error:
        raise InputError(
            f"The pruned network's plan does not fit dense: {error} Give the network that was handed to prune; "
            "after several cuts, recover after each of them."
        ) from error
    label_keep = analysis.groups.label_keep(keep)
    graph, copies = twin_graph(analysis.groups, label_keep, pruned.plan.keep)
    pair = Twin(analysis.groups, label_keep, Walker(found.traced.module), Walker(graph), copies)
    _take_weights(pair, pruned.model)
    _check_same(graph, pruned)
    return pair


def _take_weights(found: Twin, model: nn.Module) -> None:
    """The pruned network's present weights: it may have been trained since the cut."""
    for name, tensor in model.state_dict().items():
        mine = found.tensors.get(name)
        if mine is None or not isinstance(tensor, Tensor):
            continue
        if mine.shape != tensor.shape:
            raise InputError(
                f"The pruned network's {name!r} has shape {tuple(tensor.shape)}; cut from dense by its plan it would "
                f"have {tuple(mine.shape)}. Give the dense network that this one was cut from."
            )
        found.write(name, tensor)


def _check_same(graph: GraphModule, pruned: Pruned) -> None:
    """The graph has to compute what the network computes, or what is fitted would not fit it."""
    args, kwargs = to_args(pruned.inputs)
    tensors = [t for t in (*args, *kwargs.values()) if isinstance(t, Tensor)]
    mode = {m: m.training for m in pruned.model.modules()}
    with preserved_rng(*tensors), torch.no_grad():
        try:
            pruned.model.eval()
            want = call(pruned.model, pruned.inputs)
            got = graph(*args, **kwargs)
        except Exception as error:
            raise InputError(
                f"The pruned network's operators cannot be paired with the dense network's: {error}. Prune with "
                "backend='graph' and recover that."
            ) from error
        finally:
            for module, training in mode.items():
                module.training = training
    for a, b in zip(pytree.tree_leaves(want), pytree.tree_leaves(got), strict=True):
        if isinstance(a, Tensor) and a.is_floating_point() and _apart(a, b) > TOLERANCE:
            raise InputError(
                f"The pruned network differs by {_apart(a, b):.1e} (relative) from the graph of the dense network "
                "under its plan. Give the dense network that it was cut from."
            )


def _apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / one.abs().max().clamp_min(1e-30)) if one.numel() else 0.0


def parameter(graph: GraphModule, name: str) -> Tensor:
    """A weight or statistic of a graph by name."""
    found = operator.attrgetter(name)(graph)
    assert isinstance(found, Tensor)
    return found.detach()
