"""A network as an ``ExportedProgram``, with a dynamic batch where it exports so."""

from __future__ import annotations

import io
import logging
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.utils import _pytree as pytree

from secateur.errors import ExportError
from secateur.measure.batches import batch_size, resize
from secateur.types import ExampleInputs

__all__ = ["Traced", "first_line", "quiet", "trace"]

_LIBRARY = Path(torch.__file__).parent
_PACKAGE = Path(__file__).parent.parent


@dataclass(frozen=True)
class Traced:
    """A traced network.

    Attributes:
        program: What :func:`torch.export.export` gave.
        dynamic: Whether the batch size may be any.
        batch: Batch size of the trace; the only one that works if not dynamic.
    """

    program: ExportedProgram
    dynamic: bool
    batch: int


def trace(model: nn.Module, inputs: ExampleInputs) -> Traced:
    """Traces ``model`` (already in evaluation mode), first with a dynamic batch and else with a fixed one.

    Raises:
        ExportError: When neither works; the message names the line of the user's code.
    """
    # torch.export takes a batch of 1 for a constant.
    several = resize(inputs, max(2, batch_size(inputs)))
    try:
        return Traced(_export(model, several, dynamic=True), True, batch_size(several))
    except Exception:  # torch.export raises many unrelated classes
        try:
            return Traced(_export(model, inputs, dynamic=False), False, batch_size(inputs))
        except Exception as error:
            raise ExportError(
                f"The network cannot be traced for export: {first_line(error)}{_user_line(error)}"
            ) from error


def first_line(error: BaseException) -> str:
    """Returns the class of an error and the first line of its message.

    >>> first_line(ValueError("too small\\nlong explanation"))
    'ValueError: too small'
    """
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps the exporters' warnings, log lines and progress marks away from the user's terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _export(model: nn.Module, inputs: ExampleInputs, *, dynamic: bool) -> ExportedProgram:
    shapes = _dynamic_shapes(inputs) if dynamic else None
    if isinstance(inputs, Mapping):
        return torch.export.export(model, (), dict(inputs), dynamic_shapes=shapes, strict=False)
    args = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    return torch.export.export(model, args, dynamic_shapes=shapes, strict=False)


def _dynamic_shapes(inputs: ExampleInputs) -> Any:
    size, batch = batch_size(inputs), Dim("batch")

    def one(leaf: Any) -> dict[int, Any] | None:
        follows = isinstance(leaf, Tensor) and leaf.dim() > 0 and leaf.shape[0] == size
        return {0: batch} if follows else None

    if isinstance(inputs, Tensor):
        return (one(inputs),)
    if isinstance(inputs, Mapping):
        return {name: pytree.tree_map(one, value) for name, value in inputs.items()}
    return tuple(pytree.tree_map(one, value) for value in inputs)


def _user_line(error: BaseException) -> str:
    """Returns the innermost line of code that is neither PyTorch's nor ours."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_file() and _LIBRARY not in path.parents and _PACKAGE not in path.parents:
            return f" (at {path.name}:{frame.lineno}, {(frame.line or '').strip()!r})"
    return ""
