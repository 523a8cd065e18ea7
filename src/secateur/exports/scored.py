"""How well exported files do, in the runtime that runs them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from secateur.exports.checks import ExportCheck
from secateur.runtimes.formats import writer
from secateur.timing import Entrant
from secateur.timing.quality import scores
from secateur.train.history import plain

if TYPE_CHECKING:
    from torch import nn

    from secateur.data import DataSet
    from secateur.task import Task

__all__ = ["scored"]


def scored(
    check: ExportCheck, task: Task | DataSet, *, samples: int | None = None, like: nn.Module | None = None
) -> ExportCheck:
    """Runs the file over the test samples of a task and adds its metrics to what is known of it.

    Args:
        check: What :func:`~secateur.exports.export` returned; the file lies where it says.
        task: Whose samples and metrics; a data set of images stands for its classification.
        samples: How many of them; all by default, none for 0.
        like: The network that was exported: a file knows a list of tensors, this how they were put together.

    Raises:
        InputError: The file does not take the samples.
    """
    batch = None if check.dynamic_batch else check.batches[0]
    entrant = Entrant("file", Path(check.path), writer(check.format).name, batch, trust=True)
    found = scores([entrant], task, samples=samples, like=like)
    if not found:
        return check
    (quality,) = found.values()
    return replace(check, quality=plain(quality.metrics), scored=quality.samples)
