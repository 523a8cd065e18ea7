"""Label-free tuning: one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite

import torch
from torch import Tensor, nn

from secateur.core import arguments
from secateur.core.errors import InputError, UnknownNameError
from secateur.core.inputs import Data
from secateur.criteria.least_squares.scale import check_scale
from secateur.criteria.least_squares.shelf import Shelf
from secateur.criteria.least_squares.sites import norms
from secateur.criteria.least_squares.twin import Twin
from secateur.cut.pruned import Pruned
from secateur.graph.calling import preserved_rng
from secateur.graph.copies import deep_copy
from secateur.recovery.errors import Relative, Scores, gives_scores
from secateur.recovery.tuning.blocks import Block
from secateur.recovery.tuning.loop import Clock, Outcome
from secateur.recovery.tuning.samples import Samples, run
from secateur.recovery.tuning.stages import Setting, distil, fit_blocks
from secateur.recovery.tuning.weights import Weights, free_names
from secateur.recovery.twin import check_unchanged, dense_of, twin

__all__ = ["BLOCK_EPOCHS", "EPOCHS", "LOSSES", "check_tuning", "tune"]

LOSSES = {
    "auto": "scores where the output is a linear layer's, one row of numbers a sample; else error",
    "scores": "Kullback-Leibler divergence from the dense network's class scores, at the temperature 4",
    "error": "squared error relative to the variance of the dense network's outputs, whatever these are",
}
BLOCK_EPOCHS, EPOCHS = 4, 4
"""Passes over the samples where nothing else is asked for."""
TEMPERATURE = 4.0
"""T of the divergence between class scores."""
BLOCKS_SHARE = 0.5
"""The share of the time that the blocks may take, where there is a bound."""


@arguments.checked
def tune(
    pruned: Pruned,
    data: Data,
    *,
    dense: nn.Module | None = None,
    block_epochs: int = BLOCK_EPOCHS,
    epochs: int = EPOCHS,
    seconds: float | None = None,
    memory_bytes: int | None = None,
    batch_size: int = 32,
    block_rate: float = 0.03,
    rate: float = 0.0003,
    loss: str = "auto",
    seed: int = 0,
) -> Pruned:
    """Trains a pruned network towards what the dense one computes: with gradients, without labels.

    It is the last step behind :func:`secateur.recover`, on the same inputs. First block after block (a residual block,
    the attention or the MLP of a transformer's layer): its output is fitted to the dense network's, its input is what
    the pruned network computes by then. Then the network as a whole is distilled. One sample in eight is held out: of
    each block the state is kept that does best there, and of the network the one whose output does, so what comes back
    is never worse on these samples than what came in. Batch normalisation keeps its running statistics, and weights
    that are zero stay zero.

    Sources: Li et al. 2021, BRECQ, arXiv:2102.05426, §3.2 (block reconstruction); Hinton et al. 2015,
    arXiv:1503.02531, §2 (distillation).

    Args:
        pruned: From :func:`secateur.recover` or :func:`secateur.prune`. It is not touched.
        data: Inputs, normalised as in training, in any form of :mod:`secateur.core.inputs`; labels are not looked at.
            At least 8 samples; 512 are good.
        dense: The network before the (first) cut, in any mode; not touched. ``pruned`` remembers it unless it was
            loaded or copied.
        block_epochs: Passes over the samples for every block; 0 leaves the blocks out.
        epochs: Passes over the samples for the whole network; 0 leaves the distillation out.
        seconds: When to stop, with the best state so far; the blocks may take half of it. Then the result depends on
            the machine; without it, it depends on the seed alone.
        memory_bytes: What samples, and activations that wait between two blocks, may take in memory beside the
            networks and one batch's gradients in one block; beyond it they go to temporary files. 1 GiB by default.
        batch_size: Samples that run at a time.
        block_rate: Adam's step in the blocks, as a share of a tensor's root mean square.
        rate: The same in the whole network.
        loss: One of :data:`LOSSES`: what is distilled, and what the held-out samples are judged by.
        seed: Of the order of the batches.

    Returns:
        A new result with the same plan; its notes say what became of the held-out error, and what was kept.

    Raises:
        InputError: Data that does not fit or is too little, NaN or infinite outputs, another network, no parameter that
            may change, a bound of nothing.
        UnknownNameError: No such loss.

    >>> import secateur, torch
    >>> _ = torch.manual_seed(0)
    >>> net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))
    >>> x = torch.randn(256, 4)
    >>> repaired = secateur.recover(secateur.prune(net, x[:2], ratio=0.5), x)
    >>> tuned = tune(repaired, x, epochs=20, loss="error")
    >>> bool(((tuned.model(x) - net(x)) ** 2).mean() < ((repaired.model(x) - net(x)) ** 2).mean())
    True
    """
    check_tuning(block_epochs=block_epochs, epochs=epochs, seconds=seconds, loss=loss)
    _check_amounts(memory_bytes, batch_size, block_rate, rate)
    dense = dense_of(pruned, dense, "tune")
    new = deep_copy(pruned.model)
    pair = twin(replace(pruned, model=new), dense)
    check_unchanged(pruned, dense)
    names = free_names(pair, new)
    if not names:
        raise InputError(
            "No parameter of the network may change: requires_grad is False for all of them. Set it to True for those "
            "that tuning may change."
        )
    error = _error(pair, loss)
    lasting, shelf = (block_epochs, epochs, block_rate, rate, Clock.of(seconds)), Shelf(memory_bytes)
    devices = [t for t in pair.tensors.values() if t.is_cuda][:1]
    try:
        with preserved_rng(*devices), torch.no_grad():
            samples = Samples(data, pair.groups.flow.traced, batch_size, shelf)
            notes = check_scale(pair.dense, norms(pair.groups.flow), samples.inputs(0))
            samples.ask(pair.dense)
            setting = Setting(pair, names, samples, shelf, torch.Generator().manual_seed(seed))
            notes += _Tuning(setting, error, *lasting).run()
    finally:
        shelf.close()
    return replace(pruned, model=pair.fill(new), notes=(*pruned.notes, *notes))


@dataclass(frozen=True)
class _Tuning:
    """Both stages, and what the held-out samples say of them."""

    setting: Setting
    error: Relative | Scores
    block_epochs: int
    epochs: int
    block_rate: float
    rate: float
    clock: Clock

    def run(self) -> list[str]:
        """Leaves the best state in the pruned graph; returns what to say of it."""
        setting, samples = self.setting, self.setting.samples
        for index in samples:
            self.error.see(samples.wanted(index))
        weights = Weights(setting.pair, setting.names, self.rate)
        first = best = samples.held_out(self._apart)
        if not isfinite(first):
            raise InputError(
                "The pruned network's output on these samples holds NaN or infinite numbers. Repair it first "
                "(secateur.recover), or look at the data's scale."
            )
        kept, fitted, late = "the network as it came in", False, False
        if self.block_epochs:
            share = BLOCKS_SHARE if self.epochs else 1.0
            made, late = fit_blocks(setting, self.block_epochs, self.block_rate, self.clock.part(share))
            after = samples.held_out(self._apart)
            if made and after < best:
                best, kept, fitted = after, _blocks(made), True
                weights.keep()
            weights.back()
        if self.epochs:
            weights = Weights(setting.pair, setting.names, self.rate)
            outcome = distil(setting, weights, self._apart, best, self.epochs, self.clock)
            late = late or outcome.late
            if outcome.after < best:
                best = outcome.after
                kept = f"{kept}, then the whole distilled" if fitted else "the whole distilled"
        return [_said(first, best, kept, self.error, late)]

    def _apart(self, index: int) -> Tensor:
        """How far the pruned network's output is from the dense one's."""
        samples = self.setting.samples
        return self.error(run(self.setting.pair.pruned, samples.inputs(index)), samples.wanted(index))


def _blocks(made: Sequence[tuple[Block, Outcome]]) -> str:
    better = sum(outcome.after < outcome.before for _, outcome in made)
    return f"blocks fitted ({better} of {len(made)})"


def _said(first: float, best: float, kept: str, error: Relative | Scores, late: bool) -> str:
    """One note for the user."""
    what = "divergence of the scores" if isinstance(error, Scores) else "relative error of the output"
    stopped = "; stopped when the time was up" * late
    change = f"{what} on held-out samples {first:.4g} → {best:.4g}"
    return f"tuned with gradients, without labels: {change}; kept: {kept}{stopped}"


def _error(pair: Twin, loss: str) -> Relative | Scores:
    scores = gives_scores(pair.dense.nodes[-1]) if loss == "auto" else loss == "scores"
    return Scores(TEMPERATURE) if scores else Relative()


def check_tuning(
    *,
    block_epochs: int = 1,
    epochs: int = 1,
    seconds: float | None = None,
    loss: str = "auto",
) -> None:
    """Checks what can be checked before there is a network.

    Raises:
        UnknownNameError: No such loss.
        InputError: A number that means nothing.
    """
    if loss not in LOSSES:
        raise UnknownNameError("loss of tuning", loss, LOSSES)
    if block_epochs < 0 or epochs < 0 or not block_epochs + epochs:
        raise InputError(
            f"block_epochs and epochs are 0 or more, and one of them at least 1; got {block_epochs} and {epochs}."
        )
    if seconds is not None and not seconds > 0:
        raise InputError(f"seconds is a number above 0 (or None for no bound); got {seconds!r}.")


def _check_amounts(memory_bytes: int | None, batch_size: int, block_rate: float, rate: float) -> None:
    if memory_bytes is not None and memory_bytes < 0:
        raise InputError(f"memory_bytes is a number of bytes, 0 or more (or None); got {memory_bytes!r}.")
    if batch_size < 1:
        raise InputError(f"batch_size is at least 1; got {batch_size!r}.")
    if not (0 < block_rate < 1 and 0 < rate < 1):
        raise InputError(f"block_rate and rate are between 0 and 1; got {block_rate!r} and {rate!r}.")
