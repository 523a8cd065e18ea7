"""An exponential moving average of the weights, which is what is validated and kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.errors import InputError
from secateur.train.extras import Extra

__all__ = ["Average"]


class Average(Extra):
    """Averages weights and statistics over the steps: a ← d·a + (1 − d)·w.

    Early on, d is at most (1 + t) / (10 + t) after t steps, so that the start is forgotten (the rule of
    TensorFlow's ExponentialMovingAverage; averaging after Polyak and Juditsky 1992). Trained are the weights w;
    validated, kept as the best and handed back are the averages a.

    Args:
        decay: d, in (0, 1); 0.99 remembers about 100 steps.

    Raises:
        InputError: A decay outside (0, 1).
    """

    def __init__(self, decay: float) -> None:
        """Nothing is averaged before the first step."""
        if not 0 < decay < 1:
            raise InputError(f"The decay of averaged weights lies between 0 and 1; got {decay}.")
        self.decay = decay
        self._steps = 0
        self._average: dict[str, Tensor] = {}

    def settings(self) -> dict[str, Any]:
        """The decay."""
        return {"extra": "Average", "decay": self.decay}

    def start(self, model: nn.Module, steps_per_epoch: int, epochs: int) -> None:
        """Starts from the weights as they are, or goes on from a checkpoint's averages."""
        found = self._average or model.state_dict()
        self._average = {n: found[n].detach().to(t.device, copy=True) for n, t in model.state_dict().items()}

    def weights(self, model: nn.Module) -> None:
        """Takes the new weights into the average."""
        self._steps += 1
        share = 1 - min(self.decay, (1 + self._steps) / (10 + self._steps))
        with torch.no_grad():
            for name, value in model.state_dict().items():
                kept = self._average[name]
                kept.lerp_(value, share) if kept.is_floating_point() else kept.copy_(value)

    def swap(self, model: nn.Module) -> None:
        """Exchanges the network's weights for the averages, and back when called again."""
        with torch.no_grad():
            for name, value in model.state_dict().items():
                here = value.clone()
                value.copy_(self._average[name])
                self._average[name].copy_(here)

    def state_dict(self) -> dict[str, Any]:
        """The averages and how many steps they have seen."""
        return {"steps": self._steps, "average": self._average}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what :meth:`state_dict` gave."""
        self._steps, self._average = int(state["steps"]), dict(state["average"])
