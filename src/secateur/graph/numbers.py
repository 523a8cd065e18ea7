"""Whole numbers that remember how they came about: sizes of tensors, and what the user's Python computes from them.

A network that runs a second time with inputs of other sizes is handed these in place of plain numbers. Each knows its
value in the first run too, so that a comparison whose outcome would be another one is noticed, and so is every outcome
that has to stay as it was.
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Self

__all__ = ["COMPARISONS", "Expression", "Free", "FreeFloat", "Guard", "Log", "Lost", "call_of", "free_numbers"]

Expression = Any
"""A number; ``("dim", name of a node, dimension)``; ``("attribute", place)``; or ``(name of an operator, expression,
expression)``."""

COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "lt": operator.lt, "le": operator.le, "eq": operator.eq, "ne": operator.ne, "ge": operator.ge, "gt": operator.gt,
}  # fmt: skip

_WHOLE = ("add", "sub", "mul", "floordiv", "mod")

_ROUNDS: dict[str, Callable[[Any], int]] = {"floor": math.floor, "ceil": math.ceil, "round": round}


def call_of(name: str, left: Any, right: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The function of an expression, and what it takes.

    >>> function, taken = call_of("floordiv", 7, 2)
    >>> function(*taken)
    3
    """
    return (_ROUNDS[name], (left,)) if name in _ROUNDS else (getattr(operator, name), (left, right))


class Lost(Exception):
    """A number is used in a way that cannot be followed; says how, to stand behind "because"."""


class _NoKey(Lost, TypeError):
    """A number is looked up in a table: of what takes its place there, nobody knows where it came from.

    A ``TypeError``, as of what has no hash, for libraries that keep tables for plain numbers alone.
    """


@dataclass(frozen=True)
class Guard:
    """A comparison of numbers whose outcome has to stay as it was.

    Attributes:
        left: What is compared.
        comparison: One of :data:`COMPARISONS`.
        right: What it is compared with.
        outcome: What came of it.
    """

    left: Expression
    comparison: str
    right: Expression
    outcome: bool


@dataclass
class Log:
    """What was asked of the numbers of one run.

    Attributes:
        guards: All comparisons, each once, in order.
        lenient: Whether a number that cannot be followed becomes a plain one, instead of an error.
        packages: Whose tables numbers may be looked up in: nothing of a run of ours is left in these.
    """

    guards: dict[Guard, None] = field(default_factory=dict)
    lenient: bool = False
    packages: frozenset[str] = frozenset()

    def lost(self, reason: str, plain: Any) -> Any:
        """A number that cannot be followed any more.

        Raises:
            Lost: Unless that is of no matter.
        """
        if self.lenient:
            return plain
        raise Lost(reason)

    def compared(self, name: str, left: Any, right: Any) -> bool:
        """The outcome of a comparison, written down.

        Raises:
            Lost: In the first run it was another one.
        """
        compare = COMPARISONS[name]
        outcome, before = bool(compare(_now(left), _now(right))), bool(compare(_first(left), _first(right)))
        if outcome != before:
            raise Lost("its code goes another way at another size")
        self.guards[Guard(_expression(left), name, _expression(right), outcome)] = None
        return outcome


class _Number:
    """What both kinds have in common."""

    first: Any
    expression: Expression
    log: Log

    def __new__(cls, value: float, first: float, expression: Expression, log: Log) -> Self:
        made = super().__new__(cls, value)  # type: ignore[call-arg]
        made.first, made.expression, made.log = first, expression, log
        return made

    def __bool__(self) -> bool:
        return self.log.compared("ne", self, 0)

    def __eq__(self, other: object) -> Any:
        return self.log.compared("eq", self, other) if isinstance(other, (int, float)) else NotImplemented

    def __ne__(self, other: object) -> Any:
        return self.log.compared("ne", self, other) if isinstance(other, (int, float)) else NotImplemented

    def __lt__(self, other: Any) -> Any:
        return self.log.compared("lt", self, other) if isinstance(other, (int, float)) else NotImplemented

    def __le__(self, other: Any) -> Any:
        return self.log.compared("le", self, other) if isinstance(other, (int, float)) else NotImplemented

    def __gt__(self, other: Any) -> Any:
        return self.log.compared("gt", self, other) if isinstance(other, (int, float)) else NotImplemented

    def __ge__(self, other: Any) -> Any:
        return self.log.compared("ge", self, other) if isinstance(other, (int, float)) else NotImplemented

    def __neg__(self) -> Any:
        return _applied("sub", 0, self)

    def __divmod__(self, other: Any) -> Any:
        return _applied("floordiv", self, other), _applied("mod", self, other)

    def __pow__(self, other: Any, modulus: Any = None) -> Any:
        if other == 2 and modulus is None:
            return _applied("mul", self, self)
        return self.log.lost("a size is raised to a power", pow(_now(self), other, modulus))

    def __deepcopy__(self, memo: Any) -> Any:
        """Copies are plain numbers, unless nothing is lost by their being followed too."""
        return self if self.log.lenient else _now(self)

    def __hash__(self) -> int:
        """That of the plain number, for the network's own code; a library would remember a number of ours for good."""
        asked = str(sys._getframe(1).f_globals.get("__name__", "")).partition(".")[0]
        if asked in self.log.packages or asked == "secateur":
            return hash(_now(self))
        raise _NoKey("a size is looked up in a table")


