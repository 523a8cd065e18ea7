"""Distillation: the pruned network learns from the dense one's output and feature maps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.core.cross_entropy import default_cross_entropy
from secateur.core.errors import InputError, UnknownNameError
from secateur.core.types import ExampleInputs, call
from secateur.task import Batch, Task
from secateur.task.batch import moved, samples_in, wide
from secateur.task.classification import logits_of, soft_cross_entropy
from secateur.train.common import device_of, in_mode
from secateur.train.extras import Extra

__all__ = ["Distill", "stages"]


class Distill(Extra):
    """Replaces part of the loss on the targets by one on a teacher's output, and may add one on feature maps.

    Formula: (1 − w)·L(z, y) + w·D(z, t, T) + f·Σ_l ‖Q(Aᶻ_l) − Q(Aᵗ_l)‖², where z and t are the outputs of student and
    teacher, L is the loss of the task and D its distillation (of classification: L = CE, D = T²·KL(softmax(t/T) ‖
    softmax(z/T))), A_l their feature maps at layer l, and Q(A) is the map of mean squares over the channels, flattened
    and scaled to length 1, so that the widths need not agree.
    Sources: Hinton et al. 2015, Distilling the Knowledge in a Neural Network, arXiv:1503.02531, §2; Zagoruyko and
    Komodakis 2017, Paying More Attention to Attention, arXiv:1612.03928, eq. 2.

    The teacher runs on the very batch that the student sees (augmented, blended), without gradients.

    Args:
        teacher: The dense network; it stays as it is.
        weight: w, in [0, 1].
        temperature: T; tasks whose outputs are no scores take no notice of it.
        features: f; 0 leaves the feature maps alone.
        layers: Modules whose outputs are compared.
        inputs: Inputs to choose the layers with where none are named: the last module of every resolution (see
            :func:`stages`) that the student has too.
        task: Whose loss and distillation are taken; by default those of classification.

    Raises:
        InputError: A weight outside [0, 1], a temperature or feature weight below 0, feature maps without layers
            or images, or a student without modules (a traced graph).
        UnknownNameError: A layer that one of the networks does not have.
    """

    def __init__(
        self,
        teacher: nn.Module,
        *,
        weight: float = 0.5,
        temperature: float = 4.0,
        features: float = 0.0,
        layers: tuple[str, ...] | None = None,
        inputs: ExampleInputs | None = None,
        task: Task | None = None,
    ) -> None:
        """Nothing is computed yet."""
        if not 0 <= weight <= 1 or not temperature > 0 or features < 0:
            raise InputError(
                "Distillation wants a weight in [0, 1], a temperature above 0 and a feature weight of at least 0; "
                f"got weight {weight}, temperature {temperature}, features {features}."
            )
        self.teacher, self.weight, self.temperature = teacher, weight, temperature
        if features and layers is None and inputs is None:
            raise InputError("To compare feature maps, name layers, or give inputs (two images) to choose them with.")
        self.features, self.layers, self.inputs = features, layers, inputs
        self._hard = task.loss if task is not None else _cross_entropy
        self._soft = task.distillation if task is not None else soft_scores
        self._forward = task.forward if task is not None else _called
        self._maps: dict[str, dict[str, Tensor]] = {"teacher": {}, "student": {}}
        self._hooks: list[Any] = []

    def settings(self) -> dict[str, Any]:
        """All but the teacher."""
        return {"extra": "Distill", "weight": self.weight, "temperature": self.temperature, "features": self.features,
                "layers": None if self.layers is None else list(self.layers)}  # fmt: skip

    def start(self, model: nn.Module, steps_per_epoch: int, epochs: int) -> None:
        """Looks up the layers whose maps are compared."""
        self.teacher.to(device_of(model))
        if not self.features:
            return
        names = self.layers or self._chosen(model)
        for role, network in (("teacher", self.teacher), ("student", model)):
            known = dict(network.named_modules())
            for name in names:
                if name not in known:
                    raise UnknownNameError(f"layer of the {role}", name, [n for n in known if n])
                self._watch(role, name, known[name])

    def _chosen(self, model: nn.Module) -> tuple[str, ...]:
        assert self.inputs is not None  # checked when it was made
        known = dict(model.named_modules())
        return tuple(n for n in stages(self.teacher, moved(self.inputs, device_of(model))) if n in known)

    def _watch(self, role: str, name: str, module: nn.Module) -> None:
        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            self._maps[role][name] = output

        self._hooks.append(module.register_forward_hook(keep))

    def loss(self, model: nn.Module, inputs: ExampleInputs, output: Any, target: Any) -> Tensor:
        """What is added to L(z, y)."""
        batch = Batch(inputs, target, samples_in(inputs))
        with torch.no_grad(), in_mode(self.teacher, training=False):
            wanted = wide(self._forward(self.teacher, batch))
        hard = self._hard(output, target)
        if hard is None:
            raise InputError("Distillation replaces part of the loss, and the task gives none for this output.")
        term = self.weight * (self._soft(output, wanted, self.temperature) - hard)
        if self.features and not self._maps["student"]:
            raise InputError(
                "The student calls none of the teacher's modules (a traced graph calls no modules), so their feature "
                "maps cannot be compared. Set features to 0."
            )
        maps = [F.mse_loss(attention(self._maps["student"][n]), attention(self._maps["teacher"][n]), reduction="sum")
                / batch.size for n in self._maps["student"]]  # fmt: skip
        return term + self.features * sum(maps, term.new_zeros(()))

    def finish(self, model: nn.Module) -> None:
        """Takes the hooks off both networks."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._maps = {"teacher": {}, "student": {}}


def _called(model: nn.Module, batch: Batch) -> Any:
    return call(model, batch.inputs)


def _cross_entropy(output: Any, target: Any) -> Tensor:
    return default_cross_entropy(logits_of(output), target)


def soft_scores(output: Any, wanted: Any, temperature: float) -> Tensor:
    """D of classification: see :class:`Distill`."""
    return soft_cross_entropy(logits_of(output), logits_of(wanted), temperature)


def attention(maps: Tensor) -> Tensor:
    """Q(A): mean of squares over dimension 1, flattened to (B, positions) and scaled to length 1."""
    return F.normalize(maps.float().square().mean(1).flatten(1), dim=1)


def stages(model: nn.Module, inputs: ExampleInputs) -> tuple[str, ...]:
    """Names of the modules that give the last feature map (B, C, H, W) of every resolution, largest first."""
    last: dict[tuple[int, ...], str] = {}
    hooks = []
    for name, module in model.named_modules():
        if name:
            hooks.append(module.register_forward_hook(_noting(last, name)))
    try:
        with torch.no_grad(), in_mode(model, training=False):
            call(model, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(name for size, name in sorted(last.items(), reverse=True) if size > (1, 1))


def _noting(last: dict[tuple[int, ...], str], name: str) -> Any:
    def note(_module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            last[tuple(output.shape[2:])] = name

    return note
