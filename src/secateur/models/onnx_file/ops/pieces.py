"""Operators that take pieces out of tensors, and order them anew."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from secateur.models.onnx_file.host import Host, sizes_of, tensor_of
from secateur.models.onnx_file.node import OnnxNode
from secateur.models.onnx_file.registry import Refused, reads

__all__ = ["PIECES", "note_pieces"]

PIECES = "pieces"
"""Among a node's numbers: how large the pieces of a split are that names no sizes."""

_END = 2**31 - 1
"""Exporters write such numbers for "to the end"."""


@reads("Split")
def _split(node: OnnxNode, x: Any, sizes: Any = None) -> Any:
    axis = node.attribute("axis", 0)
    wanted = node.attribute("split") if sizes is None else sizes_of(sizes)
    count = node.attribute("num_outputs", len(node.outputs))
    if isinstance(x, Host):
        each = [len(x.numbers) // count] * count if wanted is None else list(wanted)
        starts = [sum(each[:k]) for k in range(len(each))]
        return tuple(Host(x.numbers[s : s + n]) for s, n in zip(starts, each, strict=True))
    pieces = node.numbers.get(PIECES)
    if wanted is None and pieces is not None and sum(pieces) == x.shape[axis]:
        wanted = pieces
    if wanted is not None:
        return torch.split(x, list(wanted), axis)
    found = torch.chunk(x, count, axis)
    if len(found) != count or (node.opset < 18 and x.shape[axis] % count):
        raise Refused(f"cannot split a dimension of size {x.shape[axis]} into {count} pieces")
    return found


def note_pieces(node: OnnxNode, found: Any) -> None:
    """Writes down how large the pieces of a split are, so that a cut can make them uneven."""
    if node.operator != "Split" or not all(isinstance(piece, Tensor) for piece in found):
        return
    if all(slot.name != "split" for slot in node.slots) and "split" not in node.attributes:
        axis = node.attribute("axis", 0)
        node.numbers[PIECES] = tuple(int(piece.shape[axis]) for piece in found)


@reads("Slice")
def _slice(node: OnnxNode, x: Any, *given: Any) -> Any:
    names = ("starts", "ends", "axes", "steps")
    found: dict[str, Any] = {name: node.attribute(name) for name in names}
    found |= {name: sizes_of(value) for name, value in zip(names, given, strict=False) if value is not None}
    starts, ends, axes, steps = (found[name] for name in names)
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    if isinstance(x, Host):
        pieces = {a % x.array.ndim: _piece(*of) for a, *of in zip(axes, starts, ends, steps, strict=True)}
        return Host(x.array[tuple(pieces.get(axis, slice(None)) for axis in range(x.array.ndim))])
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        x = _cut(x, axis % x.ndim, start, end, step)
    return x


def _piece(start: Any, end: Any, step: int) -> slice:
    if step < 0:
        return slice(None if start >= _END else start, None if end <= -_END else end, step)
    return slice(None if start <= -_END else start, None if end >= _END else end, step)


def _cut(x: Tensor, axis: int, start: Any, end: Any, step: int) -> Tensor:
    if step < 0:  # PyTorch has no negative steps: the positions themselves
        places = list(range(x.shape[axis]))[_piece(start, end, step)]
        if places == list(range(x.shape[axis] - 1, -1, -1)):
            return torch.flip(x, [axis])
        return x.index_select(axis, torch.tensor(places, device=x.device))
    piece = _piece(start, end, step)
    return x if piece == slice(None, None, 1) else x[(*[slice(None)] * axis, piece)]


@reads("Gather", tensors=("indices",))
def _gather(node: OnnxNode, x: Any, indices: Any) -> Any:
    axis = node.attribute("axis", 0)
    if isinstance(x, Host):
        wanted = indices if isinstance(indices, Host) else _known(indices)
        picked: Any = np.take(x.array, wanted.array.astype(np.int64), axis)
        return Host(picked) if isinstance(picked, np.ndarray) else Host([picked]).reshaped(())
    axis = axis % x.ndim
    if isinstance(indices, Host) and not indices.array.ndim:
        return x.select(axis, indices.number)
    indices = tensor_of(indices)
    if axis == 0 and x.ndim == 2 and node.slots[1].kind == "value":
        return F.embedding(indices.long(), x)
    return x[(*[slice(None)] * axis, indices.long())]


def _known(indices: Tensor) -> Host:
    if indices.ndim > 1 or indices.numel() > 64:
        raise Refused("picks sizes by a table")
    return Host(indices.tolist())


@reads("GatherElements", tensors=("indices",))
def _gather_elements(node: OnnxNode, x: Tensor, indices: Any) -> Tensor:
    axis, indices = node.attribute("axis", 0), tensor_of(indices).long()
    return torch.gather(x, axis, torch.where(indices < 0, indices + x.shape[axis], indices))


@reads("GatherND", tensors=("indices",))
def _gather_nd(node: OnnxNode, x: Tensor, indices: Any) -> Tensor:
    if node.attribute("batch_dims", 0):
        raise Refused("gathers with batch_dims")
    return x[tuple(tensor_of(indices).long().unbind(-1))]


@reads("ScatterElements", "Scatter", tensors=("indices",))
def _scatter(node: OnnxNode, x: Tensor, indices: Any, updates: Tensor) -> Tensor:
    if node.attribute("reduction", "none") != "none":
        raise Refused(f"combines values by {node.attribute('reduction')!r}")
    axis, indices = node.attribute("axis", 0), tensor_of(indices).long()
    return torch.scatter(x, axis, torch.where(indices < 0, indices + x.shape[axis], indices), updates)


@reads("ScatterND", tensors=("indices",))
def _scatter_nd(node: OnnxNode, x: Tensor, indices: Any, updates: Tensor) -> Tensor:
    if node.attribute("reduction", "none") != "none":
        raise Refused(f"combines values by {node.attribute('reduction')!r}")
    return torch.index_put(x, tuple(tensor_of(indices).long().unbind(-1)), updates)


@reads("DepthToSpace")
def _depth_to_space(node: OnnxNode, x: Tensor) -> Tensor:
    block = node.attribute("blocksize")
    if node.attribute("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, block)
    n, c, h, w = x.shape
    y = x.reshape(n, block, block, c // (block * block), h, w).permute(0, 3, 4, 1, 5, 2)
    return y.reshape(n, c // (block * block), h * block, w * block)


@reads("SpaceToDepth")
def _space_to_depth(node: OnnxNode, x: Tensor) -> Tensor:
    block = node.attribute("blocksize")
    n, c, h, w = x.shape
    y = x.reshape(n, c, h // block, block, w // block, block).permute(0, 3, 5, 1, 2, 4)
    return y.reshape(n, c * block * block, h // block, w // block)


@reads("ReverseSequence", "Compress", "Unique", "NonZero", "NonMaxSuppression")
def _of_the_data(node: OnnxNode, *given: Any) -> Any:
    raise Refused("gives a tensor whose size or order depends on the values of the data, which cannot be followed")
