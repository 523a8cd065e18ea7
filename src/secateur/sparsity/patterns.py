"""Patterns of single weights: what is removed as one, and how a weight falls into such units."""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import Size, Tensor

from secateur.core.errors import InputError

__all__ = ["Pattern", "parse_pattern"]


@dataclass(frozen=True)
class Pattern:
    """How a weight falls into units, and back.

    Attributes:
        kind: ``element``, ``n:m``, ``block``, ``kernel``, ``filter`` or ``column``.
        n: Of n:m: how many stay; of blocks: rows.
        m: Of n:m: how many consecutive inputs; of blocks: columns.
    """

    kind: str
    n: int = 1
    m: int = 1

    def __str__(self) -> str:
        """The pattern as :func:`parse_pattern` reads it."""
        return {"n:m": f"{self.n}:{self.m}", "block": f"block {self.n}x{self.m}"}.get(self.kind, self.kind)

    def applies(self, weight: Tensor) -> bool:
        """Whether a weight has such units: only convolutions have kernels."""
        return self.kind != "kernel" or weight.ndim > 2

    def split(self, name: str, weight: Tensor) -> Tensor:
        """The weight as (units, entries of one unit); for n:m as (runs of m inputs, m).

        Blocks lie on the matrix (outputs, inputs · kernel entries), filters are its rows; runs of n:m along the
        inputs.

        Raises:
            InputError: Sizes that do not divide; names the layer.
        """
        if self.kind == "kernel":
            return weight.flatten(2).flatten(0, 1)
        if self.kind == "filter":
            return weight.flatten(1)
        if self.kind == "column":
            return weight.flatten(1).T
        if self.kind == "n:m":
            self._divides(name, weight.shape[1], self.m, "inputs")
            return weight.movedim(1, -1).reshape(-1, self.m)
        if self.kind == "block":
            matrix = weight.flatten(1)
            rows, columns = matrix.shape
            self._divides(name, rows, self.n, "rows")
            self._divides(name, columns, self.m, "columns")
            return matrix.reshape(rows // self.n, self.n, -1, self.m).transpose(1, 2).reshape(-1, self.n * self.m)
        return weight.reshape(-1, 1)

    def join(self, units: Tensor, shape: Size) -> Tensor:
        """The inverse of :meth:`split`: (units, entries) back to a weight's shape."""
        if self.kind == "n:m":
            return units.reshape(shape[0], *shape[2:], shape[1]).movedim(-1, 1)
        if self.kind == "block":
            rows = shape[0] // self.n
            return units.reshape(rows, -1, self.n, self.m).transpose(1, 2).reshape(shape)
        if self.kind == "column":
            return units.T.reshape(shape)
        return units.reshape(shape)

    def _divides(self, name: str, size: int, by: int, what: str) -> None:
        if size % by:
            raise InputError(
                f"The pattern {self} does not fit {name!r}: its {size} {what} are not a multiple of {by}. "
                f"Leave that layer out (ignore), or take another pattern."
            )


def parse_pattern(text: str) -> Pattern:
    """Reads ``element``, ``kernel``, ``filter``, ``column``, ``2:4`` (2 of 4 consecutive inputs stay) or ``block 4x4``.

    Raises:
        InputError: Anything else.

    >>> parse_pattern("2:4"), str(parse_pattern("4x1"))
    (Pattern(kind='n:m', n=2, m=4), 'block 4x1')
    """
    text = str(text).strip().lower().replace("×", "x")
    if text in ("element", "kernel", "filter", "column"):
        return Pattern(text)
    pair = re.fullmatch(r"(?:(?P<n>\d{1,4}):(?P<m>\d{1,4}))|(?:block[ _]?)?(?P<r>\d{1,4})x(?P<c>\d{1,4})", text)
    if pair and pair["n"] and 0 < int(pair["n"]) < int(pair["m"]):
        return Pattern("n:m", int(pair["n"]), int(pair["m"]))
    if pair and pair["r"] and int(pair["r"]) * int(pair["c"]) > 0:
        return Pattern("block", int(pair["r"]), int(pair["c"]))
    raise InputError(
        f"There is no pattern {text!r}. Known: element, kernel, filter, column, n:m with 0 < n < m (2:4 keeps 2 of 4 "
        "consecutive inputs), block RxC (block 4x4)."
    )
