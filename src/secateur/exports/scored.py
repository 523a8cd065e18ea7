"""The accuracy of exported files, in the runtime that runs them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from secateur.exports.checks import ExportCheck
from secateur.runtimes.formats import writer
from secateur.timing import Entrant
from secateur.timing.quality import scores

if TYPE_CHECKING:
    from secateur.data import DataSet

__all__ = ["scored"]


def scored(check: ExportCheck, data: DataSet, *, images: int | None = None) -> ExportCheck:
    """Runs the file over labelled test images and adds its accuracy and loss to what is known of it.

    Args:
        check: What :func:`~secateur.exports.export` returned; the file lies where it says.
        data: The test images, and how to normalise them.
        images: How many of them, drawn once; all by default, none for 0.

    Raises:
        InputError: The file does not take the images.
    """
    batch = None if check.dynamic_batch else check.batches[0]
    entrant = Entrant("file", Path(check.path), writer(check.format).name, batch, trust=True)
    found = scores([entrant], data, images=images)
    if not found:
        return check
    (quality,) = found.values()
    return replace(check, top1=quality.top1, loss=quality.loss, scored=quality.images)
