"""What runtimes that read files have in common: which file it is, and its inputs in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from secateur.core.batches import tensors
from secateur.core.errors import InputError
from secateur.core.types import ExampleInputs

__all__ = ["feed_in_order", "file_format", "fit_shapes", "network_file"]

# Where each format says what it is: name, offset and the bytes there. ONNX has no such mark.
_MARKS = (
    ("pt2", 0, b"PK\x03\x04"),
    ("litert", 4, b"TFL3"),
    ("executorch", 4, b"ET12"),
    ("openvino", 0, b"<"),
)


def file_format(path: Path) -> str | None:
    """Returns the export format that a file says it is in, or ``None`` where it says nothing (ONNX, or damaged)."""
    with path.open("rb") as file:
        head = file.read(16)
    return next((name for name, offset, mark in _MARKS if head[offset : offset + len(mark)] == mark), None)


def network_file(network: nn.Module | str | PathLike[str], format_: str, title: str) -> Path:
    """Checks that ``network`` is a file and, as far as a look at it tells, one of ``format_``.

    Args:
        network: What a runtime was asked to open.
        format_: The format that it reads; ``onnx`` passes for whatever carries no mark.
        title: The runtime's name in messages.

    Raises:
        InputError: A module instead of a file, no such file, or one of another format.
    """
    if isinstance(network, nn.Module):
        raise InputError(
            f"{title} runs files, not modules; write one with secateur.export.export(model, inputs, path, {format_!r})."
        )
    path = Path(network)
    if not path.is_file():
        raise InputError(f"There is no {'ONNX ' if format_ == 'onnx' else ''}file {str(path)!r}.")
    found = file_format(path)
    if found is not None and found != format_:
        raise InputError(f"{str(path)!r} is a file of the format {found!r}; {title} reads {format_!r}.")
    return path


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
