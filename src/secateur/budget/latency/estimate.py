"""What a network would take under any widths, estimated: the table of layers, scaled to the dense network's time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from secateur.budget.latency.predict import Term, layer_terms, predicted
from secateur.budget.latency.store import Setting
from secateur.budget.latency.whole import DenseInRuntime
from secateur.core.types import ExampleInputs
from secateur.cost.counts import Costs
from secateur.timing.load import Load

__all__ = ["LatencyEstimate", "estimated"]

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class LatencyEstimate:
    """Estimated milliseconds of one call, by the choice of units.

    Attributes:
        setting: Runtime, batch and threads.
        dense_ms: Median time of the dense network, measured.
        costs: Sizes of the network under any choice.
        terms: The parts of the network's time by the table.
        notes: What the user should know of the measurement.
    """

    setting: Setting
    dense_ms: float
    costs: Costs
    terms: Sequence[Term]
    notes: tuple[str, ...] = ()

    def ms(self, keep: Mask) -> float:
        """Milliseconds of the network that ``keep`` leaves: the dense network's × table(keep) / table(dense).

        It is what a latency target starts from before it measures whole networks (:func:`to_latency`).
        """
        whole = predicted(self.costs, self.terms, np.ones_like(keep))
        return self.dense_ms * predicted(self.costs, self.terms, keep) / whole


def estimated(
    costs: Costs, setting: Setting, dense: tuple[nn.Module, ExampleInputs], narrowest: Mask
) -> LatencyEstimate:
    """Times the dense network and, where the cache does not hold them, its layers over a grid of widths.

    Args:
        costs: Sizes of the network under any choice.
        setting: Where it is timed.
        dense: The network and its example inputs.
        narrowest: The units that stay in the smallest network whose time will be asked for.

    Raises:
        InputError: The runtime is not installed.
        ExportError: The network cannot be exported to the runtime.
    """
    load = Load()
    with load.watch():
        whole = DenseInRuntime(setting, *dense)
        start = whole.measure()
        table, terms = layer_terms(costs, setting, narrowest, start.references)
    notes = list(table.notes)
    if load.crowded(setting.threads):
        notes.append("the machine was busy with something else while times were taken, so they are rough")
    return LatencyEstimate(setting, start.dense_ms, costs, terms, tuple(notes))
