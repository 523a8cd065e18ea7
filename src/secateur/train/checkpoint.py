"""Checkpoints of a training run: state dicts only, written atomically, read without unpickling code."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from secateur.core.errors import InputError, SecateurError, WeightsError, first_line
from secateur.core.files import is_full, whole

__all__ = ["FORMAT", "read", "same_run", "write"]

FORMAT = 1


def write(path: Path, content: dict[str, Any]) -> None:
    """Writes ``content`` so that ``path`` always holds either the old or the new checkpoint, whole.

    Raises:
        SecateurError: The disk is full or the folder cannot be written.
    """
    buffer = io.BytesIO()  # torch.save words a full disk as an internal error; a plain write does not
    torch.save({"format": FORMAT, "digest": _digest(content), **content}, buffer)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as draft:
            draft.write_bytes(buffer.getbuffer())
    except OSError as error:
        full = "the disk is full" if is_full(error) else str(error)
        raise SecateurError(f"The checkpoint {path} could not be written: {full}.") from error


def read(path: Path) -> dict[str, Any] | None:
    """Reads a checkpoint; ``None`` if there is none.

    Raises:
        WeightsError: It is damaged, was changed after it was written, or wants to run code.
    """
    if not path.is_file():
        return None
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        version = content["format"]
    except Exception as error:  # damage shows in many ways
        reason = first_line(error)
        raise WeightsError(
            f"{path} is damaged or no checkpoint of Secateur ({reason}). Remove it to train anew."
        ) from error
    if version != FORMAT:
        raise WeightsError(f"{path} has format {version}; this version of Secateur reads {FORMAT}.")
    noted = content.pop("digest", None)  # earlier versions noted none
    if noted is not None and noted != _digest({key: value for key, value in content.items() if key != "format"}):
        raise WeightsError(f"{path} was changed after it was written. Remove it to train anew.")
    return content


def _digest(content: Any) -> str:
    digest = hashlib.sha256()
    for part in _parts(content):
        digest.update(part)
    return digest.hexdigest()


def _parts(value: Any) -> Iterator[bytes | memoryview]:
    """Everything in nested dicts and lists, in order, with what tells one form from another."""
    if isinstance(value, torch.Tensor):
        yield f"{value.dtype}{tuple(value.shape)}".encode()
        yield value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
    elif isinstance(value, Mapping):
        yield f"{{{len(value)}".encode()
        for key, inner in value.items():
            yield repr(key).encode()
            yield from _parts(inner)
    elif isinstance(value, (list, tuple)):
        yield f"[{len(value)}".encode()
        for inner in value:
            yield from _parts(inner)
    else:
        yield repr(value).encode()


def same_run(found: dict[str, Any], wanted: dict[str, Any], path: Path) -> None:
    """Refuses to continue a run under other settings.

    Raises:
        InputError: Names what differs.
    """
    keys = [key for key in wanted if found.get(key) != wanted[key]]
    if keys:
        changes = ", ".join(f"{key} was {found.get(key)!r} and is now {wanted[key]!r}" for key in keys)
        raise InputError(
            f"{path} belongs to a training run with other settings: {changes}. "
            f"Use the same settings to continue it, or another folder to train anew."
        )
