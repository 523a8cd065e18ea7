"""Weights and inputs under which nothing hides: small ones grow, constant ones are perturbed a little."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, log2

import numpy as np
import torch
from torch import Tensor

from secateur.surgery.agreement import ROUNDING
from secateur.surgery.inputs import is_constant
from secateur.surgery.lifted import double

__all__ = ["GAIN", "Sharpening", "moved_by_rounding"]

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
        constant = is_constant(value) and (value.numel() > 1 or (parameter and size < FAINT))
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


def moved_by_rounding(name: str, value: Tensor) -> Tensor:
    """A tensor in double precision of which every entry is moved up or down by :data:`ROUNDING` of itself."""
    if not (value.is_floating_point() or value.is_complex()):
        return value
    up = np.random.default_rng(zlib.crc32(name.encode())).integers(0, 2, tuple(value.shape))
    signs = 2 * torch.as_tensor(up, device=value.device) - 1  # whole numbers: constants are made narrow in this mode
    return value + value * (signs * ROUNDING)


def _rms(value: Tensor) -> float:
    """Root of the mean square; in double precision where single precision does not reach."""
    for kind in (value.dtype if value.element_size() >= 4 else torch.float32, double(value.dtype)):
        norm = float(torch.linalg.vector_norm(value, dtype=kind))
        if 0 < norm < float("inf"):
            break
    return norm / value.numel() ** 0.5  # type: ignore[no-any-return]


def _noise(name: str, like: Tensor, size: float) -> Tensor:
    """Normal noise of three standard deviations at most: a variance of one stays positive."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    noise = torch.randn(like.shape, generator=generator, dtype=torch.float64)
    return (size * noise.clamp(-3, 3)).to(like.device)
