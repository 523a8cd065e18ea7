"""Whole networks in the target runtime, timed in the same rounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import nn

from secateur.budget.latency.store import Setting
from secateur.budget.latency.table import QUANTILE, open_in_runtime, reference_call
from secateur.core.batches import resize
from secateur.core.modes import no_gc
from secateur.core.types import ExampleInputs
from secateur.timing.rounds import rounds, thread_count, timed

__all__ = ["DenseInRuntime", "PairTimes"]


@dataclass(frozen=True)
class PairTimes:
    """Times of one network beside the dense one, in the same rounds.

    Attributes:
        ms: Median milliseconds of one call.
        dense_ms: The same of the dense network.
        share: Median over the rounds of time / time of the dense network.
        references: Time of the dense network in times of the table's reference layer.
    """

    ms: float
    dense_ms: float
    share: float
    references: float


class DenseInRuntime:
    """The dense network, opened in the runtime once, and what is compared with it."""

    def __init__(self, setting: Setting, model: nn.Module, inputs: ExampleInputs, *, budget_s: float = 8.0) -> None:
        """Opens ``model`` for inputs of the setting's batch; ``budget_s`` seconds are spent on each comparison."""
        self.setting, self.budget_s = setting, budget_s
        self.inputs = resize(inputs, setting.batch)
        self._dense = self._open(model)
        self._reference = reference_call(setting)

    def _open(self, model: nn.Module) -> Callable[[], object]:
        program = open_in_runtime(self.setting, model, self.inputs)
        prepared = program.prepare(self.inputs)
        return lambda: program.run(prepared)

    def measure(self, model: nn.Module | None = None) -> PairTimes:
        """Times ``model`` (by default the dense network itself) beside the dense network."""
        calls = {"dense": self._dense, "reference": self._reference}
        if model is not None:
            calls["other"] = self._open(model)
        with thread_count(self.setting.threads), no_gc():
            _, samples = rounds({name: timed(call) for name, call in calls.items()}, budget_s=self.budget_s, rounds=40)
        dense, other = (np.array(samples[name]) for name in ("dense", "other" if model is not None else "dense"))
        low = {name: float(np.quantile(values, QUANTILE)) for name, values in samples.items()}
        return PairTimes(float(np.median(other)), float(np.median(dense)), float(np.median(other / dense)),
                     low["dense"] / low["reference"])  # fmt: skip
