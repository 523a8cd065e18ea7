"""The free batch of the recorder: sizes that follow it are told from others by an odd size, and written as expressions.

The size of the example is multiplied by a large prime. Whatever size is near a multiple of that prime follows the
batch, all others do not.
"""

from __future__ import annotations

import operator
from fractions import Fraction
from math import lcm
from typing import Any

from torch import Tensor
from torch.fx import Node

__all__ = ["NEAR", "Batch", "OfTheBatch", "ReadsValue", "Unfollowed", "prime_for", "with_value"]

PRIMES = (1_299_709, 1_512_857, 1_747_721)
"""What the batch is multiplied by: far from powers of two and ten, from squares, and from one another."""

NEAR = 64
"""How far from a multiple of the prime a size may be that follows the batch (one sample more, say)."""


class Unfollowed(Exception):
    """The recorder cannot follow this network; says why, to stand behind "because"."""


class ReadsValue(Unfollowed):
    """Python reads the value of a tensor; where that is a number which the network holds, it can be known."""


class OfTheBatch(Unfollowed):
    """Python computed a broken number from the size of the batch, as nothing shows but its value."""


def prime_for(tensors: list[Tensor]) -> int:
    """A prime that no size of the network's own tensors, or of the inputs, could be taken for."""
    sizes = {s for t in tensors for s in t.shape if s >= PRIMES[0] - NEAR}
    for prime in PRIMES:
        if all(min(size % prime, -size % prime) > NEAR for size in sizes):
            return prime
    raise Unfollowed("its tensors have sizes that stand for the batch elsewhere")


class Batch:
    """Tells sizes that follow the batch from others, and what they are in the example."""

    def __init__(self, size: int, prime: int | None) -> None:
        """``size`` is that of the example; without a ``prime`` nothing follows it."""
        self.size, self.prime = size, prime
        self.step = 1  # what the batch has to be a multiple of

    @property
    def odd(self) -> int:
        """The size in the place of the example's."""
        return self.size * (self.prime or 1)

    def follows(self, size: int) -> bool:
        """Whether a size follows the batch."""
        return self.prime is not None and size >= self.prime - NEAR and self._parts(size) is not None

    def parts(self, size: int) -> tuple[Fraction, int]:
        """A size as a share of the batch and a rest."""
        found = self._parts(size) if self.follows(size) else None
        return (Fraction(0), size) if found is None else (Fraction(found[0], self.size), found[1])

    def _parts(self, size: int) -> tuple[int, int] | None:
        """How many primes there are in a size, and what is left over; ``None`` where it has nothing to do with it."""
        assert self.prime is not None
        times = (size + self.prime // 2) // self.prime
        rest = size - times * self.prime
        if times and abs(rest) > NEAR:
            return None
        if times > self.prime // 2:
            raise Unfollowed("it multiplies the batch by itself")
        return (times, rest) if times else None

    def real(self, size: int) -> int:
        """A size as it is in the example."""
        if self.prime is None or size < self.prime - NEAR or (parts := self._parts(size)) is None:
            return size
        times, rest = parts
        self.step = lcm(self.step, Fraction(times, self.size).denominator)
        return times + rest

    def expression(self, size: int, batch: Node) -> Any:
        """Nodes that compute a size from that of the batch."""
        parts = self._parts(size)
        assert parts is not None
        share, value = Fraction(parts[0], self.size), batch
        self.step = lcm(self.step, share.denominator)
        call = batch.graph.call_function
        for apply, number in (operator.mul, share.numerator), (operator.floordiv, share.denominator):
            if number != 1:
                value = with_value(call(apply, (value, number)), apply(value.meta["val"], number))
        return with_value(call(operator.add, (value, parts[1])), self.real(size)) if parts[1] else value

    def hides(self, number: float) -> bool:
        """Whether a broken number was computed from the size of the batch: a share of it, or of its root."""
        if self.prime is None:
            return False
        powers = (p for n in (number, number * number) for p in (n * self.prime, n / self.prime))
        return any(_simple(abs(p)) for p in powers if 1e-3 < abs(p) < 1e3)


def _simple(number: float) -> bool:
    """Whether a number is a fraction of small whole numbers, to the last digits; others hardly ever are."""
    return abs(float(Fraction(number).limit_denominator(256)) - number) <= 1e-11 * number


def with_value(node: Node, value: Any) -> Node:
    """The node, with what it gives in the example."""
    node.meta["val"] = value
    return node
