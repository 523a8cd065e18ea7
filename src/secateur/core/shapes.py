"""Example inputs without their values: shapes and types, which is all that is ever stored of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["described", "like"]

_DTYPES = {str(d).removeprefix("torch."): d for d in vars(torch).values() if isinstance(d, torch.dtype)}


def described(inputs: Any) -> Any:
    """Shapes and types as plain data for JSON.

    >>> described({"ids": torch.zeros(2, 8, dtype=torch.long)})
    {'named': {'ids': {'shape': [2, 8], 'dtype': 'int64'}}}
    """
    if isinstance(inputs, Tensor):
        return {"shape": list(inputs.shape), "dtype": str(inputs.dtype).removeprefix("torch.")}
    if isinstance(inputs, Mapping):
        return {"named": {k: described(v) for k, v in inputs.items()}}
    if isinstance(inputs, (tuple, list)):
        return {"items": [described(v) for v in inputs]}
    return {"value": inputs if isinstance(inputs, (int, float, bool, str, type(None))) else None}


def like(description: Any, device: str = "cpu") -> Any:
    """Inputs of the described shapes, of zeros that share one number: they take no memory however large they are.

    Raises:
        Exception: Of any kind, where :func:`described` did not write the description.

    >>> like({"shape": [2, 3], "dtype": "float32"}).shape
    torch.Size([2, 3])
    """
    if "shape" in description:
        if (dtype := _DTYPES.get(description["dtype"])) is None:
            raise ValueError(f"there is no dtype {description['dtype']!r}")
        return torch.zeros((), dtype=dtype, device=device).expand(tuple(map(int, description["shape"])))
    if "named" in description:
        return {k: like(v, device) for k, v in description["named"].items()}
    return tuple(like(v, device) for v in description["items"]) if "items" in description else description["value"]
