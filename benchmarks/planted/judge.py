"""The judge: whether a wrong network is another network, without Secateur's proof or its reference."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from planted.base import Keep, taken, tensors_of
from planted.networks import positional

MOVED = 1e-7
"""A mistake counts that moves an output by more than this share of what the input moves."""
SAME = 1e-9
"""What rounding may do to a network that is the same."""


class InDouble(TorchDispatchMode):
    """Casts to single precision that are written in the network's own code become casts to double."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = {k: torch.float64 if v is torch.float32 else v for k, v in (kwargs or {}).items()}
        args = tuple(torch.float64 if a is torch.float32 else a for a in args)
        return func(*args, **kwargs)


def outputs(model: nn.Module, inputs: Any) -> list[Tensor]:
    args, kwargs = positional(pytree.tree_map(_double, inputs))
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad(), InDouble():
            found = pytree.tree_leaves(model(*args, **kwargs))
    finally:
        torch.set_default_dtype(torch.float32)
    return [t for t in found if isinstance(t, Tensor)]


def _double(value: Any) -> Any:
    return value.double().clone() if isinstance(value, Tensor) and value.is_floating_point() else copy.copy(value)


def sharpened(dense: Mapping[str, Tensor], keep: Keep) -> dict[str, Tensor]:
    """The dense tensors in double, such that everything shows once they are cut.

    Small weights are scaled until a layer passes on what it gets (rms · √fan-in ≈ 1), constants get noise.
    """
    noise = torch.Generator().manual_seed(5)
    found = {}
    for name, tensor in dense.items():
        value = _double(tensor.detach())
        if not value.is_floating_point() or not bool(value.isfinite().all()) or "mask" in name:
            found[name] = value
            continue
        if bool((value == value.flatten()[:1]).all()):
            value = value + 0.1 * torch.randn(value.shape, generator=noise, dtype=value.dtype)
        small = taken(value, keep.get(name, {}))
        if value.ndim > 1 and small.numel():
            size = float(small.square().mean().sqrt()) * (small.numel() / len(small)) ** 0.5
            value = value / size if 0 < size < 1 else value
        found[name] = value
    return found


def with_weights(model: nn.Module, dense: Mapping[str, Tensor], keep: Keep) -> nn.Module:
    """A copy in double with slices of these dense tensors."""
    twin = copy.deepcopy(model).double()
    for name, tensor in tensors_of(twin).items():
        if name in dense:
            with torch.no_grad():
                tensor.data = taken(dense[name], keep.get(name, {})).to(tensor.dtype).clone()
    return twin


class Judge:
    """The right network's outputs on several inputs, and whether another network's are others."""

    def __init__(self, right: nn.Module, inputs: list[Any]) -> None:
        self.inputs, self.wants = inputs, [outputs(right, x) for x in inputs]
        pairs = list(zip(*self.wants, strict=True))
        self.scale = [_largest(a - b for a in values for b in values) or _largest(values) for values in pairs]

    def differs(self, other: nn.Module, share: float = MOVED) -> bool:
        """Raises what the network raises."""
        for x, want in zip(self.inputs, self.wants, strict=True):
            got = outputs(other, x)
            if [t.shape for t in got] != [t.shape for t in want]:
                return True
            if any(_apart(g, w) > share * s for g, w, s in zip(got, want, self.scale, strict=True)):
                return True
        return False


def _largest(values: Iterable[Tensor]) -> float:
    return max((float(v.double().nan_to_num(0, 0, 0).abs().max()) for v in values if v.numel()), default=0.0)


def _apart(got: Tensor, want: Tensor) -> float:
    same = (got == want) | (got.isnan() & want.isnan())
    gap = torch.where(same, 0.0, (got.double() - want.double()).abs())
    return float(gap.nan_to_num(float("inf"), float("inf")).max()) if gap.numel() else 0.0


def masked_agrees(dense: nn.Module, weights: Mapping[str, Tensor], keep: Keep, judge: Judge) -> bool | None:
    """Whether the dense network with zeros for what was removed computes the same; ``None`` if zeros do not tell.

    Zeros stand for removed channels wherever nothing averages over them; layer norms are made to skip them here.
    """
    zeroed = {}
    for name, tensor in weights.items():
        mask = torch.ones_like(tensor, dtype=torch.bool)
        for dim, kept in keep.get(name, {}).items():
            gone = sorted(set(range(tensor.shape[dim])) - set(kept))
            mask.index_fill_(dim, torch.tensor(gone, dtype=torch.long), False)
        zeroed[name] = torch.where(mask, tensor, 1.0 if name.endswith("running_var") else 0.0)
    twin = with_weights(dense, zeroed, {})
    for name, module in twin.named_modules():
        kept = keep.get(f"{name}.weight", {}).get(0)
        if kept is not None and ("LayerNorm" in type(module).__name__ or "RMSNorm" in type(module).__name__):
            module.forward = _skipping(module, torch.tensor(kept))  # type: ignore[method-assign]
    try:
        return True if not judge.differs(twin, SAME) else None
    except Exception:
        return None


def _skipping(norm: Any, kept: Tensor) -> Any:
    def forward(x: Tensor) -> Tensor:
        first = type(norm).__name__.endswith("2d")
        rows = (x.movedim(1, -1) if first else x)[..., kept]
        eps = getattr(norm, "eps", getattr(norm, "variance_epsilon", 1e-6))
        if "RMS" in type(norm).__name__ or "T5" in type(norm).__name__:
            small = F.rms_norm(rows, (len(kept),), norm.weight[kept], eps)
        else:
            bias = None if norm.bias is None else norm.bias[kept]
            small = F.layer_norm(rows, (len(kept),), norm.weight[kept], bias, eps)
        full = x.new_zeros(*rows.shape[:-1], len(norm.weight)).index_copy(-1, kept, small)
        return full.movedim(-1, 1) if first else full

    return forward
