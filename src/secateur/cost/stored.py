"""Bytes of the file of weights that a plan would leave, without writing it."""

from __future__ import annotations

import json
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from secateur.cost.counts import Costs

__all__ = ["StoredSize", "safetensors_bytes"]

_TYPES = {torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.float8_e5m2: "F8_E5M2",
          torch.float8_e4m3fn: "F8_E4M3", torch.float8_e4m3fnuz: "F8_E4M3FNUZ", torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
          torch.int16: "I16", torch.uint16: "U16", torch.float16: "F16", torch.bfloat16: "BF16", torch.int32: "I32",
          torch.uint32: "U32", torch.float32: "F32", torch.complex64: "C64", torch.float64: "F64", torch.int64: "I64",
          torch.uint64: "U64"}  # fmt: skip
"""The format's names; tensors of the last ones come first in a file."""

_RANK = {dtype: rank for rank, dtype in enumerate(_TYPES)}


def safetensors_bytes(tensors: dict[str, tuple[torch.dtype, tuple[int, ...]]]) -> int:
    """Bytes of a safetensors file with these tensors, by name: types and shapes.

    Format (https://github.com/huggingface/safetensors#format): 8 bytes with the header's length; the header, JSON
    without spaces, filled up to a multiple of 8; the tensors one after the other. A type that the format does not have
    counts its bytes all the same: such a network can be cut, if not saved.

    >>> safetensors_bytes({"weight": (torch.float32, (1, 2))})
    80
    """
    entries, place = {}, 0
    for name, (dtype, shape) in sorted(tensors.items(), key=lambda item: (-_RANK.get(item[1][0], -1), item[0])):
        end = place + prod(shape) * dtype.itemsize
        entries[name] = {"dtype": _TYPES.get(dtype, str(dtype)), "shape": list(shape), "data_offsets": [place, end]}
        place = end
    header = len(json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode())
    return 8 + -(-header // 8) * 8 + place


class StoredSize:
    """Bytes of ``model.safetensors`` under a plan: every tensor of the state once, in its own type."""

    def __init__(self, costs: Costs) -> None:
        """Collects the tensors of ``costs``' network."""
        self.costs = costs
        flow = costs.groups.flow
        state = flow.traced.module.state_dict(keep_vars=True)
        first: dict[int, str] = {}
        tensors = {n: t for n, t in state.items() if isinstance(t, Tensor) and first.setdefault(id(t), n) == n}
        labels = {id(state[n]): found for n, found in flow.tensors.items() if n in state}
        self._fixed = {n: (t.dtype, tuple(t.shape)) for n, t in tensors.items() if id(t) not in labels}
        self._slots = {
            n: (t.dtype, [costs.slot(labels[id(t)], d) for d in range(t.ndim)])
            for n, t in tensors.items()
            if id(t) in labels
        }

    def total(self, keep: NDArray[np.bool_]) -> float:
        """Bytes under ``keep`` (which units stay)."""
        sizes = self.costs.sizes(keep)
        kept = {n: (dtype, tuple(int(sizes[s]) for s in slots)) for n, (dtype, slots) in self._slots.items()}
        return float(safetensors_bytes(self._fixed | kept))
