"""Which multiples the widths that are left shall be."""

from __future__ import annotations

from secateur.core.errors import InputError
from secateur.core.types import Target
from secateur.runtimes import RUNTIMES

__all__ = ["AUTO", "step_of"]

AUTO = "auto"

_DEFAULT = "pytorch"  # what a pruned network runs in when nothing else is said


def step_of(round_to: int | str | None, target: Target | None = None) -> int:
    """The number that widths are multiples of.

    Args:
        round_to: A number, or ``auto`` for the widths at which the runtime is at full speed; ``None`` is ``auto``
            with a latency and 1 without.
        target: Its runtime is the one meant; PyTorch where it names none.

    Raises:
        UnknownNameError: There is no such runtime.
        InputError: Neither a number from 1 nor ``auto``.

    >>> step_of(None), step_of(8), step_of(None, Target(latency=0.5, runtime="onnxruntime"))
    (1, 8, 16)
    """
    if round_to is None:
        round_to = AUTO if target is not None and target.measured else 1
    if round_to == AUTO:
        return RUNTIMES[(target.runtime if target else None) or _DEFAULT].step
    if isinstance(round_to, str) or round_to < 1:
        raise InputError(f"round_to is at least 1, or {AUTO!r} for the runtime's own step; got {round_to!r}.")
    return round_to
