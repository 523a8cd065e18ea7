"""What a network leaves to chance in train mode and its code then decides by: layers left out, masks drawn by NumPy."""

from __future__ import annotations

import random
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

__all__ = ["drawn_since", "middle", "seeded", "settled", "states", "traced_draws"]

aten = torch.ops.aten


def seeded(seed: int = 0) -> None:
    """Makes what Python and NumPy draw the same in every run, for train mode."""
    random.seed(seed)
    np.random.seed(seed)


def drawn_since(state: tuple[Any, Any]) -> bool:
    """Whether Python or NumPy drew anything since :func:`states` gave ``state``."""
    now = states()
    return now[0] != state[0] or any(not np.array_equal(a, b) for a, b in zip(now[1], state[1], strict=True))


def states() -> tuple[Any, Any]:
    """The states of Python's and of NumPy's generator."""
    return random.getstate(), np.random.get_state()


def traced_draws(training: bool) -> None:
    """Makes what Python and NumPy draw while a network is traced the same in train mode, and in eval mode other than
    when it is called: a graph of a network that draws there would be taken for the network."""
    seeded(0 if training else _UNLIKELY)


_UNLIKELY = 1_836_311_903
"""A seed that nobody else takes."""


def _settled(func: Any, size: Any) -> bool:
    """Whether an operator draws a single uniform number, which code may decide by (``torch.rand([]) < layerdrop``)."""
    if func is not aten.rand.default or not isinstance(size, (list, tuple)):
        return False
    return all(type(s) is int for s in size) and prod(size) == 1


def middle(func: Any, args: Any, kwargs: Any) -> Tensor | None:
    """The middle of its law for a single uniform number, the same in every run; ``None`` for all others.

    What is left out by chance mostly stays, so the way through the network that is looked at is the usual one.
    """
    if not _settled(func, args[0] if args else None):
        return None
    return torch.full(tuple(args[0]), 0.5, **kwargs)


def settled(node: Node) -> bool:
    """Whether what was written down draws such a number."""
    return _settled(node.target, node.args[0] if node.args else None)
