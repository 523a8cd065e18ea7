"""Operator calls by the names in their schema: the one place where positions become names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch.fx import Node

__all__ = ["arguments", "bound", "plain_name"]


def bound(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of an operator by name, defaults filled in.

    >>> import torch
    >>> bound(torch.ops.aten.leaky_relu.default, ("x",), {})
    {'negative_slope': 0.01, 'self': 'x'}
    """
    schema = target._schema.arguments
    found = {a.name: a.default_value for a in schema if a.has_default_value()}
    return found | dict(zip([a.name for a in schema], args, strict=False)) | dict(kwargs)


def arguments(node: Node) -> dict[str, Any]:
    """Arguments of an operator call in a graph by name (nodes where they are tensors), defaults filled in."""
    return bound(node.target, node.args, node.kwargs)


def plain_name(target: Any) -> str:
    """Name of an operator without overload and without the underscore of its form that writes in place.

    >>> import torch
    >>> plain_name(torch.ops.aten.relu_.default)
    'aten.relu'
    """
    return str(getattr(target, "overloadpacket", target)).removesuffix("_")
