"""Of several networks that were cut from one, the one that computes most nearly what that computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import isfinite

import torch
from torch import nn

from secateur.core import arguments
from secateur.core.errors import InputError
from secateur.core.inputs import Data, calls
from secateur.criteria.least_squares.shelf import Shelf
from secateur.cut.pruned import Pruned
from secateur.graph.calling import outputs_of, preserved_rng
from secateur.graph.copies import running_copy
from secateur.graph.trace import trace
from secateur.graph.traced import Traced
from secateur.recovery.errors import Relative, Scores, gives_scores
from secateur.recovery.twin import dense_of

__all__ = ["closest"]


@arguments.checked
def closest(
    candidates: Sequence[Pruned], data: Data, *, dense: nn.Module | None = None, batch_size: int = 64
) -> Pruned:
    """Of several cuts or repairs of one network, the one whose output differs least from the dense network's.

    The difference is the Kullback-Leibler divergence from the dense network's class scores, where the output is a
    linear layer's, one row of numbers a sample; else the mean squared error relative to the variance of each output.
    Squared error prefers outputs that vary too little, class scores show what that does to the decision.

    Args:
        candidates: Results of :func:`secateur.prune` or :func:`secateur.recover` of the same network: other criteria,
            scopes, ratios, repairs. They are not touched.
        data: Samples without labels, in any form of :mod:`secateur.core.inputs`; best those that no repair has seen.
        dense: The network before the cut, in any mode; not touched. The candidates remember it unless they were
            loaded or copied.
        batch_size: Samples that run at a time.

    Returns:
        One of the candidates, with a note on the difference of each; of several that are as close, the first.

    Raises:
        InputError: No candidate, data that does not fit, or candidates of which none gives finite numbers.

    >>> import secateur, torch
    >>> _ = torch.manual_seed(0)
    >>> net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    >>> x = torch.randn(256, 4)
    >>> cut = secateur.prune(net, x[:2], ratio=0.5)
    >>> best = closest([cut, secateur.recover(cut, x)], x)
    >>> best.notes[-1]
    'closest of 2 by the divergence of the scores on 256 samples: 0.0..., 0.0... (this one)'
    """
    if batch_size < 1:
        raise InputError(f"batch_size is at least 1; got {batch_size!r}.")
    if not candidates:
        raise InputError("closest(candidates, data) chooses among one or more results of secateur.prune; got none.")
    dense = dense_of(candidates[0], dense, "closest")
    traced = trace(dense, candidates[0].inputs)
    error = Scores(1.0) if gives_scores(list(traced.nodes)[-1]) else Relative()
    shelf = Shelf()
    try:
        with torch.no_grad(), preserved_rng(*(p for p in dense.parameters() if p.is_cuda)):
            sizes = _wanted(dense, data, traced, batch_size, error, shelf)
            found = [_apart(one.model, sizes, error, shelf) for one in candidates]
    finally:
        shelf.close()
    samples = sum(sizes)
    if not any(map(isfinite, found)):
        raise InputError(
            "No candidate's output on these samples is finite, so none is closest. Look at the data's scale."
        )
    best = min(range(len(found)), key=lambda k: found[k] if isfinite(found[k]) else float("inf"))
    what = "divergence of the scores" if isinstance(error, Scores) else "relative error of the output"
    listed = ", ".join(f"{e:.3g}{' (this one)' * (k == best)}" for k, e in enumerate(found))
    note = f"closest of {len(found)} by the {what} on {samples:,} samples: {listed}"
    return replace(candidates[best], notes=(*candidates[best].notes, note))


def _wanted(
    dense: nn.Module, data: Data, traced: Traced, batch_size: int, error: Relative | Scores, shelf: Shelf
) -> list[int]:
    """Puts every batch and what the dense network gives for it on the shelf; returns how many samples each has."""
    network, sizes = running_copy(dense).eval(), list[int]()
    for batch in calls(data, traced, batch_size):
        outputs = outputs_of(network, *batch.inputs)
        error.see(outputs)
        shelf.put(len(sizes), (batch.inputs, outputs))
        sizes.append(batch.size)
    return sizes


def _apart(model: nn.Module, sizes: Sequence[int], error: Relative | Scores, shelf: Shelf) -> float:
    """Mean difference over the samples."""
    network, total = running_copy(model).eval(), 0.0
    for index, size in enumerate(sizes):
        inputs, wanted = shelf.get(index)
        total += size * float(error(outputs_of(network, *inputs), wanted))
    return total / sum(sizes)
