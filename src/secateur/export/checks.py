"""Does the exported file compute what the network computes?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.core.batches import batch_size, chunks, resize, tensors
from secateur.core.checks import run as run_network
from secateur.core.errors import ExportError
from secateur.core.tables import Shown, Table
from secateur.core.types import ExampleInputs
from secateur.export.formats import Runner
from secateur.timing.records import Record

__all__ = ["Agreement", "ExportCheck", "agreement", "noise"]

_CHUNK = 32
_CHECKED_ON = "the inputs that the file is checked on (check_inputs, or noise like example_inputs)"


@dataclass(frozen=True, repr=False)
class ExportCheck(Shown, Record):
    """Proof that an exported file computes what the network computes; of an int8 file, how nearly.

    Attributes:
        format: A name in :data:`~secateur.export.formats.FORMATS`.
        path: Where the file lies, as given to :func:`~secateur.export.export`.
        bytes: Size of the file (of both, where the weights lie in a second one).
        max_difference: Largest |exported − PyTorch| over all outputs and samples, divided by the largest
            |PyTorch| of that output (or by 1 where that is smaller).
        tolerance: What it was compared with; ``None`` for an int8 file, which ``snr_db`` judges.
        same_labels: Share (0 to 1) of equal arg-max labels over dimension 1 of the first output.
        images: Number of samples that were tried.
        batches: Batch sizes that were tried; more than one when the batch is dynamic.
        dynamic_batch: Whether the file takes any batch size.
        runtime: What ran the file, with its version.
        calibration: Samples that the file was quantised with; 0 for a float32 file.
        snr_db: 10·log₁₀(Σ PyTorch² / Σ (exported − PyTorch)²) over all outputs and samples of an int8 file, in
            decibels; ``None`` for a float32 file.
        top1: Accuracy of the file in its runtime on labelled images, in percent, where there were some.
        loss: Mean cross-entropy on them.
        scored: How many there were.
    """

    format: str
    path: str
    bytes: int
    max_difference: float
    tolerance: float | None
    same_labels: float
    images: int
    batches: tuple[int, ...]
    dynamic_batch: bool
    runtime: str
    calibration: int = 0
    snr_db: float | None = None
    top1: float | None = None
    loss: float | None = None
    scored: int = 0

    def table(self) -> Table:
        """The file, and how far it is from the network."""
        rows = [
            ("file", f"{self.path} ({self.bytes / 1e6:.2f} MB)"),
            ("runtime", self.runtime),
            ("largest difference", f"{self.max_difference:.1e}"),
            ("same labels", f"{self.same_labels:.1%} of {self.images} samples"),
            ("batch sizes", "any" if self.dynamic_batch else ", ".join(map(str, self.batches))),
        ]
        rows += [("signal to noise", f"{self.snr_db:.1f} dB")] if self.snr_db is not None else []
        rows += [("top-1", f"{self.top1:.2f} % of {self.scored:,} images")] if self.top1 is not None else []
        precision = f"int8 (from {self.calibration} samples)" if self.int8 else "float32"
        return Table(f"{self.format}, {precision}, checked in {self.runtime}", ("", ""), rows, words=(0, 1))

    @property
    def int8(self) -> bool:
        """Whether the file was quantised."""
        return self.calibration > 0


@dataclass(frozen=True)
class Agreement:
    """Comparison of an exported file with the network; further fields are those of :class:`ExportCheck`.

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
            wanted = tensors(
                run_network(
                    model, part, "the inputs that the file is checked on (check_inputs, or noise like example_inputs)"
                )
            )
        found = run(part)
        _same_shapes(wanted, found)
        for index, (a, b) in enumerate(zip(wanted, found, strict=True)):
            if (difference := _difference(a, b)) > worst:
                worst, output = difference, index
            powers += _powers(a, b)
        equal = _label_matches(wanted[0], found[0])
        same, labels = same + int(equal.sum()), labels + equal.numel()
    sizes = tuple(sorted({batch_size(part) for part in parts}))
    share = same / labels if labels else 1.0
    return Agreement(worst, output, share, batch_size(inputs), sizes, *powers.tolist())


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


def _label_matches(wanted: Tensor, found: Tensor) -> Tensor:
    """Returns a boolean per label: dimension 1 is that of the classes, in maps too."""
    if wanted.dim() < 2 or wanted.shape[1] < 2 or wanted.is_complex():
        return torch.empty(0, dtype=torch.bool)
    return wanted.detach().cpu().argmax(1) == found.detach().cpu().argmax(1)
