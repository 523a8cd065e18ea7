"""The registry of operators: one entry holds the rules of an operator and the facts about it.

The entries are written in :mod:`secateur.graph.ops`, by family. This module does not import them, so that everything in
``graph`` can ask; they are read when somebody asks first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from torch._ops import OpOverload
from torch.fx import Node

from secateur.core.registry import Registry
from secateur.graph.facts import Bounds, Facts
from secateur.graph.schema import arguments, plain_name

if TYPE_CHECKING:
    from torch import Tensor

    from secateur.graph.flow import Call, MacTerm
    from secateur.graph.masked import Masked
    from secateur.graph.rewriting import Rewriter

__all__ = ["KNOWN", "OPERATORS", "Operator", "facts", "facts_of", "find", "known", "operator"]

_NOTHING = Facts()


@dataclass
class Operator:
    """The rules of one operator.

    Attributes:
        flow: Labels of the outputs from those of the inputs; states constraints on the way.
        rewrite: Recomputes constant sizes in the arguments after a cut.
        macs: Multiply-accumulates of a call, for operators that contract.
        reference: Value on masked tensors, where that is not the operator applied to zeros.
        facts: What else is known of it.
        numbers: Whether ``flow`` sees to values that are numbers of entries (``Labels.points``).
    """

    flow: Callable[[Call], Any]
    rewrite: Callable[[Rewriter], None] | None = None
    macs: Callable[[Call], MacTerm] | None = None
    reference: Callable[[Masked], Tensor] | None = field(default=None)
    facts: Facts = _NOTHING
    numbers: bool = False


OPERATORS: Registry[Operator] = Registry("operator", check="secateur.graph.conformance:check_operator")
KNOWN: Registry[Facts] = Registry("known operator", check="secateur.graph.conformance:check_facts")
"""Facts about operators that have no rule."""


def operator(
    *names: str,
    rewrite: Callable[[Rewriter], None] | None = None,
    macs: Callable[[Call], MacTerm] | None = None,
    reference: Callable[[Masked], Tensor] | None = None,
    facts: Facts = _NOTHING,
    numbers: bool = False,
) -> Callable[[Callable[[Call], Any]], Callable[[Call], Any]]:
    """Registers a flow rule, and what belongs to it, for operators given by name (``"aten.conv2d"``)."""

    def decorate(flow: Callable[[Call], Any]) -> Callable[[Call], Any]:
        for name in names:
            OPERATORS.add(name, Operator(flow, rewrite, macs, reference, facts, numbers))
        return flow

    return decorate


def known(*names: str, facts: Facts) -> None:
    """States facts about operators that have no rule: they still pin what touches them."""
    for name in names:
        KNOWN.add(name, facts)


def find(target: OpOverload) -> Operator | None:
    """Returns the rules of an overload, or ``None`` where nobody wrote any.

    In-place forms are found under the name of the operator itself.
    """
    _read_families()
    found = OPERATORS.get(str(target.overloadpacket))
    return OPERATORS.get(plain_name(target)) if found is None and target._schema.is_mutable else found


def facts_of(name: str) -> Facts:
    """What is known of an operator by name, whatever it is called with; no claims where nobody made any.

    >>> from secateur.graph.ops import facts_of
    >>> facts_of("aten.relu").homogeneous, facts_of("garden.swish").homogeneous
    (True, False)
    """
    _read_families()
    entry = OPERATORS.get(name) or OPERATORS.get(name.removesuffix("_"))
    return entry.facts if entry is not None else KNOWN.get(name) or _NOTHING


def facts(node: Node) -> Facts:
    """What is known of one operator call, with the arguments that it has; no claims where nobody made any."""
    if not isinstance(node.target, OpOverload):
        return _NOTHING
    found, call = facts_of(str(node.target.overloadpacket)), arguments(node)
    if found.pointwise and len(node.all_input_nodes) > 1:  # a bound that is a tensor, or a size
        found = replace(found, pointwise=False)
    return found.given(call)


def bounds(node: Node) -> Bounds | None:
    """Outside of which numbers an operator call gives always the same; ``None`` where nothing is known."""
    return facts(node).bounds(arguments(node)) if isinstance(node.target, OpOverload) else None


@cache
def _read_families() -> None:
    import_module("secateur.graph.ops")
