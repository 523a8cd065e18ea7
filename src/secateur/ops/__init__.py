"""Operators by family: how labels flow, what is rewritten, what it costs, what it means when masked.

An operator is one entry; importing the families registers them. ``find`` looks an ATen overload up by the
name of its packet, in-place forms under the name of the operator itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from secateur.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor
    from torch._ops import OpOverload

    from secateur.graph.flow import Call, MacTerm
    from secateur.surgery.graph import Rewriter
    from secateur.surgery.reference import Masked

__all__ = ["OPERATORS", "Operator", "find", "operator"]


@dataclass
class Operator:
    """The rules of one operator.

    Attributes:
        flow: Labels of the outputs from those of the inputs; states constraints on the way.
        rewrite: Recomputes constant sizes in the arguments after a cut.
        macs: Multiply-accumulates of a call, for operators that contract.
        reference: Value on masked tensors, where that is not the operator applied to zeros.
    """

    flow: Callable[[Call], Any]
    rewrite: Callable[[Rewriter], None] | None = None
    macs: Callable[[Call], MacTerm] | None = None
    reference: Callable[[Masked], Tensor] | None = field(default=None)


OPERATORS: Registry[Operator] = Registry("operator")


def operator(
    *names: str,
    rewrite: Callable[[Rewriter], None] | None = None,
    macs: Callable[[Call], MacTerm] | None = None,
    reference: Callable[[Masked], Tensor] | None = None,
) -> Callable[[Callable[[Call], Any]], Callable[[Call], Any]]:
    """Registers a flow rule, and what belongs to it, for operators given by name (``"aten.conv2d"``)."""

    def decorate(flow: Callable[[Call], Any]) -> Callable[[Call], Any]:
        for name in names:
            OPERATORS.add(name, Operator(flow, rewrite, macs, reference))
        return flow

    return decorate


def find(target: OpOverload) -> Operator | None:
    """Returns the rules of an overload, or ``None`` where nobody wrote any."""
    name = str(target.overloadpacket)
    found = OPERATORS.get(name)
    if found is None and name.endswith("_") and target._schema.is_mutable:
        found = OPERATORS.get(name.removesuffix("_"))
    return found


# The files with the rules; they are read last because they use the decorator above.
for _name in ("attention", "contract", "elementwise", "index", "movement", "normalise", "pieces", "recurrent",
              "reduce", "reshape", "resize"):  # fmt: skip
    import_module(f"secateur.ops.{_name}")
