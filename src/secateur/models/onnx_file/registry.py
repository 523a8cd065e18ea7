"""The operators of ONNX that are read: one short function each."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from secateur.core.errors import InputError

__all__ = ["OPERATORS", "Layout", "OnnxOperator", "Refused", "reads"]


class Refused(InputError):
    """An operator, or a use of one, that is not read; says why, to stand behind the node's name."""


@dataclass(frozen=True)
class Layout:
    """Weights that PyTorch holds otherwise than the file.

    Attributes:
        load: From the file's arrays by formal name to tensors by name.
        store: From the tensors back to the arrays, and to the attributes that say their sizes.
        slots: Formal names that are taken.
    """

    load: Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]
    store: Callable[[dict[str, Any], dict[str, Any]], tuple[dict[str, Any], dict[str, Any]]]
    slots: tuple[str, ...]


@dataclass(frozen=True)
class OnnxOperator:
    """How an operator is computed.

    Attributes:
        run: Takes the node and what it is called with.
        numbers: Whether single broken numbers among its constants stay plain numbers.
        tensors: Formal names of constants that are tensors, although they are a few whole numbers.
        lists: Formal names of broken numbers that stay plain numbers, however many.
        buffers: Formal names of constants that are statistics, not weights.
        names: What PyTorch calls constants, by their formal names, where that is another name.
        layout: Of weights that PyTorch holds otherwise.
    """

    run: Callable[..., Any]
    numbers: bool = False
    tensors: frozenset[str] = field(default_factory=frozenset)
    lists: frozenset[str] = field(default_factory=frozenset)
    buffers: frozenset[str] = field(default_factory=frozenset)
    names: Mapping[str, str] = field(default_factory=dict)
    layout: Layout | None = None


OPERATORS: dict[str, OnnxOperator] = {}
"""By ONNX's own names."""


def reads(
    *operators: str, numbers: bool = False, tensors: Collection[str] = (), lists: Collection[str] = (),
    buffers: Collection[str] = (), names: Mapping[str, str] | None = None, layout: Layout | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:  # fmt: skip
    """Registers a function ``(node, *inputs)`` for operators of ONNX.

    Args:
        operators: Their names.
        numbers: Whether single broken numbers among the constants stay plain numbers.
        tensors: Formal names of constants that are tensors, although they are a few whole numbers.
        lists: Formal names of broken numbers that stay plain numbers, however many.
        buffers: Formal names of constants that are statistics, not weights.
        names: What PyTorch calls constants, by their formal names, where that is another name.
        layout: Of weights that PyTorch holds otherwise.
    """

    def add(run: Callable[..., Any]) -> Callable[..., Any]:
        for name in operators:
            OPERATORS[name] = OnnxOperator(
                run, numbers, frozenset(tensors), frozenset(lists), frozenset(buffers), dict(names or {}), layout
            )
        return run

    return add
