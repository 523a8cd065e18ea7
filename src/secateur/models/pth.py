"""PyTorch's weights files (``.pth``, ``.pt``, ``.bin``, ``.ckpt``), read without PyTorch's reader.

The file is a pickle that names its tensors and, apart from it, their bytes: in a zip archive, or in older files one
after the other behind the pickle. Here the pickle is read for its plain values alone (:mod:`secateur.core.pickles`),
and every tensor's size, strides and place are held against what the file really has before memory is taken.
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from secateur.core.errors import WeightsError, first_line
from secateur.core.pickles import UnsafePickle, read_pickle
from secateur.core.reading import allowance, opened
from secateur.core.zips import opened_zip

__all__ = ["PthFile", "Stored", "read_pth"]

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of the older form
_MOST_MEMBERS = 200_000
_LARGEST_PICKLE = 64 * 2**20  # bytes; a tensor's description has some hundred
_MOST_DIMENSIONS = 64

_STORAGES = {"Float": torch.float32, "Double": torch.float64, "Half": torch.float16, "BFloat16": torch.bfloat16,
             "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8,
             "Bool": torch.bool, "ComplexFloat": torch.complex64, "ComplexDouble": torch.complex128,
             "Untyped": torch.uint8}  # fmt: skip


@dataclass(frozen=True)
class _Storage:
    """Bytes that lie outside of the pickle: what it says of them."""

    key: str
    dtype: torch.dtype
    count: int


@dataclass(frozen=True)
class Stored:
    """A tensor as the pickle describes it."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class PthFile:
    """What a file holds.

    Attributes:
        content: The pickle's value, with :class:`Stored` in place of tensors.
        places: First byte and number of bytes of every storage.
        path: The file.
    """

    content: Any
    places: Mapping[str, tuple[int, int]]
    path: Path

    def tensors(self, wanted: Mapping[str, Stored]) -> dict[str, Tensor]:
        """Reads tensors; those that share their memory go on sharing it.

        Raises:
            WeightsError: The file does not have what it says.
        """
        size = self.path.stat().st_size
        asked = sum(prod(t.shape) * t.dtype.itemsize for t in wanted.values())
        for name, tensor in wanted.items():
            self._check(name, tensor)
        if asked > allowance(size):
            raise WeightsError(f"{self.path} is damaged: its {size:,} bytes ask for {asked:,} bytes of memory.")
        with opened(self.path, WeightsError) as file:
            keys = {t.storage.key for t in wanted.values()}
            read = {key: _bytes(file, *self.places[key]) for key in sorted(keys, key=lambda key: self.places[key])}
        return {name: _filled(t, read[t.storage.key], self.path, name) for name, t in wanted.items()}

    def _check(self, name: str, tensor: Stored) -> None:
        storage, shape = tensor.storage, tensor.shape
        where = f"{self.path} is damaged: {name[:80]!r}"
        held = self.places.get(storage.key, (0, -1))[1]
        if held != storage.count * storage.dtype.itemsize:
            raise WeightsError(f"{where} wants {storage.count:,} values, which the file does not have.")
        last = tensor.offset + sum((n - 1) * step for n, step in zip(shape, tensor.strides, strict=True))
        if 0 not in shape and (last + 1) * tensor.dtype.itemsize > held:
            raise WeightsError(f"{where} of shape {shape} reaches beyond its {storage.count:,} values.")


def read_pth(path: Path) -> PthFile:
    """Reads the description of a file's tensors; :meth:`PthFile.tensors` reads them.

    Raises:
        WeightsError: The file is missing or damaged, asks for what could run code, or two readers would see
            different things in it.
    """
    with opened(path, WeightsError) as file:
        try:
            head = file.read(4)
            file.seek(0)
            return (_of_zip if head == b"PK\x03\x04" else _of_old)(file, path)
        except WeightsError:
            raise
        except UnsafePickle as error:
            raise WeightsError(
                f"{path} is no plain state dict: it asks for {error}, which could run code that the file brings along. "
                "Save the tensors alone: safetensors.torch.save_file(model.state_dict(), …)."
            ) from error
        except Exception as error:  # a damaged file trips over anything
            raise WeightsError(f"{path} is damaged or no PyTorch file: {first_line(error)}") from error


