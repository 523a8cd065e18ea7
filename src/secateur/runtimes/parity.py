"""Does a file compute what the network computes?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.core.batches import batch_size, chunks, resize, tensors
from secateur.core.checks import run as run_network
from secateur.core.errors import ExportError
from secateur.core.types import ExampleInputs

__all__ = ["Agreement", "Runner", "agreement", "judge", "label_matches", "noise"]

Runner = Callable[[ExampleInputs], list[Tensor]]
"""Runs a file on inputs and returns its output tensors in order."""

_CHUNK = 32
_CHECKED_ON = "the inputs that the file is checked on (check_inputs, or noise like example_inputs)"


@dataclass(frozen=True)
class Agreement:
    """Comparison of a file with the network; further fields are those of :class:`~secateur.exports.ExportCheck`.

    Attributes:
        output: Where the largest difference is.
        signal: Sum of the squares of the network's outputs.
        noise: Sum of the squares of the differences.
    """

    max_difference: float
    output: int
    same_labels: float
    images: int
    batches: tuple[int, ...]
    signal: float
    noise: float

    @property
    def snr_db(self) -> float:
        """Signal-to-noise ratio in decibels; infinite without any noise."""
        if not self.noise:
            return math.inf
        return 10 * math.log10(self.signal / self.noise) if self.signal else -math.inf


def noise(inputs: ExampleInputs) -> ExampleInputs:
    """Returns inputs of the same shapes with seeded normal noise in place of floating-point numbers."""
    generator = torch.Generator().manual_seed(0)

    def one(leaf: Any) -> Any:
        if not (isinstance(leaf, Tensor) and leaf.is_floating_point()):
            return leaf
        return torch.randn(leaf.shape, generator=generator).to(leaf)

    mapped: ExampleInputs = pytree.tree_map(one, inputs)
    return mapped


def agreement(model: nn.Module, run: Runner, inputs: ExampleInputs, batch: int | None) -> Agreement:
    """Runs both on ``inputs``: alone, and in batches.

    Args:
        model: The network, in evaluation mode.
        run: The exported file.
        inputs: Samples to compare on.
        batch: The only batch size that the file takes, or ``None`` for any.

    Raises:
        ExportError: When the outputs differ in number or shape.
    """
    parts = _parts(inputs, batch)
    worst, output, same, labels = 0.0, 0, 0, 0
    powers = torch.zeros(2, dtype=torch.float64)
    for part in parts:
        with torch.no_grad():
            wanted = tensors(run_network(model, part, _CHECKED_ON))
        found = run(part)
        _same_shapes(wanted, found)
        for index, (a, b) in enumerate(zip(wanted, found, strict=True)):
            if (difference := _difference(a, b)) > worst:
                worst, output = difference, index
            powers += _powers(a, b)
        equal = label_matches(wanted[0], found[0])
        same, labels = same + int(equal.sum()), labels + equal.numel()
    sizes = tuple(sorted({batch_size(part) for part in parts}))
    share = same / labels if labels else 1.0
    return Agreement(worst, output, share, batch_size(inputs), sizes, *powers.tolist())


def judge(found: Agreement, to: str, tolerance: float) -> None:
    """Refuses a float32 file that computes something else.

    Raises:
        ExportError: It differs by more than ``tolerance``.
    """
    if not found.max_difference <= tolerance:
        raise ExportError(
            f"The {to} file differs from the network by {found.max_difference:.3g} at output {found.output} "
            f"(allowed: {tolerance:.3g}; {found.same_labels:.1%} of the labels agree). No file was written."
        )


def _parts(inputs: ExampleInputs, batch: int | None) -> list[ExampleInputs]:
    if batch is not None:
        return chunks(inputs, batch, fill=True)
    # The first sample alone as well: a batch of one is where fixed sizes hide.
    return [resize(inputs, 1), *chunks(resize(inputs, max(2, batch_size(inputs))), _CHUNK)]


def _same_shapes(wanted: Sequence[Tensor], found: Sequence[Tensor]) -> None:
    shapes = [[tuple(tensor.shape) for tensor in side] for side in (wanted, found)]
    if shapes[0] != shapes[1]:
        raise ExportError(f"The exported file returns outputs of shapes {shapes[1]}, the network of {shapes[0]}.")


def _difference(wanted: Tensor, found: Tensor) -> float:
    if not wanted.numel():
        return 0.0
    a, b = wanted.detach().cpu().double(), found.detach().cpu().double()
    if a.isnan().any():
        raise ExportError("The network returns NaN on the check inputs; the export cannot be judged by them.")
    # Equal infinities (masks) differ by nothing; their subtraction would say NaN.
    distance = torch.where(a == b, 0.0, (a - b).abs())
    scale = torch.where(a.isinf(), 0.0, a.abs()).max()
    difference = float(distance.max()) / max(1.0, float(scale))
    return math.inf if math.isnan(difference) else difference


def _powers(wanted: Tensor, found: Tensor) -> Tensor:
    """Sums of squares of the wanted values and of the differences: float64, (2,)."""
    a, b = wanted.detach().cpu().double(), found.detach().cpu().double()
    finite = a.isfinite()
    return torch.stack([a[finite].square().sum(), (a - b)[finite].square().sum()])


def label_matches(wanted: Tensor, found: Tensor) -> Tensor:
    """Returns a boolean per label: dimension 1 is that of the classes, in maps too."""
    if wanted.dim() < 2 or wanted.shape[1] < 2 or wanted.is_complex():
        return torch.empty(0, dtype=torch.bool)
    return wanted.detach().cpu().argmax(1) == found.detach().cpu().argmax(1)
