"""What takes part in training besides the loss on the labels: penalties, masks, a teacher, averaged weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

__all__ = ["Extra"]


class Extra:
    """Base of everything that :func:`secateur.train.fit` calls while it trains; every method may be left out.

    The order within a step: :meth:`batch`, the network's output, :meth:`loss`, backward, :meth:`gradients`
    (then clipping), the optimiser, :meth:`weights`. An extra that remembers something between epochs gives it in
    :meth:`state_dict`, so that a run that was killed ends as if it had not been.
    """

    def settings(self) -> dict[str, Any]:
        """Plain data that has to be the same for a checkpoint to be continued."""
        return {"extra": type(self).__name__}

    def start(self, model: nn.Module, steps_per_epoch: int, epochs: int) -> None:
        """Before the first epoch, with the network on its device and (resumed) weights in place."""

    def batch(self, inputs: Any, target: Any) -> tuple[Any, Any]:
        """Before the forward pass: the inputs as the network takes them (of images (B, C, H, W)), and their target."""
        return inputs, target

    def loss(self, model: nn.Module, inputs: Any, output: Any, target: Any) -> Tensor | None:
        """A term to add to the task's loss; runs in the precision of the forward pass.

        Args:
            model: The network, in training mode; its forward pass is over.
            inputs: As it saw them; normalised images are (B, C, H, W).
            output: What it gave, in float32; the scores of classes are (B, classes).
            target: Of classification the labels (B,), or class probabilities (B, classes) where an extra blended them.
        """
        return None

    def gradients(self, model: nn.Module) -> None:
        """After backward: gradients may be changed (a sub-gradient added, masked entries zeroed)."""

    def weights(self, model: nn.Module) -> None:
        """After the optimiser's step: weights may be changed (masked entries zeroed)."""

    def epoch(self, model: nn.Module, epoch: int) -> Mapping[str, Any]:
        """After epoch ``epoch`` (from 1), before validation: numbers to keep in its record."""
        return {}

    def swap(self, model: nn.Module) -> None:
        """Before validation, and again after it: exchanges the trained weights for those to be kept."""

    def finish(self, model: nn.Module) -> None:
        """After the last epoch, with the weights that the network ends with in place."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain data for the checkpoint."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what :meth:`state_dict` gave."""
