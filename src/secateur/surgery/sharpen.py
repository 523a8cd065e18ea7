"""Weights and inputs under which nothing hides: small ones grow, constant ones are perturbed a little."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, log2
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from secateur.surgery.lifted import double

__all__ = ["GAIN", "Sharpening", "moved_inputs", "telling_inputs"]

GAIN = 2**0.5
"""Of sharpened layers: what keeps a signal's size through ReLUs (He initialisation), so deep networks neither fade
nor explode."""

NOISE = 0.1
"""Of what is added to constants, relative to 1: small, because noise that is larger than the signal drowns it."""

FAINT = 0.05
"""Vectors smaller than this (a LayerScale of 1e-6, a gate of zero) count as constants."""


@dataclass(frozen=True)
class Sharpening:
    """What one dense tensor becomes: ``scale`` × itself + noise, the same for the part of it that stays.

    * Tensors of two dimensions and more: rms · √(fan-in) is at least :data:`GAIN`; with small initial weights attention
      is nearly uniform, and heads that were put together wrongly would hardly change it.
    * Constant tensors (biases of zero, scales of one), and parameters of one dimension that are nearly nothing: noise
      of :data:`NOISE` is added; a scale of zero would hide its whole branch.

    Attributes:
        scale: Factor, a power of two (exact in every precision).
        noise: What is added, of the dense tensor's shape, in double precision; ``None`` for nothing.
    """

    scale: float = 1.0
    noise: Tensor | None = None

    @classmethod
    def of(cls, name: str, tensor: Tensor, *, parameter: bool) -> Sharpening:
        """Looks at a dense tensor; the noise depends on its name alone."""
        value = tensor.detach()
        if not (value.is_floating_point() or value.is_complex()) or not value.numel():
            return cls()
        size = _rms(value)
        if not 0 <= size < float("inf"):  # a mask of minus infinity
            return cls()
        constant = _constant(value) and (value.numel() > 1 or (parameter and size < FAINT))
        if value.ndim < 2:
            faint = constant or (parameter and size < FAINT)
            return cls(1.0, _noise(name, value, NOISE * max(1.0, size))) if faint else cls()
        wanted = GAIN / max(1, value.numel() // value.shape[0]) ** 0.5
        if constant:
            return cls(1.0, _noise(name, value, wanted if parameter else NOISE * max(1.0, size)))
        return cls(2.0 ** ceil(log2(wanted / size)) if parameter and size < wanted else 1.0)

    def applied(self, tensor: Tensor, keep: Mapping[int, Sequence[int]] | None = None) -> Tensor:
        """The tensor in its place, in double precision; ``keep`` says which part of the dense one it is."""
        value: Tensor = double(tensor)
        value = value if self.scale == 1.0 else value * self.scale
        if self.noise is None:
            return value
        noise = self.noise
        for dim, kept in (keep or {}).items():
            noise = noise.index_select(dim, torch.as_tensor(kept, device=noise.device))
        return value + noise.to(value.device)


def _rms(value: Tensor) -> float:
    """Root of the mean square; in double precision where single precision does not reach."""
    for kind in (value.dtype if value.element_size() >= 4 else torch.float32, double(value.dtype)):
        norm = float(torch.linalg.vector_norm(value, dtype=kind))
        if 0 < norm < float("inf"):
            break
    return norm / value.numel() ** 0.5  # type: ignore[no-any-return]


def _constant(value: Tensor) -> bool:
    """Whether all entries are the same; the last one alone tells most that are not."""
    first = value[(0,) * value.ndim]
    return bool(value[(-1,) * value.ndim] == first) and bool((value == first).all())


def _noise(name: str, like: Tensor, size: float) -> Tensor:
    """Normal noise of three standard deviations at most: a variance of one stays positive."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    noise = torch.randn(like.shape, generator=generator, dtype=torch.float64)
    return (size * noise.clamp(-3, 3)).to(like.device)


# --------------------------------------------------------------------------------------------------------- inputs


def telling_inputs(tree: Any) -> Any:
    """Inputs with noise in place of constant floating tensors; anything else as it is."""
    return _changed(tree, _telling)


def moved_inputs(tree: Any) -> Any:
    """Other inputs of the same kind: what they change in the outputs is what the input moves.

    Floating tensors are drawn anew with their own mean and spread; whole numbers (tokens, positions, masks) change
    places along their last dimension; where that changes nothing, zeros and ones of the first tensor are exchanged
    at random.
    """
    moved = _changed(tree, _moved)
    if all(torch.equal(a, b) for a, b in zip(_tensors(tree), _tensors(moved), strict=True)):
        return _flipped(tree)
    return moved


def _changed(tree: Any, change: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    return pytree.tree_map(lambda v: change(v, generator) if isinstance(v, Tensor) else v, tree)


def _telling(value: Tensor, generator: torch.Generator) -> Tensor:
    if not value.is_floating_point() or value.numel() < 2 or not _constant(value):
        return value
    noise = torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value.device)
    return value + noise


def _moved(value: Tensor, generator: torch.Generator) -> Tensor:
    if value.is_floating_point() and value.numel():
        finite = value[value.isfinite()].double()
        spread = float(finite.std()) if finite.numel() > 1 else 0.0
        noise = torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value.device)
        fresh = (noise * (spread or 1.0) + (finite.mean() if finite.numel() else 0.0)).to(value.dtype)
        return torch.where(value.isfinite(), fresh, value)
    return value.roll(1, -1) if value.ndim else value


def _flipped(tree: Any) -> Any:
    first = next((t for t in _tensors(tree) if t.ndim and t.dtype in (torch.int64, torch.int32, torch.bool)), None)
    if first is None:
        return tree
    flips = (torch.rand(first.shape, generator=torch.Generator().manual_seed(1)) < 0.5).to(first.device)
    swapped = torch.where(flips & (first >= 0) & (first <= 1), (first == 0).to(first.dtype), first)
    return pytree.tree_map(lambda v: swapped if v is first else v, tree)


def _tensors(tree: Any) -> list[Tensor]:
    return [t for t in pytree.tree_leaves(tree) if isinstance(t, Tensor)]
