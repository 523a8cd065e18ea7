"""The two stages of a tuning: block after block, and the whole network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.core.progress import watched
from secateur.criteria.least_squares.shelf import Shelf
from secateur.criteria.least_squares.twin import Twin
from secateur.criteria.least_squares.walk import Store, Values
from secateur.graph.writes import mutates
from secateur.recovery.errors import Relative
from secateur.recovery.tuning.blocks import Block, find_blocks
from secateur.recovery.tuning.loop import Clock, Outcome, descend
from secateur.recovery.tuning.samples import Samples
from secateur.recovery.tuning.weights import Weights

__all__ = ["Setting", "distil", "fit_blocks"]

NOTHING = 1e-10
"""A relative error below which a block computes what it did: there is nothing to fit."""


@dataclass(frozen=True)
class Setting:
    """What both stages are given.

    Attributes:
        pair: The two networks.
        names: Parameters that may change.
        samples: Inputs and wanted outputs.
        shelf: Where what waits is kept.
        generator: Draws the orders of batches.
    """

    pair: Twin
    names: Sequence[str]
    samples: Samples
    shelf: Shelf
    generator: torch.Generator


def fit_blocks(setting: Setting, epochs: int, rate: float, clock: Clock) -> tuple[list[tuple[Block, Outcome]], bool]:
    """Fits block after block to what the dense network computes there.

    A block's input is what the pruned network computes by then. Of the time that is left, every block gets the same.

    Returns:
        The blocks with what came of them, and whether the time was up before the end.

    Source: Li et al. 2021, BRECQ, arXiv:2102.05426, §3.2, for quantised networks.
    """
    pair, samples = setting.pair, setting.samples
    walkers = (pair.dense, pair.pruned)
    store = Store(walkers, setting.shelf)
    blocks, made = find_blocks(pair), list[tuple[Block, Outcome]]()
    for index in samples:
        store.add([w.begin(samples.inputs(index)) for w in walkers])
    at = (0, 0)
    try:
        with watched(blocks, "Fitting", "blocks", lambda block: block.name) as told:
            for number, block in enumerate(told):
                if clock.gone >= 1:
                    return made, True
                part = clock.part(1 / (len(blocks) - number))
                outcome = _Fit(setting, store, block, at).run(epochs, rate, part)
                if outcome is not None:
                    made.append((block, outcome))
                at = (block.end, block.stop)
    finally:
        store.close()
    return made, any(outcome.late for _, outcome in made)


class _Fit:
    """One block, with all batches before it."""

    def __init__(self, setting: Setting, store: Store, block: Block, at: tuple[int, int]) -> None:
        self._setting, self._store, self._block, self._at = setting, store, block, at
        self._pair = setting.pair
        self._error = Relative()
        self._writes = any(mutates(n) for n in self._pair.pruned.nodes)

    def run(self, epochs: int, rate: float, clock: Clock) -> Outcome | None:
        """Fits it, and takes both networks behind it; ``None`` where it has nothing to fit."""
        self._see()
        samples = self._setting.samples
        names, outcome = [n for n in self._block.parameters if n in self._setting.names], None
        if names and self._block.outputs and (before := samples.held_out(self.error)) > NOTHING:
            weights = Weights(self._pair, names, rate)
            outcome = descend(weights, samples.learned, self.error, lambda: samples.held_out(self.error),
                              epochs=range(epochs), count=epochs, clock=clock, generator=self._setting.generator,
                              before=before)  # fmt: skip
        self._pass()
        return outcome

    def _see(self) -> None:
        """Takes the dense network behind the block."""
        with torch.no_grad():
            for index in range(len(self._store)):
                dense, pruned = self._store.take(index)
                self._pair.dense.advance(dense, self._at[0], self._block.end)
                self._store.put(index, [dense, pruned])
                self._error.see(self._wanted(dense))

    def _wanted(self, dense: Values) -> list[Tensor]:
        return [self._pair.kept(node, dense[node]) for node, _ in self._block.outputs]

    def error(self, index: int) -> Tensor:
        """How far the block's outputs are from the dense network's, at the channels that are left."""
        dense, before = self._store.get(index)
        given = copy.deepcopy([*before.values()]) if self._writes else before.values()  # what they share stays shared
        pruned = dict(zip(before, given, strict=True))
        self._pair.pruned.advance(pruned, self._at[1], self._block.stop)
        return self._error([pruned[node] for _, node in self._block.outputs], self._wanted(dense))

    def _pass(self) -> None:
        """Takes the pruned network behind the block."""
        with torch.no_grad():
            for index in range(len(self._store)):
                dense, pruned = self._store.take(index)
                self._pair.pruned.advance(pruned, self._at[1], self._block.stop)
                self._store.put(index, [dense, pruned])


def distil(
    setting: Setting, weights: Weights, error: Callable[[int], Tensor], before: float, epochs: int, clock: Clock
) -> Outcome:
    """Trains all of the pruned network to give the dense network's outputs.

    Args:
        setting: The networks and the samples.
        weights: What moves.
        error: How far the outputs of a batch are apart.
        before: The held-out error now.
        epochs: Passes over the samples.
        clock: When to stop.
    """
    samples = setting.samples
    with watched(range(epochs), "Distilling", "epochs") as told:
        return descend(weights, samples.learned, error, lambda: samples.held_out(error), epochs=told, clock=clock,
                       generator=setting.generator, before=before, count=epochs)  # fmt: skip
