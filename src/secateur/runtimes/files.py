"""What runtimes that read files have in common: their first bytes, and their inputs in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.core.batches import tensors
from secateur.core.errors import InputError
from secateur.core.types import ExampleInputs

__all__ = ["METADATA", "feed_in_order", "fit_shapes", "head"]

METADATA = "secateur"
"""Under what name files hold the text of :meth:`~secateur.runtimes.Runtime.write_metadata`."""


def head(file: Path, count: int = 16) -> bytes:
    """The first bytes of a file, where formats say what they are."""
    with file.open("rb") as opened:
        return opened.read(count)


def feed_in_order(inputs: ExampleInputs, names: Sequence[str], path: str | PathLike[str]) -> list[NDArray[Any]]:
    """Returns the arrays that a file wants, in its order: by name where the names agree, else as they come.

    Raises:
        InputError: When the numbers of inputs differ.
    """
    if isinstance(inputs, Mapping) and set(names) <= set(inputs):
        found = [inputs[name] for name in names]
    else:
        found = list(tensors(inputs))
    if len(found) != len(names):
        raise InputError(f"{str(path)!r} takes {len(names)} inputs ({', '.join(names)}); got {len(found)}.")
    return [np.ascontiguousarray(tensor.detach().cpu().numpy()) for tensor in found]


def fit_shapes(found: Sequence[Sequence[int]], wanted: Sequence[Sequence[int]], path: Path, title: str) -> None:
    """Checks inputs for a runtime whose files take one shape only.

    Raises:
        InputError: Numbers or shapes differ.
    """
    got, takes = [tuple(shape) for shape in found], [tuple(shape) for shape in wanted]
    if got != takes:
        raise InputError(
            f"{title} cannot run {str(path)!r} on these inputs: shapes {_list(got)}; it takes {_list(takes)} only. "
            "Files of this format have the batch size of the example inputs that they were exported with."
        )


def _list(shapes: Sequence[tuple[int, ...]]) -> str:
    return " and ".join("×".join(map(str, shape)) or "()" for shape in shapes)
