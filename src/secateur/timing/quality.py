"""How well a network does in the runtime that it runs in."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.core.batches import resize
from secateur.core.errors import InputError
from secateur.core.modes import evaluating
from secateur.core.types import call
from secateur.data.types import AnySplit, DataSet
from secateur.runtimes import RUNTIMES
from secateur.task import Batch, Task, as_task
from secateur.timing.entrants import Entrant
from secateur.train import Evaluation
from secateur.train.evaluate import add_up, evaluation_of

if TYPE_CHECKING:
    from secateur.runtimes import Program

__all__ = ["quality", "scores"]

_BATCH = 32


class Unscored(InputError):
    """The task cannot tell what a network did from what its file gives."""

    def __init__(self) -> None:
        super().__init__(
            "What a file of this network gives says not yet what it found: a two-stage detector has to choose regions "
            "between its stages. Score the network itself, with secateur.evaluate."
        )


Form = Any
"""How an output is built of tensors, as PyTorch's ``pytree`` says it."""


def quality(
    entrant: Entrant,
    task: Task | DataSet,
    split: str | AnySplit = "test",
    *,
    samples: int | None = None,
    threads: int = 1,
    like: nn.Module | None = None,
) -> Evaluation:
    """Runs the samples of a split through a network in its own runtime.

    Args:
        entrant: What to run.
        task: Data, loss and metrics; a data set of images stands for its classification.
        split: Of the task.
        samples: How many at most; all by default.
        threads: Threads inside an operator.
        like: A network whose output is built as that of the file was, which knows a list of tensors alone.

    Returns:
        The metrics, the mean loss, the samples, and seconds per sample of the passes.

    Raises:
        InputError: The runtime refuses the file or the inputs.
    """
    task = as_task(task)
    size = entrant.batch or _BATCH
    program = RUNTIMES[entrant.runtime].open(entrant.network, threads, trust=entrant.trust)
    form: list[Form] = []

    def forward(batch: Batch) -> Any:
        parts = [
            _run(program, replace(batch, inputs=_part(batch, start, size), size=min(size, batch.size - start)), size)
            for start in range(0, batch.size, size)
        ]
        if not form:
            form.append(_form(like if like is not None else entrant.network, batch, len(parts[0])))
        leaves = [torch.cat(group) if group[0].ndim else group[0] for group in zip(*parts, strict=True)]
        output = pytree.tree_unflatten(leaves, form[0])
        network = like if like is not None else entrant.network
        finished = task.finished(network, output, batch) if isinstance(network, nn.Module) else output
        if finished is None:
            raise Unscored
        return finished

    with _settled(entrant.network):
        batches = task.evaluation(split, batch_size=size, limit=samples)  # type: ignore[arg-type]
        return evaluation_of(*add_up(task, batches, forward))


def _run(program: Program, batch: Batch, size: int) -> list[Tensor]:
    # A file of a fixed batch size gets its last, smaller batch filled up.
    found = program.outputs(program.run(program.prepare(resize(batch.inputs, size))))
    return [tensor[: batch.size] if tensor.ndim else tensor for tensor in found]


def _part(batch: Batch, start: int, size: int) -> Any:
    if batch.size <= size:
        return batch.inputs

    def one(leaf: Any) -> Any:
        follows = isinstance(leaf, Tensor) and leaf.ndim and leaf.shape[0] == batch.size
        return leaf[start : start + size] if follows else leaf

    return pytree.tree_map(one, batch.inputs)


def _form(network: nn.Module | Path, batch: Batch, count: int) -> Form:
    """How the network builds its output; of a file alone a tensor, or a tuple of as many as it has."""
    if isinstance(network, nn.Module):
        with torch.no_grad(), evaluating(network):
            leaves, form = pytree.tree_flatten(call(network, resize(batch.inputs, 2)))
        if len(leaves) == count and all(isinstance(leaf, Tensor) for leaf in leaves):
            return form
    return pytree.tree_structure(tuple([0] * count) if count > 1 else 0)


def scores(
    entrants: Iterable[Entrant],
    task: Task | DataSet,
    *,
    samples: int | None = None,
    threads: int = 1,
    like: nn.Module | None = None,
) -> dict[tuple[str, str], Evaluation]:
    """Scores every network that runs, on the same test samples; of fixed batch sizes in the largest.

    Args:
        entrants: What to score.
        task: Whose test samples and metrics.
        samples: How many of them; ``None`` for all, 0 for no scores.
        threads: Threads inside an operator.
        like: See :func:`quality`.

    Returns:
        By the entrant's label and runtime; without those of which nothing can be said (two-stage detectors).
    """
    if samples == 0:
        return {}
    ready = sorted((e for e in entrants if not e.problem), key=lambda e: e.batch or _BATCH)
    largest = {(e.label, e.runtime): e for e in ready}
    found = {}
    for key, entrant in largest.items():
        with suppress(Unscored):
            found[key] = quality(entrant, task, samples=samples, threads=threads, like=like)
    return found


def _settled(network: nn.Module | Path) -> AbstractContextManager[object]:
    return evaluating(network) if isinstance(network, nn.Module) else nullcontext()
