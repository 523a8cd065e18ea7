"""The layers of a network as a runtime meets them: operator, real sizes, and what is fused into it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

from torch.fx import Node

from secateur.cost.counts import Costs
from secateur.graph.flow import Call, Flow
from secateur.graph.ops import Kind, facts, facts_of, plain_name

__all__ = ["Layer", "LayerWidths", "sites"]


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer with all that its time depends on, but for its widths.

    Attributes:
        kind: ``conv`` or ``linear``.
        space: Extent of the input beside batch and channels: positions of a convolution, rows of a linear layer.
        kernel: Extent of the kernel; empty for a linear layer.
        stride: Stride per position.
        padding: Padding per position.
        dilation: Dilation per position.
        groups: 1; 0 for a depthwise convolution (as many groups as channels); else the number of groups.
        bias: Whether there is a bias (a batch norm after it makes one).
        followers: Names of the element-wise operators that run with it, in order.
    """

    kind: str
    space: tuple[int, ...]
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    bias: bool = True
    followers: tuple[str, ...] = ()

    @property
    def normalised(self) -> bool:
        """Whether a batch normalisation runs with it."""
        return any(facts_of(f"aten.{name}").kind is Kind.BATCH_NORM for name in self.followers)

    @property
    def key(self) -> str:
        """One line that tells layers apart, for the file of times."""
        parts = ("x".join(map(str, v)) if isinstance(v, tuple) else str(v) for v in astuple(self)[:-1])
        return " ".join((*parts, *self.followers))

    def channels_in(self, inner: int, outer: int) -> int:
        """Input channels, given the weight's contracted dimension (channels per group) and its output dimension."""
        return outer if self.groups == 0 else inner * self.groups


@dataclass(frozen=True)
class LayerWidths:
    """One layer of a network: which sizes of the network are its widths.

    Attributes:
        node: The operator.
        layer: What it is.
        outer: Slot (see :class:`~secateur.cost.counts.Costs`) of the weight's output dimension.
        inner: Slot of the weight's contracted dimension.
    """

    node: Node
    layer: Layer
    outer: int
    inner: int


def sites(costs: Costs) -> tuple[list[LayerWidths], set[Node]]:
    """Finds the layers of a network.

    Returns:
        The layers, in the order of execution, and all operators that are measured with them.
    """
    flow = costs.groups.flow
    found, covered = [], set()
    for node, (_, slots) in costs.macs.items():
        after = _followers(node)
        layer = _layer(flow, node, after)
        if layer is not None:
            found.append(LayerWidths(node, layer, slots[-2], slots[-1]))
            covered |= {node, *after}
    return found, covered


def _layer(flow: Flow, node: Node, after: Sequence[Node]) -> Layer | None:
    """The layer that an operator is, or ``None`` for one that is not measured by itself."""
    followers = tuple(_name(n) for n in after)
    call, kind = Call(flow, node), facts(node).kind
    if kind is Kind.LINEAR and call["input"].ndim > 1:
        return Layer("linear", call["input"].shape[1:-1], bias=call.get("bias") is not None, followers=followers)
    if kind is not Kind.CONV or isinstance(call["padding"], str):
        return None
    x, w = call["input"], call["weight"]
    if x.ndim != w.ndim:
        return None  # without a batch dimension
    groups = call["groups"]
    if groups > 1 and (w.shape[1] > 1 or w.shape[0] != groups):
        return None  # its groups may go, or shrink: priced by its multiply-accumulates
    positions = w.ndim - 2
    spread = {key: _each(call[key], positions) for key in ("stride", "padding", "dilation")}
    normalised = any(facts(n).kind is Kind.BATCH_NORM for n in after)
    bias = call.get("bias") is not None or normalised
    return Layer("conv", x.shape[2:], w.shape[2:], groups=int(groups == 1), bias=bias, followers=followers,
                 **spread)  # fmt: skip


def _each(value: Any, count: int) -> tuple[int, ...]:
    values = [value] if isinstance(value, int) else list(value)
    return tuple(values * count if len(values) == 1 else values)


def _followers(node: Node) -> list[Node]:
    """The operators after ``node`` that nothing else feeds and that runtimes fuse into it."""
    found: list[Node] = []
    while len(node.users) == 1:
        (node,) = node.users
        tensors = [n for n in node.all_input_nodes if n.op != "get_attr"]
        if len(tensors) != 1 or not facts(node).fused:
            break
        found.append(node)
    return found


def _name(node: Node) -> str:
    """``relu`` for ``aten.relu.default``, in-place forms under the name of the operator itself."""
    return plain_name(node.target).removeprefix("aten.")
