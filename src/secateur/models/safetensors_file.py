"""Safetensors files, looked at before their reader sees them."""

from __future__ import annotations

import os
import struct
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from secateur.core.errors import WeightsError, first_line
from secateur.core.reading import opened, parse_json

__all__ = ["check_header", "read_safetensors"]

_LARGEST_HEADER = 16 * 2**20  # bytes; some hundred a tensor
_MOST_DIMENSIONS = 64


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    """Reads every tensor.

    The library holds offsets and sizes against the file. What it lets pass is looked at here: names that stand twice,
    of which readers take different ones, and headers that are mostly a way to fill the memory.

    Raises:
        WeightsError: Missing, damaged, or no such file.
    """
    path = Path(path)
    check_header(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise WeightsError(f"{path} is not a readable safetensors file: {first_line(error)}") from error


def check_header(path: Path) -> None:
    """Looks at a file's header, which says in a moment what many gigabytes of nothing are.

    Raises:
        WeightsError: It is no safetensors file, or its header was made to harm.
    """
    with opened(path, WeightsError) as file:
        size, head = os.fstat(file.fileno()).st_size, file.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        if not 2 <= length <= size - 8:
            raise WeightsError(
                f"{path} is not a readable safetensors file: it has {size:,} bytes, and says that its header has "
                f"{length:,}."
            )
        if length > _LARGEST_HEADER:
            raise WeightsError(f"{path} is damaged: its header has {length:,} bytes, more than any network's.")
        text = file.read(length)
    header = parse_json(text, f"The header of {path}", WeightsError)
    if not isinstance(header, dict):
        raise WeightsError(f"{path} is damaged: its header is no list of tensors.")
    for name, entry in header.items():
        shape = entry.get("shape", []) if isinstance(entry, dict) else None
        if not isinstance(shape, list) or len(shape) > _MOST_DIMENSIONS:
            raise WeightsError(f"{path} is damaged: {name[:80]!r} is not described as a tensor is.")
