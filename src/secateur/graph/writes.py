"""Operators that write in place, and operators whose result may share memory."""

from __future__ import annotations

import operator

from torch import Tensor, nn
from torch.fx import GraphModule, Node

from secateur.graph.rules import facts
from secateur.graph.schema import arguments

__all__ = ["may_alias", "mutates", "own_tensor", "written", "written_names"]


def mutates(node: Node) -> bool:
    """Whether an operator writes into one of its arguments."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and bool(schema.is_mutable)


def may_alias(node: Node) -> bool:
    """Whether the result may share memory with the first argument."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return node.target is operator.getitem
    return facts(node).aliases or any(r.alias_info is not None for r in schema.returns)


def written_names(graph: GraphModule) -> set[str]:
    """Names of the parameters and buffers that the graph writes into, directly or through a view."""
    root: dict[Node, Node] = {}
    found: set[str] = set()
    for node in graph.graph.nodes:
        first = node.args[0] if node.args and isinstance(node.args[0], Node) else None
        root[node] = root[first] if first is not None and may_alias(node) else node
        into = [root[n] for n in (*_written(node), *_updated(node))]
        found |= {str(n.target) for n in into if n.op == "get_attr"}
    return found


def written(graph: GraphModule) -> dict[str, Tensor]:
    """Copies of the tensors of its own that the graph writes into, directly or through a view."""
    return {n: t.detach().clone() for n in written_names(graph) if (t := own_tensor(graph, n)) is not None}


def own_tensor(graph: nn.Module, name: str) -> Tensor | None:
    """The parameter, buffer or constant of that name, ``None`` where there is no tensor."""
    try:
        value = operator.attrgetter(name)(graph)
    except AttributeError:
        return None
    return value if isinstance(value, Tensor) else None


def _written(node: Node) -> list[Node]:
    """Arguments that an operator says it writes into."""
    schema = getattr(node.target, "_schema", None)
    if schema is None or not schema.is_mutable:
        return []
    call = arguments(node)
    into = [call.get(a.name) for a in schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    several = [n for value in into for n in (value if isinstance(value, (list, tuple)) else [value])]
    return [n for n in several if isinstance(n, Node)]


def _updated(node: Node) -> list[Node]:
    """Arguments that an operator writes into without saying so: running statistics."""
    known = facts(node)
    call = arguments(node) if known.writes else {}
    found = [call[name] for name in known.writes] if call.get(known.writes_if) else []
    return [n for n in found if isinstance(n, Node)]