def _of_zip(file: BinaryIO, path: Path) -> PthFile:
    size = os.fstat(file.fileno()).st_size
    archive = opened_zip(file, str(path), WeightsError, most=_MOST_MEMBERS)
    names = archive.namelist()
    pickles = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise WeightsError(
            f"{path} is no PyTorch file: it holds {len(pickles)} members named data.pkl in place of one."
        )
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}constants.pkl" in names or any(name.startswith(f"{root}code/") for name in names):
        raise WeightsError(f"{path} is a TorchScript program, which brings code along; save its state_dict() instead.")
    members = {info.filename: _place(file, info, size, path) for info in archive.infolist() if not info.is_dir()}
    order = members.get(f"{root}byteorder")
    if order is not None and bytes(_bytes(file, *order).numpy()) != b"little":
        raise WeightsError(f"{path} was written on a machine of another byte order; save it on one like this.")
    start, length = members[pickles[0]]
    if length > _LARGEST_PICKLE:
        raise WeightsError(f"{path} is damaged: its list of tensors has {length:,} bytes.")
    file.seek(start)
    content = read_pickle(io.BytesIO(file.read(length)), _CALLS, persistent=_storage)
    places = {name.removeprefix(f"{root}data/"): place for name, place in members.items() if f"{root}data/" in name}
    return PthFile(content, places, path)


def _place(file: BinaryIO, info: zipfile.ZipInfo, size: int, path: Path) -> tuple[int, int]:
    """First byte and number of bytes of a member, which PyTorch never compresses."""
    file.seek(info.header_offset)
    head = file.read(30)
    name_length, extra_length = struct.unpack("<HH", head[26:30])
    start = info.header_offset + 30 + name_length + extra_length
    sound = head[:4] == b"PK\x03\x04" and file.read(name_length) == info.orig_filename.encode(
        "utf-8" if info.flag_bits & 0x800 else "cp437"
    )
    stored = info.compress_type == zipfile.ZIP_STORED and info.compress_size == info.file_size
    if not sound or not stored or info.header_offset < 0 or start + info.file_size > size:
        raise WeightsError(f"{path} is damaged: its member {info.filename[:80]!r} is not stored as PyTorch stores it.")
    return start, info.file_size


def _of_old(file: BinaryIO, path: Path) -> PthFile:
    """The form before PyTorch 1.6: five pickles, then number and bytes of every storage."""
    size = os.fstat(file.fileno()).st_size
    if (read_pickle(file, {}), read_pickle(file, {})) != (_MAGIC, _PROTOCOL):
        raise WeightsError(f"{path} is no PyTorch file: it does not start as one.")
    if read_pickle(file, {}).get("little_endian") is not True:
        raise WeightsError(f"{path} was written on a machine of another byte order; save it on one like this.")
    seen: dict[str, _Storage] = {}

    def storage(described: Any) -> _Storage:
        found = _storage(described)
        return seen.setdefault(found.key, found)

    content = read_pickle(file, _CALLS, persistent=storage)
    places: dict[str, tuple[int, int]] = {}
    place = -1
    for key in read_pickle(file, {}):
        place = file.tell() if place < 0 else place
        file.seek(place)
        (count,) = struct.unpack("<q", file.read(8))
        length = count * seen[str(key)].dtype.itemsize
        if count < 0 or place + 8 + length > size or str(key) in places:
            raise WeightsError(f"{path} is damaged: the values of {str(key)[:80]!r} lie outside of it.")
        places[str(key)] = (place + 8, length)
        place += 8 + length
    return PthFile(content, places, path)


def _bytes(file: BinaryIO, start: int, length: int) -> Tensor:
    found = torch.empty(length, dtype=torch.uint8)
    file.seek(start)
    if length and file.readinto(found.numpy()) != length:  # type: ignore[attr-defined]
        raise WeightsError(f"{getattr(file, 'name', 'The file')} ends within its values.")
    return found


