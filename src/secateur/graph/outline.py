"""A network's layers in the order of flow, and where their results meet: the graph without what only passes on."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from torch.fx import Node

from secateur.graph.facts import Kind
from secateur.graph.flow import Flow
from secateur.graph.reads import live
from secateur.graph.rules import facts

__all__ = ["Part", "Vertex", "outline"]

_PASSES_NO_VALUES = (Kind.SIZE, Kind.TYPE_CHECK)


class Part(StrEnum):
    """What a vertex is in a network."""

    INPUT = "input"
    LAYER = "layer"
    JOIN = "join"
    OUTPUT = "output"


@dataclass(frozen=True)
class Vertex:
    """An input, a layer that multiplies, an operator at which several results meet, or the output.

    Attributes:
        part: Which of them.
        node: The operator, placeholder or output of the traced graph.
        sources: Numbers of the vertices whose results reach it with no other vertex between, ascending.
    """

    part: Part
    node: Node
    sources: tuple[int, ...] = ()


def outline(flow: Flow) -> tuple[Vertex, ...]:
    """Returns the vertices in the order of execution.

    What has multiply-accumulates is a layer. An operator (a sum, a concatenation, a product with a gate) is a join if
    its operands come from different vertices; all others are left out, and their operands pass through them. So the
    stream of a residual network is a chain of joins, and not an edge from every block to every later one.
    """
    vertices: list[Vertex] = []
    behind: dict[Node, tuple[int, ...]] = {}
    needed = {*live(flow.traced)}
    for node in flow.traced.nodes:
        if node.op != "placeholder" and node not in needed:
            continue
        reached = sorted({number for given in node.all_input_nodes for number in behind.get(given, ())})
        part = _part(flow, node, several=len(reached) > 1)
        if part is not None:
            vertices.append(Vertex(part, node, tuple(reached)))
            behind[node] = (len(vertices) - 1,)
        elif node.op == "call_function" and facts(node).kind not in _PASSES_NO_VALUES:
            behind[node] = tuple(reached)
    return tuple(vertices)


def _part(flow: Flow, node: Node, *, several: bool) -> Part | None:
    if node.op in ("placeholder", "output"):
        return Part.INPUT if node.op == "placeholder" else Part.OUTPUT
    if node in flow.macs or node in flow.more_macs:
        return Part.LAYER
    return Part.JOIN if several and node.op == "call_function" and flow.labels.get(node) is not None else None
