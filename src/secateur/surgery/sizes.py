"""Sizes that a network's code has in attributes are solved for, so that its class stays.

The network is recorded once more with numbers that remember which attribute or which size of a tensor they are. A
number that an operator is called with is then an expression of these; what it has to become, the operator's ``rewrite``
says; the sizes of tensors after the cut, the labels say. What is left unknown are the attributes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.fx import Node

from secateur.core.plan import Place
from secateur.graph.again import NUMBERS, Path, Tagged
from secateur.graph.batch import Batch
from secateur.graph.flow import module_of
from secateur.graph.groups import Groups
from secateur.graph.labels import Labels
from secateur.graph.numbers import Expression, Free, Guard, call_of
from secateur.graph.record import record_tagged
from secateur.graph.schema import bound
from secateur.graph.traced import Traced
from secateur.surgery.graph import rewritten

__all__ = ["Conflict", "Equation", "Sizes", "Solver", "leaves", "solved_sizes"]

Mask = NDArray[np.bool_]

Leaf = tuple[Any, ...]
"""``("attribute", place)``."""


@dataclass(frozen=True)
class Conflict:
    """A number that an operator is called with, and that no attribute can make what it has to be.

    Attributes:
        module: Name of the module that calls the operator.
        operator: Its name.
        places: Attributes that the number is computed from.
        wanted: What it has to become.
    """

    module: str
    operator: str
    places: tuple[Place, ...]
    wanted: int


@dataclass(frozen=True)
class Sizes:
    """What the attributes of a network have to become.

    Attributes:
        numbers: Places whose numbers change, with the new ones.
        before: What was there.
        conflicts: What they cannot say.
        read: Places whose numbers the network's code computes sizes from, with what they have to be.
    """

    numbers: Mapping[Place, int] = field(default_factory=dict)
    before: Mapping[Place, int] = field(default_factory=dict)
    conflicts: tuple[Conflict, ...] = ()
    read: Mapping[Place, int] = field(default_factory=dict)


def solved_sizes(model: nn.Module, groups: Groups, label_keep: Mask) -> Sizes:
    """Solves for the whole numbers in a network's attributes.

    Args:
        model: The dense network; it is not touched.
        groups: Its groups.
        label_keep: Which labels stay, shape (labels,).

    Returns:
        What changes; attributes that no operator's sizes depend on are not among it.

    Raises:
        Exception: Whatever the network raises when its numbers are of a class of ours.
    """
    unknown = dict[Place, int]()
    equations, equal = list[Equation](), list[tuple[Expression, Expression]]()
    for view in groups.flow.views:
        if not view.recorded:
            continue
        again, places = record_tagged(model, view)
        unknown |= places
        reader = _Reader(groups, label_keep, view, again)
        equations += reader.equations()
        equal += [(reader.filled(g.left), reader.filled(g.right)) for g in again.log.guards if _says_equal(g)]
    solver = Solver(equations, equal, unknown)
    solver.solve()
    new = {p: solver.known["attribute", p] for p in unknown if ("attribute", p) in solver.known}
    read = {leaf[1] for e in equations for leaf in leaves(e.made)}
    changed = {p: n for p, n in new.items() if n != unknown[p]}
    known = {p: new.get(p, unknown[p]) for p in sorted(read, key=str)}
    return Sizes(changed, {p: unknown[p] for p in changed}, tuple(solver.conflicts()), known)


def _says_equal(guard: Guard) -> bool:
    return (guard.comparison, guard.outcome) in (("eq", True), ("ne", False))


# --------------------------------------------------------------------------------------------------- equations


@dataclass(frozen=True)
class Equation:
    """What a number is made of, and what it has to be after the cut.

    Attributes:
        made: An expression of attributes.
        wanted: Its value.
        module: Name of the module that calls the operator.
        operator: Its name.
    """

    made: Expression
    wanted: int
    module: str = ""
    operator: str = ""


_NO_SIZES = {"dim", "dims", "dim0", "dim1", "axis", "axis0", "axis1", "start_dim", "end_dim", "source", "destination",
             "step", "dtype", "layout"}  # fmt: skip
"""Arguments of operators that are whole numbers, but no sizes."""


class _Reader:
    """Reads the equations off one way through a network."""

    def __init__(self, groups: Groups, label_keep: Mask, view: Traced, again: Tagged) -> None:
        assert view.odd is not None
        self.groups, self.keep, self.view, self.again = groups, label_keep, view, again
        self.batch: Batch = view.odd
        self.copies = rewritten(groups, label_keep, view)
        self.origins = {copy: node for node, copy in self.copies.items()}
        self.nodes = {node.name: node for node in view.nodes}

    def equations(self) -> Iterator[Equation]:
        """One for every number of an operator that Python did not write as a plain one."""
        left: dict[int, list[Free]] = {}  # of a call of PyTorch's, which may call several operators in turn
        for first, second in self.again.pairs:
            given = self.again.tags[second]
            if not given or not isinstance(first.target, torch._ops.OpOverload):
                continue
            numbers = left.setdefault(id(given), list(given))
            for path, value in first.meta[NUMBERS]:
                if not self._is_size(first, path):
                    continue
                at = next((k for k, number in enumerate(numbers) if int.__index__(number) == value), None)
                if at is None:
                    continue
                number = numbers[at]
                del numbers[: at + 1]
                wanted = self._wanted(first, path, value)
                if wanted is not None:
                    yield Equation(self.filled(number.expression), wanted, module_of(first), str(first.target))

    @staticmethod
    def _name(node: Node, path: Path) -> str:
        first: Any = path[0]
        schema = node.target._schema.arguments  # type: ignore[union-attr]
        return first if isinstance(first, str) else str(schema[first].name)

    def _is_size(self, node: Node, path: Path) -> bool:
        name = self._name(node, path)
        kinds = {a.name: str(a.type) for a in node.target._schema.arguments}  # type: ignore[union-attr]
        return name not in _NO_SIZES and "int" in kinds[name].lower()

    def _wanted(self, node: Node, path: Path, value: int) -> int | None:
        """What the number has to become, as the operator's ``rewrite`` says; ``None`` where it is written otherwise."""
        copy, name = self.copies[node], self._name(node, path)
        arguments = bound(copy.target, copy.args, copy.kwargs)
        if copy.target is not node.target:
            return self._piece(arguments.get("split_sizes"), name, path)
        found = arguments[name]
        for place in path[1:]:
            found = found[place]
        wanted = self._value(found)
        if wanted is None or value >= 0 or not arguments.get("dim") or found == value:
            return wanted
        return wanted - self._size(node.all_input_nodes[0], arguments["dim"])  # counted from the end

    def _piece(self, sizes: Any, name: str, path: Path) -> int | None:
        """A split into pieces of one size has become one into given sizes."""
        if sizes is None:
            return None
        if len(path) > 1:
            return self._value(sizes[path[1]])
        first = self._value(sizes[0])
        equal = all(size == sizes[0] for size in sizes[:-1]) and first is not None and sizes[-1] <= first
        return first if equal and name == "split_size" else None

    def _value(self, argument: Any) -> int | None:
        """The value of a size that may be computed from the batch."""
        if type(argument) is int:
            return argument
        if not isinstance(argument, Node):
            return None
        if argument.target is torch.ops.aten.sym_size.int:
            node, dim = self.origins[argument.args[0]], argument.args[1]  # type: ignore[index]
            followed = node.op == "placeholder" and not dim and self.batch.prime is not None
            return self.batch.odd if followed else self._size(node, int(dim))  # type: ignore[arg-type]
        values = [self._value(a) for a in argument.args]
        function: Any = argument.target
        return None if None in values or not callable(function) else int(function(*values))

    def filled(self, made: Expression) -> Expression:
        """An expression with the sizes of tensors after the cut in it."""
        if not isinstance(made, tuple) or made[0] == "attribute":
            return made
        if made[0] == "dim":
            return self._size(self.nodes[made[1]], made[2])
        return (made[0], *(self.filled(part) for part in made[1:]))

    def _size(self, node: Node, dim: int) -> int:
        """The size of a dimension after the cut, at the batch that was recorded."""
        shape = self.again.sizes.get(node)
        size = int(node.meta["val"].shape[dim] if shape is None else shape[dim])
        labels = self.groups.flow.labels.get(node)
        mask = self.groups.masks(labels, self.keep).get(dim % labels.ndim) if isinstance(labels, Labels) else None
        return size if mask is None else size * int(mask.sum()) // len(mask)


