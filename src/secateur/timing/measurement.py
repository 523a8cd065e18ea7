"""Everything known about one network that is a single number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from secateur.core import arguments
from secateur.core.metric import Metric
from secateur.core.types import Counts, ExampleInputs
from secateur.cost.memory import peak_memory, size_on_disk
from secateur.cost.ratios import netscore, nonzero_params
from secateur.timing.records import Record

__all__ = ["Measurement", "measurement", "scored"]


@dataclass(frozen=True)
class Measurement(Record):
    """Size, work and quality of one network; what was not measured is ``None``.

    Attributes:
        params: Number of parameters.
        nonzero_params: Those that are not zero; counted in NetScore where it is known.
        macs: Multiply-accumulates of one sample (FLOPs are twice that).
        weight_bytes: Bytes of the weights on disk (safetensors).
        peak_memory_bytes: See :func:`~secateur.timing.peak_memory`, for the example inputs' batch.
        energy_mj: Energy of one sample in millijoules, by the model of `secateur.cost.energy`: an estimate.
        quality: The metrics of its task on the test samples, by name; ``loss`` is the mean test loss.
        samples: Number of test samples behind them.
        seconds_per_sample: Seconds per sample of the evaluation.
        netscore: NetScore of the leading metric in percent, (non-zero) parameters and MACs.
    """

    params: int | None = None
    nonzero_params: int | None = None
    macs: int | None = None
    weight_bytes: int | None = None
    peak_memory_bytes: int | None = None
    energy_mj: float | None = None
    quality: dict[str, float | None] = field(default_factory=dict)
    samples: int | None = None
    seconds_per_sample: float | None = None
    netscore: float | None = None

    @property
    def sparse(self) -> bool:
        """Whether single weights were removed: more than a thousandth of the parameters is zero."""
        return bool(self.params and self.nonzero_params is not None and self.nonzero_params < 0.999 * self.params)


@arguments.checked
def measurement(
    model: nn.Module,
    inputs: ExampleInputs,
    counts: Counts,
    *,
    quality: Mapping[str, Any] | None = None,
    leading: Metric | None = None,
    energy_mj: float | None = None,
) -> Measurement:
    """Adds what is measured here (bytes on disk, peak memory) to counts and quality measured elsewhere.

    Args:
        model: The network.
        inputs: What it is called with.
        counts: Its parameters and MACs.
        quality: What :meth:`secateur.train.Evaluation.to_dict` gives.
        energy_mj: What :func:`secateur.cost.energy` estimates, where that is asked for.
        leading: The metric that NetScore is of; without one, or where it is no share of anything, there is none.
    """
    found, left = dict(quality or {}), nonzero_params(model)
    samples, seconds = found.pop("samples", None), found.pop("seconds_per_sample", None)
    percent = leading.percent(found.get(leading.name)) if leading is not None else None
    return Measurement(
        params=counts.params,
        nonzero_params=left,
        macs=counts.macs,
        weight_bytes=size_on_disk(model),
        peak_memory_bytes=peak_memory(model, inputs),
        energy_mj=energy_mj,
        quality=found,
        samples=samples,
        seconds_per_sample=seconds,
        netscore=scored(percent, left, counts.macs),
    )


def scored(percent: float | None, params: int | None, macs: int | None) -> float | None:
    """NetScore, where everything that it is made of is known and not zero.

    Args:
        percent: The leading metric, in percent.
        params: Parameters that are not zero.
        macs: Multiply-accumulates of one sample.
    """
    if percent is None or not 0 < percent <= 100 or not params or not macs:
        return None
    return netscore(percent, params, macs)
