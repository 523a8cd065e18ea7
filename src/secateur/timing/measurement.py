"""Everything known about one network that is a single number."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from secateur.core import arguments
from secateur.core.types import Counts, ExampleInputs
from secateur.cost.memory import peak_memory, size_on_disk
from secateur.cost.ratios import netscore, nonzero_params
from secateur.timing.records import Record

__all__ = ["Measurement", "measurement"]


@dataclass(frozen=True)
class Measurement(Record):
    """Size, work and quality of one network; what was not measured is ``None``.

    Attributes:
        params: Number of parameters.
        nonzero_params: Those that are not zero; counted in NetScore where it is known.
        macs: Multiply-accumulates of one sample (FLOPs are twice that).
        weight_bytes: Bytes of the weights on disk (safetensors).
        peak_memory_bytes: See :func:`~secateur.timing.peak_memory`, for the example inputs' batch.
        top1: Top-1 accuracy in percent.
        top5: Top-5 accuracy in percent.
        loss: Mean test loss.
        images: Number of test images behind the accuracy.
        seconds_per_image: Seconds per image of the evaluation.
    """

    params: int | None = None
    nonzero_params: int | None = None
    macs: int | None = None
    weight_bytes: int | None = None
    peak_memory_bytes: int | None = None
    top1: float | None = None
    top5: float | None = None
    loss: float | None = None
    images: int | None = None
    seconds_per_image: float | None = None

    @property
    def sparse(self) -> bool:
        """Whether single weights were removed: more than a thousandth of the parameters is zero."""
        return bool(self.params and self.nonzero_params is not None and self.nonzero_params < 0.999 * self.params)

    @property
    def netscore(self) -> float | None:
        """NetScore of the accuracy, (non-zero) parameters and MACs; ``None`` when one is missing or zero."""
        params = self.params if self.nonzero_params is None else self.nonzero_params
        if not (self.top1 and params and self.macs):
            return None
        return netscore(self.top1, params, self.macs)


@arguments.checked
def measurement(
    model: nn.Module,
    inputs: ExampleInputs,
    counts: Counts,
    *,
    top1: float | None = None,
    top5: float | None = None,
    loss: float | None = None,
    images: int | None = None,
    seconds_per_image: float | None = None,
) -> Measurement:
    """Adds what is measured here (bytes on disk, peak memory) to counts and quality measured elsewhere."""
    return Measurement(
        params=counts.params,
        nonzero_params=nonzero_params(model),
        macs=counts.macs,
        weight_bytes=size_on_disk(model),
        peak_memory_bytes=peak_memory(model, inputs),
        top1=top1,
        top5=top5,
        loss=loss,
        images=images,
        seconds_per_image=seconds_per_image,
    )
