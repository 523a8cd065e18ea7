"""How much of what is to go has gone after each round of an iteration."""

from __future__ import annotations

from collections.abc import Callable, Mapping

__all__ = ["SCHEDULES", "reached"]

SCHEDULES: Mapping[str, Callable[[float, float], float]] = {
    "linear": lambda final, t: final * t,
    "geometric": lambda final, t: 1 - (1 - final) ** t,
    "cubic": lambda final, t: final * (1 - (1 - t) ** 3),
}
"""Share removed at time ``t`` in [0, 1], given the share that is removed at the end."""


def reached(schedule: str, final: float, number: int, rounds: int) -> float:
    """Returns the share that is removed after round ``number`` (from 1) of ``rounds``.

    With t = number / rounds and the final share s: ``linear`` s·t (equal shares of the dense network),
    ``geometric`` 1 − (1 − s)^t (an equal share of what is left every round), ``cubic`` s·(1 − (1 − t)³) (Zhu and
    Gupta 2017, arXiv:1710.01878, equation 1, from 0: much at first, when much is redundant, and little at the end).

    >>> [round(reached("cubic", 0.8, i, 4), 4) for i in (1, 2, 3, 4)]
    [0.4625, 0.7, 0.7875, 0.8]
    """
    if number == rounds:
        return final  # exactly, whatever the powers give
    return SCHEDULES[schedule](final, number / rounds)
