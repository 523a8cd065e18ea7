"""Tensors that are needed later: in memory up to a limit, beyond it in temporary files."""

from __future__ import annotations

import tempfile
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

__all__ = ["MEMORY_BYTES", "Shelf"]

MEMORY_BYTES = 1 << 30
"""What is kept for later stays in memory up to here where no other limit is given."""


class Shelf:
    """Lists, tuples and dictionaries of tensors by name.

    Tensors that share memory still share it after they were in a file, so operators that write in place see what they
    should.
    """

    def __init__(self, limit_bytes: int | None = None) -> None:
        """Keeps up to ``limit_bytes`` in memory; :data:`MEMORY_BYTES` by default."""
        self._limit = MEMORY_BYTES if limit_bytes is None else limit_bytes
        self._used = self._numbered = 0
        self._kept: dict[Hashable, Any] = {}
        self._sizes: dict[Hashable, int] = {}
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def put(self, name: Hashable, value: Any) -> None:
        """Keeps ``value``, in the place of what had the name."""
        size = _bytes(value)
        path = self._kept.get(name) if name in self._kept and not self._sizes[name] else None
        self._used -= self._sizes.pop(name, 0)
        if self._used + size <= self._limit:
            self._kept[name], self._sizes[name] = value, size
            self._used += size
            if isinstance(path, Path):
                path.unlink()
            return
        path = path if isinstance(path, Path) else self._path()
        torch.save(value, path)
        self._kept[name], self._sizes[name] = path, 0

    def get(self, name: Hashable) -> Any:
        """What was kept."""
        found = self._kept[name]
        return torch.load(found, weights_only=True) if isinstance(found, Path) else found

    def drop(self, name: Hashable) -> None:
        """Forgets it."""
        found = self._kept.pop(name)
        self._used -= self._sizes.pop(name)
        if isinstance(found, Path):
            found.unlink()

    def __contains__(self, name: Hashable) -> bool:
        """Whether something is kept under a name."""
        return name in self._kept

    def close(self) -> None:
        """Forgets everything and deletes the files."""
        self._kept.clear()
        self._sizes.clear()
        self._used = 0
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _path(self) -> Path:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="secateur-recover-")
        self._numbered += 1
        return Path(self._folder.name) / f"{self._numbered}.pt"


def _bytes(value: Any) -> int:
    storages = {v.untyped_storage().data_ptr(): v.untyped_storage().nbytes()
                for v in pytree.tree_leaves(value) if isinstance(v, Tensor)}  # fmt: skip
    return sum(storages.values())
