"""What takes the place of a module that was removed."""

from __future__ import annotations

from torch import nn

from secateur.errors import PlanError
from secateur.ops import OPERATORS, Kind

__all__ = ["ACTIVATIONS", "substitute"]

_KNOWN = {name.removeprefix("aten."): OPERATORS[name].facts for name in OPERATORS}
ACTIVATIONS = {name: f.module for name, f in _KNOWN.items() if f.kind is Kind.ACTIVATION and f.module is not None}
"""Activations that may follow the sum inside the module that is replaced, by operator."""


def substitute(kind: str) -> nn.Module:
    """The module that takes a removed one's place: ``identity``, an activation, ``leaky_relu 0.1``.

    Raises:
        PlanError: The plan names something else.

    >>> substitute("leaky_relu 0.1")
    LeakyReLU(negative_slope=0.1)
    """
    name, *numbers = kind.split()
    try:
        return nn.Identity() if name == "identity" else ACTIVATIONS[name](*map(float, numbers))
    except (KeyError, TypeError, ValueError):
        known = ", ".join(["identity", *ACTIVATIONS])
        raise PlanError(f"The plan puts {kind!r} in a module's place; understood: {known}.") from None