def _filled(tensor: Stored, data: Tensor, path: Path, name: str) -> Tensor:
    if tensor.dtype == torch.bool and bool((data > 1).any()):
        raise WeightsError(f"{path} is damaged: {name[:80]!r} holds truth values other than 0 and 1.")
    if len(data) % tensor.dtype.itemsize:
        raise WeightsError(f"{path} is damaged: {name[:80]!r} has {len(data):,} bytes of {tensor.dtype}.")
    return data.view(tensor.dtype).as_strided(tensor.shape, tensor.strides, tensor.offset)


# ---------------------------------------------------------------------------------------- what a pickle may name


def _storage(described: Any) -> _Storage:
    """``("storage", type, key, device, number of values)``, in the older form with a view behind, which is ``None``."""
    word, dtype, key, _, count, *view = described
    sound = isinstance(dtype, torch.dtype) and isinstance(key, (str, int)) and type(count) is int and count >= 0
    if word != "storage" or not sound or any(part is not None for part in view):
        raise UnsafePickle("an object outside of it that is no storage")
    return _Storage(str(key), dtype, count)


def _stored(storage: Any, offset: Any, shape: Any, strides: Any, dtype: torch.dtype) -> Stored:
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, _Storage) or len(shape) != len(strides) or len(shape) > _MOST_DIMENSIONS:
        raise ValueError("a tensor without a storage")
    if any(type(n) is not int or not 0 <= n < 2**60 for n in numbers):
        raise ValueError(f"a tensor of shape {str(tuple(shape))[:80]} and strides {str(tuple(strides))[:80]}")
    return Stored(storage, offset, tuple(shape), tuple(strides), dtype)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Stored:
    return _stored(storage, offset, shape, strides, storage.dtype)


def _typed(storage: Any, offset: Any, shape: Any, strides: Any, grad: Any, hooks: Any, dtype: Any, *_: Any) -> Stored:
    if not isinstance(dtype, torch.dtype):
        raise ValueError("a tensor of no type")
    return _stored(storage, offset, shape, strides, dtype)


def _ordered(items: Any = ()) -> dict[Any, Any]:
    found = {}
    for key, value in items:
        if not isinstance(key, (str, int)):
            raise UnsafePickle(f"a {type(key).__name__} for a key")
        found[key] = value
    return found


def _again(function: Any, kind: Any, arguments: Any, state: Any) -> Any:
    """A tensor with attributes, which are left out."""
    if function not in (_tensor, _typed) or kind is not _kind:
        raise UnsafePickle("a tensor of a class of its own")
    return function(*arguments)


def _kind(*_: Any) -> None:
    raise UnsafePickle("a tensor without values")


def _latin(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise UnsafePickle(f"the encoding {str(encoding)[:80]}")
    return text.encode("latin1")


def _calls() -> dict[tuple[str, str], Callable[..., Any]]:
    found: dict[tuple[str, str], Any] = {
        ("collections", "OrderedDict"): _ordered,
        ("collections", "defaultdict"): lambda *_: {},
        ("torch._utils", "_rebuild_tensor"): _tensor,
        ("torch._utils", "_rebuild_tensor_v2"): _tensor,
        ("torch._utils", "_rebuild_tensor_v3"): _typed,
        ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
        ("torch._utils", "_rebuild_parameter_with_state"): lambda data, *_: data,
        ("torch._tensor", "_rebuild_from_type_v2"): _again,
        ("torch.nn.parameter", "Parameter"): _kind,
        ("torch.nn.parameter", "Buffer"): _kind,
        ("torch", "Tensor"): _kind,
        ("torch", "Size"): lambda sizes=(): tuple(sizes),
        ("torch", "device"): lambda *_: None,
        ("_codecs", "encode"): _latin,
        ("builtins", "set"): lambda items=(): list(items),
        ("__builtin__", "set"): lambda items=(): list(items),
    }
    for word, dtype in _STORAGES.items():
        found |= {(home, f"{word}Storage"): dtype for home in ("torch", "torch.cuda", "torch.storage")}
    kinds = {name: value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
    return found | {("torch", name): dtype for name, dtype in kinds.items()}


_CALLS = _calls()
