"""Deep Compression's file: pruned and shared weights, entropy-coded, with its real size on disk.

Layout: 8 bytes of magic, the header's coded and plain length (two little-endian uint32), the header (JSON,
deflated), the tensors' streams one after the other, and the SHA-256 of everything before it.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from secateur.core import arguments
from secateur.core.checks import check_weights
from secateur.core.errors import InputError, WeightsError, first_line
from secateur.core.files import write_bytes
from secateur.core.reading import allowance, opened, parse_json
from secateur.sparsity.cluster import Bits, assign, bits_of, codebook, share_weights
from secateur.sparsity.coding import Coded, decode, deflate, encode, inflate
from secateur.sparsity.masks import copied, weights_of

__all__ = ["Compressed", "CompressedLayer", "compress", "decompress"]

MAGIC = b"SECATDC1"
_LARGEST_HEADER = 8 * 2**20  # bytes; some hundred a tensor
_MOST_DIMENSIONS = 64
_DTYPES = {str(d).removeprefix("torch."): d for d in (torch.float32, torch.float16, torch.bfloat16, torch.float64,
           torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)}  # fmt: skip


@dataclass(frozen=True)
class CompressedLayer:
    """What one tensor takes in the file.

    Attributes:
        name: Of the parameter or buffer.
        entries: How many numbers it has.
        left: How many of them are not zero.
        values: Different ones in its codebook; 0 where it is stored as it is.
        bytes: In the file, without its line in the header.
    """

    name: str
    entries: int
    left: int
    values: int
    bytes: int


@dataclass(frozen=True)
class Compressed:
    """A compressed network and its file.

    Attributes:
        model: The network with the weights that the file holds, a new one.
        path: The file.
        bytes: Its size on disk.
        dense_bytes: What the network's tensors take uncompressed.
        layers: What each tensor takes.
    """

    model: nn.Module
    path: Path
    bytes: int
    dense_bytes: int
    layers: tuple[CompressedLayer, ...]

    @property
    def ratio(self) -> float:
        """Uncompressed over compressed bytes."""
        return self.dense_bytes / self.bytes

    def __repr__(self) -> str:
        """One line."""
        return f"Compressed({self.path}: {self.dense_bytes:,} → {self.bytes:,} bytes, {self.ratio:.1f}×)"


@arguments.checked
def compress(
    model: nn.Module,
    path: str | Path,
    *,
    bits: Bits = 5,
    only: Iterable[str] | None = None,
    ignore: Iterable[str] = (),
) -> Compressed:
    """Shares the weights of every layer and writes them entropy-coded (Deep Compression, arXiv:1510.00149).

    Zeros cost what their gaps cost, so prune first. Weights that have no more than 2^bits different values (a
    network whose shared weights were trained) are kept exactly; tensors that are not shared (biases,
    normalisations) are stored as they are.

    Args:
        model: It is left untouched.
        path: The file to write; replaced in one step where there is one.
        bits: 1 to 8: weights of a layer share 2^bits values; or by layer name or pattern.
        only: Modules or parameters whose weights alone are shared.
        ignore: Modules or parameters whose weights are stored as they are.

    Returns:
        The network as the file holds it, and the file's real size.

    Raises:
        InputError: Bits out of range, no weights, a file that cannot be written.
        WeightsError: NaN or infinite weights.

    >>> import tempfile
    >>> net = nn.Linear(100, 100)
    >>> small = compress(net, Path(tempfile.mkdtemp()) / "net.sdc", bits=4)
    >>> small.bytes == small.path.stat().st_size
    True
    """

    path = Path(path)
    check_weights(model)
    shared = share_weights(model, bits, only=only, ignore=ignore)
    weights = weights_of(shared, only=only, ignore=ignore)
    numbers = bits_of(shared, bits, weights)
    entries, streams, layers = [], [], []
    for name, tensor in _stored(shared).items():
        entry, parts = _shared(tensor, numbers[name]) if name in numbers else _plain(tensor)
        size = sum(map(len, parts))
        entries.append({"name": name, "shape": list(tensor.shape), "dtype": _dtype(name, tensor), **entry})
        streams += parts
        layers.append(CompressedLayer(name, tensor.numel(), int((tensor != 0).sum()), entry.get("values", 0), size))
    header = json.dumps(entries, separators=(",", ":")).encode()
    packed = deflate(header)
    body = b"".join([MAGIC, struct.pack("<II", len(packed), len(header)), packed, *streams])
    content = body + hashlib.sha256(body).digest()
    try:
        write_bytes(path, content)
    except OSError as error:
        raise InputError(f"The compressed network cannot be written to {path}: {error.strerror or error}.") from error
    dense = sum(t.numel() * t.element_size() for t in _stored(model).values())
    return Compressed(shared, path, path.stat().st_size, dense, tuple(layers))


def _stored(model: nn.Module) -> dict[str, Tensor]:
    """The state, tensors with several names once."""
    state = {n: t for n, t in model.state_dict(keep_vars=True).items() if isinstance(t, Tensor)}
    first: dict[int, str] = {}
    return {n: t.detach().cpu() for n, t in state.items() if first.setdefault(id(t), n) == n}


def _dtype(name: str, tensor: Tensor) -> str:
    word = str(tensor.dtype).removeprefix("torch.")
    if word not in _DTYPES:
        raise InputError(f"The tensor {name!r} is {tensor.dtype}, which the file cannot hold.")
    return word


def _shared(tensor: Tensor, bits: int) -> tuple[dict[str, Any], list[bytes]]:
    """Header entry and streams of a weight whose entries share a few values."""
    values = tensor.float().numpy().reshape(-1)
    stays = values != 0
    if not stays.any():
        return {"zero": True}, []
    centroids = codebook(values[stays], bits)  # a few different values: their own centroids
    coded = encode(assign(values[stays], centroids), stays)
    streams = [centroids.astype("<f4").tobytes(), coded.gaps, coded.codes]
    return {"values": len(centroids), "symbols": list(coded.symbols), "bytes": [len(s) for s in streams]}, streams


def _plain(tensor: Tensor) -> tuple[dict[str, Any], list[bytes]]:
    data = deflate(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return {"bytes": [len(data)]}, [data]


# ------------------------------------------------------------------------------------------------------- read


@overload
def decompress(path: str | Path, model: None = None, *, largest: int | None = None) -> dict[str, Tensor]: ...


@overload
def decompress(path: str | Path, model: nn.Module, *, largest: int | None = None) -> nn.Module: ...


@arguments.checked
def decompress(
    path: str | Path, model: nn.Module | None = None, *, largest: int | None = None
) -> nn.Module | dict[str, Tensor]:
    """Reads what :func:`compress` wrote, bit for bit.

    What the file says of its own size is not believed. With a network, the tensors have to be those of the network
    before any memory is taken; without one, they may take ``largest`` bytes together.

    Args:
        path: The file.
        model: A network of the same shapes (of a channel-pruned one: what `secateur.load` gives); it is not
            touched.
        largest: Bytes that the tensors may take where no network is given; by default a hundred times the file's
            size, and 128 MiB for small files.

    Returns:
        A copy of ``model`` with the file's weights; without it, the tensors by name.

    Raises:
        WeightsError: The file is missing, damaged or no such file, its weights do not fit the network, or they
            would take more than ``largest``.
    """
    path = Path(path)
    entries, body, size = _read(path)
    try:
        announced = {str(e["name"]): (_shape(e), _DTYPES[e["dtype"]]) for e in entries}
        if len(announced) != len(entries):
            raise WeightsError(f"{path} is damaged: it holds two tensors of one name.")
        if model is None:
            _small_enough(announced, allowance(size) if largest is None else largest, path)
            return _tensors(entries, body, path)
        filled = copied(model)
        _same_shapes({name: shape for name, (shape, _) in announced.items()}, _stored(filled), path)
        tensors = _tensors(entries, body, path)
    except (AttributeError, KeyError, IndexError, TypeError, ValueError, OverflowError, RuntimeError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"{path} is damaged: {type(error).__name__}: {first_line(error)}.") from error
    filled.load_state_dict(tensors, strict=False)  # a tensor with two names is filled through one of them
    return filled


def _shape(entry: Mapping[str, Any]) -> tuple[int, ...]:
    sizes = entry["shape"]
    sound = isinstance(sizes, list) and all(type(size) is int and 0 <= size < 2**62 for size in sizes)
    if not sound or len(sizes) > _MOST_DIMENSIONS:
        raise ValueError(f"{str(entry['name'])[:80]!r} has the shape {str(sizes)[:80]}")
    return tuple(sizes)


def _small_enough(announced: Mapping[str, tuple[tuple[int, ...], torch.dtype]], largest: int, path: Path) -> None:
    wanted = sum(prod(shape) * dtype.itemsize for shape, dtype in announced.values())
    if wanted > largest:
        raise WeightsError(
            f"{path} wants {wanted:,} bytes of memory, more than the {largest:,} that are given to a file of its size; "
            "give the network that it belongs to, decompress(path, model), or the limit, "
            "decompress(path, largest=BYTES)."
        )


def _same_shapes(there: Mapping[str, tuple[int, ...]], own: Mapping[str, Tensor], path: Path) -> None:
    here = {name: tuple(tensor.shape) for name, tensor in own.items()}
    wrong = sorted(name for name in there.keys() | here.keys() if there.get(name) != here.get(name))
    if wrong:
        found, wanted = (shapes.get(wrong[0], "missing") for shapes in (there, here))
        raise WeightsError(
            f"{path} does not fit the network: {wrong[0]!r} is {found} in the file and {wanted} in the network "
            f"({len(wrong)} tensors differ)."
        )


def _read(path: Path) -> tuple[list[dict[str, Any]], bytes, int]:
    """The header's entries, the streams and the file's size, once the digest has been checked."""
    start = len(MAGIC) + 8
    with opened(path, WeightsError) as file:
        head = file.read(start)  # a large file of another kind is not read whole
        if head[: len(MAGIC)] != MAGIC or len(head) < start:
            raise WeightsError(f"{path} is no compressed network: secateur.compress(model, path) writes one.")
        content = head + file.read()
    if len(content) < start + 32 or hashlib.sha256(memoryview(content)[:-32]).digest() != content[-32:]:
        raise WeightsError(f"{path} is damaged: it does not have the digest that it ends with.")
    packed, plain = struct.unpack("<II", content[len(MAGIC) : start])
    if plain > _LARGEST_HEADER or start + packed + 32 > len(content):
        raise WeightsError(f"{path} is damaged: its header does not fit into it.")
    header = f"The header of {path}"
    entries = parse_json(inflate(content[start : start + packed], plain, header), header, WeightsError)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise WeightsError(f"{path} is damaged: its header is no list of tensors.")
    return entries, content[start + packed : -32], len(content)


def _tensors(entries: list[dict[str, Any]], body: bytes, path: Path) -> dict[str, Tensor]:
    found, place = {}, 0
    for entry in entries:
        sizes = [int(size) for size in entry.get("bytes", ())]
        if min(sizes, default=0) < 0 or place + sum(sizes) > len(body):
            raise WeightsError(f"{path} is damaged: the streams of {entry['name']!r} lie outside of it.")
        parts = []
        for size in sizes:
            parts.append(body[place : place + size])
            place += size
        found[str(entry["name"])] = _tensor(entry, parts, f"{entry['name']!r} in {path}")
    if place != len(body):
        raise WeightsError(f"{path} is damaged: {len(body) - place:,} bytes belong to no tensor.")
    return found


def _tensor(entry: Mapping[str, Any], parts: list[bytes], what: str) -> Tensor:
    shape, dtype = _shape(entry), _DTYPES[entry["dtype"]]
    count = prod(shape)
    if entry.get("zero"):
        return torch.zeros(shape, dtype=dtype)
    if "values" not in entry:
        data = bytearray(inflate(parts[0], count * dtype.itemsize, what))
        if dtype == torch.bool and max(data, default=0) > 1:
            raise WeightsError(f"{what} is damaged: it holds truth values other than 0 and 1.")
        return torch.frombuffer(data, dtype=dtype).reshape(shape) if count else torch.zeros(shape, dtype=dtype)
    values, gaps, coded = _codebook(entry["values"], parts)
    symbols = int(entry["symbols"][0]), int(entry["symbols"][1])
    codes, stays = decode(Coded(gaps, coded, symbols), count, len(values), what)
    filled = np.zeros(count, np.float32)
    filled[stays] = values[codes]
    return torch.from_numpy(filled.reshape(shape)).to(dtype)


def _codebook(written: Any, parts: list[bytes]) -> tuple[NDArray[np.float32], bytes, bytes]:
    """The shared values, and the streams that are left; files of earlier versions have the values in the header."""
    if isinstance(written, list):
        return np.array(written, np.float32), parts[0], parts[1]
    values = np.frombuffer(parts[0], "<f4")
    if len(values) != int(written):
        raise ValueError(f"{len(values)} shared values where {written} were announced")
    return values, parts[1], parts[2]
