"""Series: several columns of numbers over time, cut into a part to train on, one to choose by and one to test with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from secateur.core import arguments
from secateur.core.errors import DataError, InputError
from secateur.data.numbers import read_numbers

__all__ = ["SeriesSet", "load_series", "synthetic_series"]


@dataclass(frozen=True, repr=False, eq=False)
class SeriesSet:
    """A series in three parts, one after the other in time.

    Attributes:
        name: For instance ``synthetic-series``.
        columns: Their names.
        train: float64, (steps, columns).
        validation: float64, (steps, columns): what follows; may be empty.
        test: float64, (steps, columns): what follows that.
        source: Where it came from: a path as given, or ``embedded``.
    """

    name: str
    columns: tuple[str, ...]
    train: Tensor
    validation: Tensor
    test: Tensor
    source: str = ""

    def __post_init__(self) -> None:
        """Checks shapes and values."""
        for name in ("train", "validation", "test"):
            value: Tensor = getattr(self, name)
            if value.ndim != 2 or value.shape[1] != len(self.columns) or value.dtype != torch.float64:
                got = f"{value.dtype} {tuple(value.shape)}"
                raise InputError(f"SeriesSet({name}=…) wants float64 (steps, {len(self.columns)} columns); got {got}.")
            if not bool(value.isfinite().all()):
                raise InputError(f"SeriesSet({name}=…) wants finite numbers; got NaN or infinity among them.")


def _cut(values: Tensor, columns: tuple[str, ...], name: str, validation: float, source: str) -> SeriesSet:
    """The last fifth to test with, and before it a share of the rest to choose by."""
    test = round(0.2 * len(values))
    held = round(validation * (len(values) - test))
    train = len(values) - test - held
    return SeriesSet(name, columns, values[:train], values[train : train + held], values[train + held :], source)


@arguments.checked
def load_series(path: str | Path, *, validation: float = 0.1, limit: int | None = None) -> SeriesSet:
    """Loads a CSV file with a header and a number in every field, one row a step of time.

    Args:
        path: The file.
        validation: Share of the training steps that is held out, the last of them.
        limit: Use at most this many steps.

    Raises:
        DataError: The file is missing or empty, or a field is no finite number; the message names line and column.
    """
    if not 0 <= validation < 1 or (limit is not None and limit < 1):
        raise InputError(f"validation is a share in [0, 1) and limit at least 1; got {validation} and {limit}.")
    columns, values = read_numbers(path)
    if len(values) < 10:
        raise DataError(f"{path} has {len(values)} steps; a series to train and test with has 10 at least.")
    return _cut(values[:limit], columns, Path(path).stem, validation, str(path))


def synthetic_series(steps: int = 2000, *, seed: int = 0, validation: float = 0.1) -> SeriesSet:
    """Three columns made by a formula: not measured anywhere.

    Formula: aₜ = sin(2πt/24) + ½ sin(2πt/168) + 0.1 εₜ, bₜ = 0.8 bₜ₋₁ + 0.5 aₜ₋₃ + 0.1 ε′ₜ, cₜ = aₜ₋₁ bₜ₋₂ + 0.1 ε″ₜ,
    with ε from normal distributions.

    Args:
        steps: How many.
        seed: Of the noise.
        validation: Share of the training steps that is held out.

    >>> data = synthetic_series(100)
    >>> data.columns, len(data.train), len(data.validation), len(data.test)
    (('a', 'b', 'c'), 72, 8, 20)
    """
    noise = 0.1 * torch.randn(steps, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    t = torch.arange(steps, dtype=torch.float64)
    a = torch.sin(2 * torch.pi * t / 24) + 0.5 * torch.sin(2 * torch.pi * t / 168) + noise[:, 0]
    b = torch.zeros(steps, dtype=torch.float64)
    for now in range(1, steps):
        b[now] = 0.8 * b[now - 1] + 0.5 * (a[now - 3] if now >= 3 else 0) + noise[now, 1]
    c = noise[:, 2].clone()
    c[2:] += a[1:-1] * b[:-2]
    return _cut(torch.stack([a, b, c], 1), ("a", "b", "c"), "synthetic-series", validation, "embedded")
