"""Safetensors files, looked at before their reader sees them."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from secateur.core.errors import WeightsError, first_line
from secateur.core.reading import opened, parse_json

__all__ = ["check_header", "read_safetensors", "write_safetensors"]

_LARGEST_HEADER = 16 * 2**20  # bytes; some hundred a tensor
_MOST_DIMENSIONS = 64
_ALIGNED = 8  # bytes that the tensors' place in a file is a multiple of


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


def write_safetensors(
    path: Path, described: Sequence[tuple[str, str, tuple[int, ...], int]], tensors: Iterable[Tensor],
    metadata: Mapping[str, str],
) -> None:  # fmt: skip
    """Writes a file tensor by tensor; the library's own writer wants all of them in memory.

    Args:
        path: The file.
        described: Of every tensor its name, its type as the format calls it (``BF16``), its shape and its bytes.
        tensors: The tensors in the same order, each asked for when the one before is written.
        metadata: What the file says of itself.

    Raises:
        WeightsError: A tensor is not what was described.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    start = 0
    for name, kind, shape, size in described:
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [start, start + size]}
        start += size
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % _ALIGNED)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for (name, _, shape, size), tensor in zip(described, tensors, strict=True):
            if tuple(tensor.shape) != shape or tensor.nbytes != size:
                raise WeightsError(
                    f"{name} is {tuple(tensor.shape)} of {tensor.nbytes:,} bytes, not {shape} of {size:,}."
                )
            if size:
                file.write(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
