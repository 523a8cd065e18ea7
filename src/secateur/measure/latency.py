"""Latency of several networks, measured in turn so that they can be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike

from torch import nn

from secateur.measure.timings import Timing
from secateur.types import ExampleInputs

__all__ = ["latency"]


def latency(
    models: Mapping[str, nn.Module | str | PathLike[str]],
    inputs: ExampleInputs,
    *,
    batches: Sequence[int] = (1, 32),
    backward: bool = True,
    threads: int = 1,
    rounds: int = 30,
    warmup: int = 3,
    budget_s: float = 10.0,
    seed: int = 0,
) -> tuple[Timing, ...]:
    """Times PyTorch modules (forward, backward) and ONNX files (forward), interleaved in shuffled rounds."""
    raise NotImplementedError