# ----------------------------------------------------------------------------------------------------- solving


def leaves(made: Expression) -> Iterator[Leaf]:
    """The attributes that a number is computed from."""
    if isinstance(made, tuple):
        if made[0] == "attribute":
            yield made
        else:
            for part in made[1:]:
                yield from leaves(part)


class Solver:
    """Attributes one after the other: those that an equation leaves as its only unknown."""

    def __init__(
        self, equations: Sequence[Equation], equal: Sequence[tuple[Expression, Expression]],
        unknown: Mapping[Place, int],
    ) -> None:  # fmt: skip
        """What holds, what the network's code says is equal, and what is in the attributes now."""
        self.equations = sorted(equations, key=lambda e: len(list(leaves(e.made))))
        self.equal, self.unknown, self.known = equal, unknown, dict[Leaf, int]()

    def solve(self) -> None:
        """Until nothing more can be found out."""
        while self._one() or self._one_equal() or self._one_of_several():
            pass

    def conflicts(self) -> Iterator[Conflict]:
        """Numbers that do not become what they have to."""
        full = self.known | {("attribute", p): n for p, n in self.unknown.items() if ("attribute", p) not in self.known}
        for equation in self.equations:
            if self._value(equation.made, full) != equation.wanted:
                places = tuple(leaf[1] for leaf in leaves(equation.made))
                yield Conflict(equation.module, equation.operator, places, equation.wanted)

    def _missing(self, made: Expression) -> list[Leaf]:
        return list(dict.fromkeys(leaf for leaf in leaves(made) if leaf not in self.known))

    def _one(self) -> bool:
        return any(self._from(e.made, e.wanted, self._missing(e.made)) for e in self.equations)

    def _one_equal(self) -> bool:
        """From what the network's code says is equal."""
        for left, right in self.equal:
            for made, other in ((left, right), (right, left)):
                if not self._missing(other) and self._from(made, self._value(other, self.known), self._missing(made)):
                    return True
        return False

    def _one_of_several(self) -> bool:
        """Where several are unknown: one of them, if the others may stay as they were."""
        for equation in self.equations:
            missing = self._missing(equation.made)
            for leaf in missing if len(missing) > 1 else ():
                others = {o: self.unknown[o[1]] for o in missing if o != leaf}
                if self._from(equation.made, equation.wanted, [leaf], others):
                    return True
        return False

    def _from(
        self, made: Expression, wanted: int | None, missing: list[Leaf], assumed: Mapping[Leaf, int] | None = None
    ) -> bool:
        """Whether the one unknown could be found out."""
        if len(missing) != 1 or wanted is None:
            return False
        env = self.known | dict(assumed or {})
        found = _inverted(made, missing[0], wanted, env)
        if found is None or found < 1 or self._value(made, env | {missing[0]: found}) != wanted:
            return False
        self.known[missing[0]] = found
        return True

    @staticmethod
    def _value(made: Expression, env: Mapping[Leaf, int]) -> Any:
        if not isinstance(made, tuple):
            return made
        if made[0] == "attribute":
            return env[made]
        left, right = (Solver._value(part, env) for part in made[1:3])
        function, taken = call_of(made[0], left, right)
        try:
            return function(*taken)
        except (ZeroDivisionError, TypeError):
            return None


def _inverted(made: Expression, unknown: Leaf, wanted: Any, env: Mapping[Leaf, int]) -> int | None:
    """The value of the one unknown for which an expression has the value that is wanted; ``None`` for none found.

    >>> heads = ("attribute", "heads")
    >>> _inverted(("mul", 3, ("floordiv", 64, heads)), heads, 24, {})
    8
    """
    while made != unknown:
        name, left, right = made
        in_left, in_right = (unknown in set(leaves(part)) for part in (left, right))
        if in_left and in_right:
            return None
        other = Solver._value(right if in_left else left, env)
        found = None if other is None else _one_step(name, wanted, other, in_left)
        if found is None:
            return None
        made, wanted = (left if in_left else right), found
    return int(wanted) if wanted == int(wanted) else None


def _one_step(name: str, wanted: Any, other: Any, in_left: bool) -> Any:
    """What one operand has to be."""
    if name == "add":
        return wanted - other
    if name == "sub":
        return wanted + other if in_left else other - wanted
    if name == "mul":
        return wanted // other if other and wanted % other == 0 else None
    if name in ("floordiv", "truediv"):
        return wanted * other if in_left else (other // wanted if wanted else None)
    return wanted if name in ("floor", "ceil", "round") and in_left else None
