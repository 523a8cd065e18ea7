"""Tracing for export, and keeping exporters quiet."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

from torch import nn

from secateur.core.errors import ExportError, InputError, TraceError
from secateur.core.types import ExampleInputs
from secateur.graph.trace import Exported, export_program

__all__ = ["first_line", "quiet", "trace"]


def trace(model: nn.Module, inputs: ExampleInputs, *, free: bool = True) -> Exported:
    """Exports ``model``, if ``free`` with a free batch size where that works.

    See :func:`secateur.graph.trace.export_program`.

    Raises:
        ExportError: The network cannot be traced; the message names the line of the user's code.
    """
    try:
        return export_program(model, inputs, free=free)
    except (InputError, TraceError) as error:
        raise ExportError(f"The network cannot be traced for export: {error}") from error


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
