"""Graphs as plain rows, for pickles: operators by name, results by their place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch.fx import Graph, Node
from torch.fx.graph import _PyTreeCodeGen

__all__ = ["packed", "unpacked"]


class _Result(NamedTuple):
    """The result of an earlier node."""

    place: int


class _Operator(NamedTuple):
    """An operator, which no pickle can hold."""

    name: str


def packed(graph: Graph) -> tuple[list[tuple[Any, ...]], Any]:
    """The nodes of a graph, and what it takes and gives."""
    places = {node: number for number, node in enumerate(graph.nodes)}

    def plain(value: Any) -> Any:
        return torch.fx.node.map_arg(value, lambda n: _Result(places[n]))

    rows = [(n.op, n.name, _named(n.target), plain(n.args), plain(n.kwargs)) for n in graph.nodes]
    return rows, getattr(graph._codegen, "pytree_info", None)


def unpacked(rows: Sequence[tuple[Any, ...]], info: Any) -> Graph:
    """The graph of :func:`packed`."""
    graph, nodes = Graph(), list[Node]()

    def filled(value: Any) -> Any:
        if isinstance(value, _Result):
            return nodes[value.place]
        if isinstance(value, dict):
            return {key: filled(inner) for key, inner in value.items()}
        return type(value)(map(filled, value)) if type(value) in (list, tuple) else value

    for op, name, target, args, kwargs in rows:
        found = _operator(target.name) if isinstance(target, _Operator) else target
        # fx keeps lists of its own class
        nodes.append(graph.create_node(op, found, filled(_plain(args)), filled(_plain(kwargs)), name))
    if info is not None:
        graph.set_codegen(_PyTreeCodeGen(info))
    return graph


def _plain(value: Any) -> Any:
    if isinstance(value, (_Result, str)):
        return value
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields") and not isinstance(value, torch.Size):
        return [*map(_plain, value)] if isinstance(value, list) else tuple(map(_plain, value))
    return value


def _named(target: Any) -> Any:
    return _Operator(str(target)) if isinstance(target, torch._ops.OpOverload) else target


def _operator(name: str) -> Any:
    library, packet, overload = name.split(".")
    return getattr(getattr(getattr(torch.ops, library), packet), overload)
