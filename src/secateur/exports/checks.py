"""What is known of an exported file: how nearly it computes what the network computes."""

from __future__ import annotations

from dataclasses import dataclass, field

from secateur.core.tables import Shown, Table
from secateur.timing.records import Record

__all__ = ["ExportCheck"]


@dataclass(frozen=True, repr=False)
class ExportCheck(Shown, Record):
    """Proof that an exported file computes what the network computes; of an int8 file, how nearly.

    Attributes:
        format: What ``to=`` calls it, for instance ``onnx``.
        path: Where the file lies, as given to :func:`~secateur.exports.export`.
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
        quality: The metrics of its task that the file reached in its runtime, by name, and the mean ``loss``.
        scored: On how many samples.
        masked_difference: Of a file that was cut from an ONNX file: the largest difference from the dense file whose
            removed entries are zero, both in ONNX Runtime; ``None`` where no dense file says the same.
        integer: Whether inputs, outputs and all operators are integers.
        mean_steps: Of such a file, the mean of |exported − PyTorch| over all outputs and samples, in quantisation steps
            of the output.
        largest_steps: The largest, in the same unit; outputs beyond the calibrated range are cut off.
        activations: Of such a file, bytes of activations that are alive at once: the least that an arena has to hold.
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
    quality: dict[str, float | None] = field(default_factory=dict)
    scored: int = 0
    masked_difference: float | None = None
    integer: bool = False
    mean_steps: float | None = None
    largest_steps: float | None = None
    activations: int | None = None

    def table(self) -> Table:
        """The file, and how far it is from the network."""
        rows = [
            ("file", f"{self.path} ({self.bytes / 1e6:.2f} MB)"),
            ("runtime", self.runtime),
            ("largest difference", f"{self.max_difference:.1e}"),
            ("same labels", f"{self.same_labels:.1%} of {self.images} samples"),
            ("batch sizes", "any" if self.dynamic_batch else ", ".join(map(str, self.batches))),
        ]
        if self.masked_difference is not None:
            rows.append(("from the masked dense file", f"{self.masked_difference:.1e}"))
        rows += [("signal to noise", f"{self.snr_db:.1f} dB")] if self.snr_db is not None else []
        if self.mean_steps is not None:
            rows.append(("quantisation steps apart", f"{self.mean_steps:.2f} (at most {self.largest_steps:.1f})"))
        if self.activations is not None:
            rows.append(("activations at once", f"{self.activations:,} bytes"))
        known = {name: value for name, value in self.quality.items() if value is not None}
        rows += [(name, f"{value:.4g} on {self.scored:,} samples") for name, value in known.items()]
        precision = (
            f"{'full-integer ' * self.integer}int8 (from {self.calibration} samples)" if self.int8 else "float32"
        )
        return Table(f"{self.format}, {precision}, checked in {self.runtime}", ("", ""), rows, words=(0, 1))

    @property
    def int8(self) -> bool:
        """Whether the file was quantised."""
        return self.calibration > 0