class Free(_Number, int):
    """A whole number.

    Args:
        value: In this run.
        first: In the first run.
        expression: How it came about.
        log: Of this run.
    """

    __hash__ = _Number.__hash__

    def __float__(self) -> float:
        """It cannot be followed."""
        return float(self.log.lost("a size becomes a broken number", float(_now(self))))

    def __reduce__(self) -> Any:
        """Copies are plain numbers."""
        return int, (_now(self),)


class FreeFloat(_Number, float):
    """A broken number that a size was divided into; it can be rounded."""

    __hash__ = _Number.__hash__

    def __int__(self) -> int:
        """It cannot be followed."""
        return int(self.log.lost("a size is divided and cut off by int()", int(_now(self))))

    def __trunc__(self) -> Any:
        """It cannot be followed."""
        return self.log.lost("a size is divided and cut off", math.trunc(_now(self)))

    def __floor__(self) -> Any:
        """Rounded down."""
        return _rounded("floor", math.floor, self)

    def __ceil__(self) -> Any:
        """Rounded up."""
        return _rounded("ceil", math.ceil, self)

    def __round__(self, digits: Any = None) -> Any:
        """Rounded."""
        if digits is not None:
            return self.log.lost("a size is rounded to digits", round(_now(self), digits))
        return _rounded("round", round, self)


def _rounded(name: str, rounds: Callable[[float], int], number: FreeFloat) -> Free:
    return Free(rounds(_now(number)), rounds(number.first), (name, number.expression, 0), number.log)


def _applied(name: str, left: Any, right: Any) -> Any:
    if not (isinstance(left, (int, float)) and isinstance(right, (int, float))):
        return NotImplemented
    compute = getattr(operator, name)
    value, first = compute(_now(left), _now(right)), compute(_first(left), _first(right))
    log = next(n.log for n in (left, right) if isinstance(n, _Number))
    kind = Free if isinstance(value, int) else FreeFloat
    return kind(value, first, (name, _expression(left), _expression(right)), log)


def _now(value: Any) -> Any:
    """As it is in this run."""
    if isinstance(value, int):
        return int.__index__(value)
    return float.__add__(value, 0.0)


def _first(value: Any) -> Any:
    """As it was in the first run."""
    return value.first if isinstance(value, _Number) else value


def _expression(value: Any) -> Expression:
    return value.expression if isinstance(value, _Number) else value


def _operator(name: str, turned: bool) -> Callable[[Any, Any], Any]:
    def method(self: Any, other: Any) -> Any:
        return _applied(name, other, self) if turned else _applied(name, self, other)

    return method


for _name in (*_WHOLE, "truediv"):
    for _kind in (Free, FreeFloat):
        setattr(_kind, f"__{_name}__", _operator(_name, False))
        setattr(_kind, f"__r{_name}__", _operator(_name, True))


def free_numbers(arguments: Iterable[Any]) -> list[Free]:
    """Those among the arguments of a call, in lists and slices too; raises :class:`Lost` for broken ones."""
    found: list[Free] = []
    for value in arguments:
        if isinstance(value, Free):
            found.append(value)
        elif isinstance(value, FreeFloat):
            raise Lost("a broken number that was computed from a size goes into an operator")
        elif isinstance(value, (list, tuple)):
            found += free_numbers(value)
        elif isinstance(value, slice):
            found += free_numbers((value.start, value.stop, value.step))
    return found
