"""The samples of a tuning: what is learned from, what is held out, and what the dense network gives for both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from secateur.core.errors import InputError
from secateur.core.inputs import Data, calls
from secateur.core.samples import cut
from secateur.criteria.least_squares.shelf import Shelf
from secateur.criteria.least_squares.walk import Walker
from secateur.graph.traced import Traced

__all__ = ["HELD_OUT", "Samples"]

HELD_OUT = 8
"""One sample in so many is held out."""


class Samples:
    """Inputs of calls and the dense network's outputs, on a shelf.

    Every eighth sample is held out; where the network takes batches of one size alone, every eighth batch, or of fewer
    the last one.

    Attributes:
        learned: Numbers of the batches to learn from.
        held: Numbers of those that are held out.
        sizes: Samples of every batch.
    """

    def __init__(self, data: Data, traced: Traced, batch_size: int, shelf: Shelf) -> None:
        """Reads the data once.

        Raises:
            InputError: Data that does not fit, or too few samples to hold any out.
        """
        self._shelf, self.sizes = shelf, list[int]()
        self.learned, self.held = list[int](), list[int]()
        read = _by_sample(data, traced, batch_size) if traced.dynamic else _by_batch(data, traced)
        for inputs, size, held in read:
            (self.held if held else self.learned).append(len(self.sizes))
            shelf.put(("inputs", len(self.sizes)), inputs)
            self.sizes.append(size)
        if not self.held and len(self.learned) > 1:
            self.held.append(self.learned.pop())
        if not self.held or not self.learned:
            least, got = (HELD_OUT, sum(self.sizes)) if traced.dynamic else (2, len(self.sizes))
            what = "samples" if traced.dynamic else f"batches of {traced.batch} samples"
            raise InputError(
                f"Tuning holds out one sample in {HELD_OUT}, to see whether it helps, and needs at least {least} "
                f"{what}; got {got}. Give 128 samples or more."
            )

    def __iter__(self) -> Iterator[int]:
        """Numbers of all batches."""
        return iter(range(len(self.sizes)))

    def inputs(self, index: int) -> Any:
        """Positional and keyword inputs of a batch."""
        return self._shelf.get(("inputs", index))

    def wanted(self, index: int) -> list[Tensor]:
        """What the dense network gives for a batch."""
        found: list[Tensor] = self._shelf.get(("wanted", index))
        return found

    def ask(self, dense: Walker) -> None:
        """Runs the dense network on all of them.

        Raises:
            InputError: It gives NaN or infinite numbers.
        """
        for index in self:
            outputs = run(dense, self.inputs(index))
            if not all(bool(torch.isfinite(v).all()) for v in outputs if v.is_floating_point()):
                raise InputError(
                    "The dense network's output on these samples holds NaN or infinite numbers, so nothing can be "
                    "fitted to it. Look at the data's scale, or at the network's weights."
                )
            self._shelf.put(("wanted", index), outputs)

    def held_out(self, error: Callable[[int], Tensor]) -> float:
        """Mean error over the samples that are held out."""
        with torch.no_grad():
            total = sum(float(error(index)) * self.sizes[index] for index in self.held)
        return total / sum(self.sizes[index] for index in self.held)


def run(network: Walker, inputs: Any) -> list[Tensor]:
    """The tensors that a graph gives for inputs."""
    values = network.begin(inputs)
    network.advance(values, 0, len(network.nodes) - 1)
    return network.output(values)


_Read = Iterator[tuple[Any, int, bool]]
"""Inputs of calls, how many samples they are, and whether they are held out."""


def _by_sample(data: Data, traced: Traced, batch_size: int) -> _Read:
    seen = 0
    for batch in calls(data, traced, batch_size):
        last = (torch.arange(seen, seen + batch.size) + 1) % HELD_OUT == 0
        seen += batch.size
        for held in (False, True):
            part = (last == held).nonzero().flatten()
            if len(part):
                yield cut(batch.inputs, traced, part), len(part), held


def _by_batch(data: Data, traced: Traced) -> _Read:
    for number, batch in enumerate(calls(data, traced, traced.batch), start=1):
        yield batch.inputs, batch.size, number % HELD_OUT == 0
