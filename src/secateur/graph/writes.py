"""Operators that write in place, and operators whose result may share memory."""

from __future__ import annotations

import operator

from torch.fx import Node

__all__ = ["may_alias", "mutates"]


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
