"""What takes the place of a module that was removed."""

from __future__ import annotations

from inspect import signature

import torch
from torch import nn

from secateur.core.errors import PlanError
from secateur.graph.ops import OPERATORS, Kind

__all__ = ["activations", "substitute"]


def activations() -> dict[str, type[nn.Module]]:
    """Activations that may follow the sum inside the module that is replaced, by operator; those of plug-ins too."""
    known = {name.removeprefix("aten."): OPERATORS[name].facts for name in OPERATORS}
    return {name: f.module for name, f in known.items() if f.kind is Kind.ACTIVATION and f.module is not None}


def substitute(kind: str) -> nn.Module:
    """The module that takes a removed one's place: ``identity``, an activation, ``leaky_relu 0.1``.

    Raises:
        PlanError: The plan names something else.

    >>> substitute("leaky_relu 0.1")
    LeakyReLU(negative_slope=0.1)
    """
    try:
        name, *numbers = kind.split()
        made = _made(nn.Identity if name == "identity" else activations()[name], [float(n) for n in numbers])
        made(torch.zeros(1))  # some classes look at their numbers only then
    except (KeyError, TypeError, ValueError, AssertionError, RuntimeError):
        known = ", ".join(["identity", *activations()])
        raise PlanError(f"The plan puts {kind!r} in a module's place; understood: {known}.") from None
    return made


def _made(module: type[nn.Module], numbers: list[float]) -> nn.Module:
    taken = [] if module is nn.Identity else [p for p in signature(module).parameters if p != "inplace"]
    if len(numbers) > len(taken):
        raise ValueError(f"{module.__name__} takes {len(taken)} numbers")
    return module(*numbers)
