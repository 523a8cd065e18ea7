"""A second recording of a network beside the first one: which sizes its code uses, and where they come from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.fx import Graph, Node

from secateur.graph.batch import Batch
from secateur.graph.numbers import Free, Log, Lost, free_numbers

__all__ = ["NUMBERS", "Again", "Path", "Tagged", "whole_numbers"]

Path = tuple[Any, ...]
"""Where an argument of an operator stands: its position or name, then positions in lists."""

NUMBERS = "numbers"
"""Meta data of what was recorded: the whole numbers that it was called with, as they were in that run."""


def whole_numbers(arguments: Iterable[Any], names: Iterable[Any] | None = None) -> list[tuple[Path, int]]:
    """Plain whole numbers among the arguments of an operator, in lists too, with where they stand."""
    found: list[tuple[Path, int]] = []
    for place, value in enumerate(arguments) if names is None else zip(names, arguments, strict=True):
        if type(value) is int:
            found.append(((place,), value))
        elif isinstance(value, (list, tuple)):
            found += [((place, *path), number) for path, number in whole_numbers(value)]
    return found


class Again:
    """A second recording beside the first one, at other sizes.

    Attributes:
        log: What was asked of sizes.
        pairs: Every node of the first recording with its counterpart.
        tags: Sizes that the call of each node of this recording was given.
        given: Sizes that the call that runs now was given.
    """

    def __init__(self, first: Graph) -> None:
        """``first`` is the graph that was recorded first."""
        self.log = Log()
        self.pairs: list[tuple[Node, Node]] = []
        self.tags: dict[Node, list[Free]] = {}
        self.given: list[Free] = []
        self._of: dict[Node, Node] = {}
        self._left = iter([n for n in first.nodes if NUMBERS in n.meta])

    def met(self, node: Node) -> None:
        """Finds the counterpart of a node.

        Raises:
            Lost: There is none.
        """
        first = next(self._left, None)
        if first is None or first.op != node.op or first.target != node.target:
            raise Lost("it calls other operators at another size")
        self.pairs.append((first, node))
        self.tags[node] = self.given
        self._of[node] = first

    def finished(self) -> None:
        """Nothing of the first recording is left."""
        if next(self._left, None) is not None:
            raise Lost("it calls fewer operators at another size")

    def first_of(self, node: Node | None) -> Node | None:
        """The counterpart of a node in the first recording."""
        return None if node is None else self._of.get(node)

    def shape(self, node: Node | None, shape: torch.Size, batch: Batch) -> torch.Size:
        """The shape of what a node gives, in numbers that remember where they come from."""
        first = self.first_of(node)
        if first is None:
            return shape
        known = first.meta["val"].shape
        if len(known) != len(shape):
            raise Lost("a tensor has other dimensions at another size")
        return torch.Size(
            [
                now if now == then or batch.follows(now) else Free(now, then, ("dim", first.name, dim), self.log)
                for dim, (now, then) in enumerate(zip(shape, known, strict=True))
            ]
        )

    def taken(self, arguments: Iterable[Any]) -> list[Free]:
        """The sizes that a call is given."""
        found = free_numbers(arguments)
        for number in found:
            if number.first == int.__index__(number):  # as the first run had it, at this size
                self.log.compared("eq", number, number.first)
        return found


class Tagged(Again):
    """A second recording at the same sizes, in which every number remembers which attribute or size it is.

    Attributes:
        sizes: Shapes that the network's code asked for, at the odd batch, by the node of the first recording.
    """

    def __init__(self, first: Graph) -> None:
        """``first`` is the graph that was recorded first."""
        super().__init__(first)
        self.log = Log(lenient=True)
        self.sizes: dict[Node, torch.Size] = {}

    def shape(self, node: Node | None, shape: torch.Size, batch: Batch) -> torch.Size:
        """The shape of what a node gives; the size of the batch itself is a plain number."""
        first = self.first_of(node)
        if first is None:
            return shape
        self.sizes[first] = shape
        return torch.Size(
            [
                size if size == batch.odd else Free(size, size, ("dim", first.name, dim), self.log)
                for dim, size in enumerate(shape)
            ]
        )

    def taken(self, arguments: Iterable[Any]) -> list[Free]:
        """The sizes that a call is given."""
        return [number for number in _flat(arguments) if isinstance(number, Free)]


def _flat(arguments: Iterable[Any]) -> Iterator[Any]:
    for value in arguments:
        if isinstance(value, (list, tuple)):
            yield from _flat(value)
        elif isinstance(value, slice):
            yield from (value.start, value.stop, value.step)
        else:
            yield value
