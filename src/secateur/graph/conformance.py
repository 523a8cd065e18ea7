"""What every operator's entry has to be: the rule of an operator that exists, and claims that numbers agree with.

That a rule is right is shown by networks that are pruned and verified: the proof looks at every single cut.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from math import inf

import torch
from torch import Tensor
from torch._ops import OpOverload

from secateur.core.errors import PluginError
from secateur.graph.facts import Facts
from secateur.graph.rules import Operator
from secateur.graph.schema import plain_name

__all__ = ["CLAIMS", "check_facts", "check_operator", "overloads"]


def overloads(name: str) -> tuple[OpOverload, ...]:
    """The forms of an operator that is loaded, by its name: ``aten.relu``.

    Raises:
        PluginError: Nobody has defined it.
    """
    library, _, rest = name.partition(".")
    packet = getattr(getattr(torch.ops, library, None), rest, None)
    if packet is None or not hasattr(packet, "overloads"):
        raise PluginError(
            f"PyTorch knows no operator {name!r}: import the library that defines it, and write its name as "
            "LIBRARY.NAME"
        )
    return tuple(getattr(packet, form) for form in packet.overloads())


def check_operator(name: str, operator: Operator) -> None:
    """The operator exists, its rules can be called, and what is claimed of it is so.

    Raises:
        PluginError: Something of this is not so.
    """
    forms = overloads(name)
    for role in ("flow", "rewrite", "macs", "reference"):
        rule = getattr(operator, role)
        if rule is not None and len(inspect.signature(rule).parameters) < 1:
            raise PluginError(f"its {role} takes no argument; it is given what the operator was called with")
    check_facts(name, operator.facts, forms)


def check_facts(name: str, facts: Facts, forms: tuple[OpOverload, ...] | None = None) -> None:
    """Claims about an operator of one tensor are so, for numbers.

    Raises:
        PluginError: One is not.
    """
    form = next((f for f in forms or overloads(name) if _takes_one_tensor(f)), None)
    claimed = [claim for claim in CLAIMS if getattr(facts, claim)]
    if form is not None and facts.flat is not None and not _flat(form, facts):
        raise PluginError(f"it is said to be flat outside {facts.flat}, and numbers say that it is not")
    if form is None or not claimed or facts.law is not None or facts.only:
        return
    sample = torch.randn(4, 3, 6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2
    if form(sample).ndim != sample.ndim:  # claims of a reduction are about those over some dimensions
        return
    for claim in claimed:
        if not CLAIMS[claim](form, sample):
            raise PluginError(f"it is said to be {claim}, and numbers say that it is not")


def _takes_one_tensor(form: OpOverload) -> bool:
    first, *others = form._schema.arguments or (None,)
    plain = first is not None and str(first.type) == "Tensor" and not form._schema.is_mutable
    one = len(form._schema.returns) == 1 and plain_name(form) != "aten.native_dropout"
    return plain and one and all(a.has_default_value() for a in others)


def pointwise(f: Callable[[Tensor], Tensor], x: Tensor) -> bool:
    """Whether an entry of f(x) depends on the same entry of x alone."""
    order = torch.randperm(x.numel(), generator=torch.Generator().manual_seed(1))
    found, again, alone = f(x), f(x.flatten()[order].reshape(x.shape)), f(x[:1])
    same = found.shape == x.shape and _agree(found.flatten()[order].reshape(x.shape), again)
    return same and _agree(found[:1], alone) and found.is_floating_point()


def homogeneous(f: Callable[[Tensor], Tensor], x: Tensor) -> bool:
    """Whether f(a·x) = a·f(x) with one a > 0 per channel, and the same f for every channel."""

    def turned(x: Tensor) -> Tensor:
        factors = torch.tensor([1.0, 2.0, 1 / 3], dtype=x.dtype).reshape(1, 3, *[1] * (x.ndim - 2))
        return (x * factors)[:, [2, 0, 1]]

    return _agree(f(turned(x)), turned(f(x)))


def makes_zeros(f: Callable[[Tensor], Tensor], x: Tensor) -> bool:
    """Whether f is exactly zero over a range of numbers."""
    zero = f(torch.linspace(-8, 8, x.numel(), dtype=x.dtype).reshape(x.shape)).flatten() == 0
    return bool((zero[1:] & zero[:-1]).any())


def same_entries(f: Callable[[Tensor], Tensor], x: Tensor) -> bool:
    """Whether f gives the entries of x in their order."""
    return torch.equal(f(x).flatten(), x.flatten())


def _flat(form: OpOverload, facts: Facts) -> bool:
    """Whether an operator, called with its defaults, is constant outside the bounds, and not just inside of them."""
    bounds = facts.bounds({a.name: a.default_value for a in form._schema.arguments})
    if bounds is None:
        return False
    finite = [b for b in bounds if abs(b) < inf]
    outside = all(torch.unique(form(torch.linspace(0, 9, 10).double() * side + b)).numel() == 1
                  for side, b in zip((-1, 1), bounds, strict=True) if b in finite)  # fmt: skip
    return outside and all(form(torch.tensor([b - 0.01, b + 0.01]).double()).diff() != 0 for b in finite)


CLAIMS: dict[str, Callable[[Callable[[Tensor], Tensor], Tensor], bool]] = {
    "pointwise": pointwise,
    "homogeneous": homogeneous,
    "makes_zeros": makes_zeros,
    "same_entries": same_entries,
}
"""Claims that numbers can check, each with the check: a function of the operator and a sample (N, 3, H, W)."""


def _agree(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-12, atol=1e-12, equal_nan=True)
