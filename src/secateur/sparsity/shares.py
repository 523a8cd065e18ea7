"""How much of every layer goes: one number, or one by layer name or pattern."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn

from secateur.core.errors import InputError
from secateur.core.patterns import checked, covered

__all__ = ["Amount", "shares"]

Amount = float | Mapping[str, float]
"""A number for every layer, or one by layer name or pattern."""


def shares(word: str, given: Amount | None, model: nn.Module | None, weights: Iterable[str]) -> dict[str, float]:
    """The number of every weight; where it is given by layer, of those that are named.

    Args:
        word: What the number is called: ``std`` is at least 0, anything else a share in [0, 1).
        given: The numbers; ``None`` for 0.
        model: The network; ``None`` to check the numbers alone.
        weights: Names of the parameters that may lose something.

    Raises:
        InputError: A number out of range, or names of layers that have no such weights.
        UnknownNameError: A name that fits nothing.

    >>> shares("ratio", {"*": 0.5, "2": 0.25}, nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1)), ["2.weight"])
    {'2.weight': 0.25}
    """
    table = given if isinstance(given, Mapping) else {"*": 0.0 if given is None else given}
    for name, value in table.items():
        fits = isinstance(value, int | float) and 0 <= value < (float("inf") if word == "std" else 1)
        if not fits:
            what = "weights" if word == "ratio" else word
            wanted = "a number, at least 0" if word == "std" else f"the share of {what} to remove, in [0, 1)"
            where = f" for {name!r}" if isinstance(given, Mapping) else ""
            raise InputError(f"{word} is {wanted}; got {value!r}{where}.")
    if model is None:
        return {}
    checked(table, [n for n, _ in model.named_modules() if n] + [n for n, _ in model.named_parameters()], word)
    found = {n: [value for name, value in table.items() if covered(n, [name])] for n in weights}
    found = {n: values for n, values in found.items() if values}
    if not found:
        raise InputError(f"None of the layers that {word} names ({', '.join(table)}) has weights that may go.")
    return {n: values[-1] for n, values in found.items()}
