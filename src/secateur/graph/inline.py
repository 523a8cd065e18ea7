"""Inlines the regions that export wraps: autocast switched off or on, gradients switched off."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch.fx import GraphModule, Node

from secateur.graph.facts import Kind
from secateur.graph.rules import facts

__all__ = ["REGION", "inline_regions"]

REGION = "_region_"
"""How the names of constants begin that belonged to a region."""

_FIRST_ARGUMENT = {"wrap_with_autocast": 5, "wrap_with_set_grad_enabled": 2}
"""Where the region's own arguments start; the subgraph comes just before them."""


def inline_regions(module: GraphModule) -> GraphModule:
    """Replaces every wrapped region by its operators, in place.

    Precision is the caller's matter afterwards: the graph computes in the types of its weights and inputs, as
    it does when no autocast is active.
    """
    graph = module.graph
    for node in [n for n in graph.nodes if facts(n).kind is Kind.TYPE_CHECK]:
        graph.erase_node(node)  # types are those of weights and inputs, whatever they were when it was traced
    while regions := [n for n in graph.nodes if _name(n) in _FIRST_ARGUMENT]:
        for node in regions:
            _inline(module, node)
    for node in list(graph.nodes):
        if node.op == "get_attr" and not node.users and isinstance(_attribute(module, node), GraphModule):
            graph.erase_node(node)
            module.delete_submodule(str(node.target))
    graph.lint()
    module.recompile()
    return module


def _name(node: Node) -> str:
    return str(getattr(node.target, "_name", "")) if node.op == "call_function" else ""


def _attribute(module: GraphModule, node: Node) -> Any:
    return operator.attrgetter(str(node.target))(module)


def _inline(module: GraphModule, node: Node) -> None:
    first = _FIRST_ARGUMENT[_name(node)]
    body, arguments = _attribute(module, node.args[first - 1]), node.args[first:]  # type: ignore[arg-type]
    places = [n for n in body.graph.nodes if n.op == "placeholder"]
    values: dict[Node, Any] = dict(zip(places, arguments, strict=True))
    with module.graph.inserting_before(node):
        for inner in body.graph.nodes:
            if inner.op == "output":
                results = torch.fx.node.map_arg(inner.args[0], lambda n: values[n])
            elif inner.op == "get_attr":
                values[inner] = _moved(module, body, inner)
            elif facts(inner).kind is Kind.TYPE_CHECK:
                continue
            elif inner.op != "placeholder":
                values[inner] = module.graph.node_copy(inner, lambda n: values[n])
    for user in list(node.users):
        if user.target is operator.getitem and isinstance(results, (tuple, list)):
            user.replace_all_uses_with(results[user.args[1]])  # type: ignore[index]
            module.graph.erase_node(user)
    if node.users:
        node.replace_all_uses_with(results)
    module.graph.erase_node(node)


def _moved(module: GraphModule, body: GraphModule, node: Node) -> Node:
    """Makes a constant or subgraph of the region one of the whole."""
    name = f"{REGION}{sum(1 for n in module.graph.nodes if n.op == 'get_attr')}_{str(node.target).replace('.', '_')}"
    value = _attribute(body, node)
    if isinstance(value, GraphModule):
        module.add_submodule(name, value)
    else:
        module.register_buffer(name, value, persistent=False)
    return module.graph.get_attr(name)
