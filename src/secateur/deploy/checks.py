"""The record of an export that was checked."""

from __future__ import annotations

from dataclasses import dataclass

from secateur.measure.records import Record

__all__ = ["ExportCheck"]


@dataclass(frozen=True)
class ExportCheck(Record):
    """Proof that an exported file computes what the network computes.

    Attributes:
        format: ``onnx`` or ``pt2``.
        path: Where the file lies, as given to :func:`~secateur.deploy.export`.
        bytes: Size of the file.
        max_difference: Largest |exported − PyTorch| over all outputs and inputs that were tried, divided
            by the largest |PyTorch| of that output (or by 1 where that is smaller).
        tolerance: What it was compared with.
        same_labels: Share (0 to 1) of samples with the same arg-max over the last dimension.
        images: Number of samples that were tried.
        batches: Batch sizes that were tried; more than one when the batch is dynamic.
        dynamic_batch: Whether the file takes any batch size.
        runtime: What ran the file, with its version.
    """

    format: str
    path: str
    bytes: int
    max_difference: float
    tolerance: float
    same_labels: float
    images: int
    batches: tuple[int, ...]
    dynamic_batch: bool
    runtime: str
