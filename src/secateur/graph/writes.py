"""Operators that write in place, and operators whose result may share memory."""

from __future__ import annotations

import operator

from torch.fx import GraphModule, Node

__all__ = ["may_alias", "mutates", "written_names"]

_STATISTICS = {"aten.batch_norm.default": ((3, 4), 5), "aten.instance_norm.default": ((3, 4), 5)}
"""Operators that update running statistics without saying so: where these stand, and the switch."""


def mutates(node: Node) -> bool:
    """Whether an operator writes into one of its arguments."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and bool(schema.is_mutable)


def may_alias(node: Node) -> bool:
    """Whether the result may share memory with the first argument."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return node.target is operator.getitem
    named = str(node.target).split(".")[1] in ("reshape", "contiguous", "flatten", "to", "expand_as")
    return named or any(r.alias_info is not None for r in schema.returns)


def written_names(graph: GraphModule) -> set[str]:
    """Names of the parameters and buffers that the graph writes into, directly or through a view."""
    root: dict[Node, Node] = {}
    found: set[str] = set()
    for node in graph.graph.nodes:
        first = node.args[0] if node.args and isinstance(node.args[0], Node) else None
        root[node] = root[first] if first is not None and may_alias(node) else node
        into = [root[first]] if mutates(node) and first is not None else []
        places, switch = _STATISTICS.get(str(node.target), ((), 0))
        if places and node.args[switch]:
            into += [root[node.args[k]] for k in places if isinstance(node.args[k], Node)]
        found |= {str(n.target) for n in into if n.op == "get_attr"}
    return found
