"""Which line of the user's code called an operator."""

from __future__ import annotations

import contextlib
import linecache
import re
import sys
from functools import cache
from pathlib import Path
from types import CodeType

import torch
from torch.fx import Node

__all__ = ["LINE", "caller", "line_of"]

LINE = "users_line"
"""Meta data of a node: file and number of the line that called it."""

MOST = 80
"""Characters of a line that are quoted."""

_SKIPPED = (Path(torch.__file__).parent, Path(__file__).parents[1])
_LIBRARY = Path(contextlib.__file__).parent


@cache
def _skipped(file: str) -> bool:
    """Whether code is PyTorch's, ours or the standard library's."""
    path = Path(file)
    return path.parent == _LIBRARY or any(path.is_relative_to(house) for house in _SKIPPED)


def caller(until: CodeType) -> tuple[str, int] | None:
    """File and line of the innermost code that is the user's own (or of a library of theirs).

    Args:
        until: Where the forward was called from: what lies further out did not call the operator.
    """
    frame = sys._getframe(1)
    while frame is not None and frame.f_code is not until:
        if not _skipped(frame.f_code.co_filename):
            return frame.f_code.co_filename, frame.f_lineno
        frame = frame.f_back  # type: ignore[assignment]
    return None


def line_of(node: Node) -> str:
    """The line that called an operator, as ``net.py:12, 'x = x.sort()[0]'``; empty where none is known."""
    found = node.meta.get(LINE) or _exported(str(node.meta.get("stack_trace") or ""))
    if found is None:
        return ""
    file, number = found
    code = linecache.getline(file, number).strip()
    quoted = code if len(code) <= MOST else f"{code[: MOST - 1]}…"
    return f"{Path(file).name}:{number}" + (f", {quoted!r}" if quoted else "")


def _exported(trace: str) -> tuple[str, int] | None:
    """The innermost line of a trace that ``torch.export`` wrote down."""
    lines = re.findall(r'File "([^"]+)", line (\d+)', trace)
    return next(((file, int(number)) for file, number in reversed(lines) if not _skipped(file)), None)
