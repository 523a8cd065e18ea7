"""What all steps that train share: their settings, the run of `secateur.train.fit`, and what is kept of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from torch import nn

from secateur.core.errors import InputError
from secateur.recipe.schema import Settings, as_list
from secateur.recipe.steps.base import Ahead, Context, State, StepResult, descent
from secateur.recipe.steps.penalties import PenaltySettings
from secateur.recipe.steps.weights import save_weights
from secateur.sparsity.masks import HoldMasks
from secateur.sparsity.rewinding import Snapshot
from secateur.train import Adapters, Extra, History, TrainConfig, fit
from secateur.train.history import plain
from secateur.train.precision import fast_bf16

__all__ = ["MANY_IMAGES", "TrainSettings", "early_weights", "epochs_before", "held", "kept_bytes", "train",
           "weights_file"]  # fmt: skip


MANY_IMAGES = 20_000
"""From here on ``auto`` means few epochs, in bf16 where that is fast; smaller sets get more epochs in float32."""


class TrainSettings(Settings, TrainConfig):
    """Settings of a step that trains: those of `secateur.train.TrainConfig`, and what suits the data set.

    Attributes:
        epochs: A number, or ``auto``: 3 from 20,000 training samples on, else 12.
        precision: ``32``, ``bf16``, or ``auto``: bf16 from 20,000 training samples on, where the device is fast at it.
        penalty: What pushes weights to zero, one or several: ``{name: bn_l1, weight: 1e-4}``.
    """

    epochs: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"  # type: ignore[assignment]
    precision: Literal["auto", "32", "bf16"] = "auto"  # type: ignore[assignment]
    penalty: Annotated[tuple[PenaltySettings, ...], BeforeValidator(as_list)] = ()

    def train_config(self, samples: int | None) -> TrainConfig:
        """The settings as `secateur.train.fit` takes them, for so many training samples (``None``: nobody knows)."""
        many = samples is not None and samples >= MANY_IMAGES
        settings = self.model_dump(include=set(TrainConfig.model_fields))
        if self.epochs == "auto":
            settings["epochs"] = 3 if many else 12
        if self.precision == "auto":
            settings["precision"] = "bf16" if many and fast_bf16(self.accelerator) else "32"
        return TrainConfig(**settings)


def kept_bytes(config: TrainSettings, ahead: Ahead) -> int:
    """Bytes of the files that a training of the dense network leaves: its end, its best and its last epoch.

    With the last epoch the optimiser's state is kept: one number a weight with momentum, two with AdamW.
    """
    numbers = {"adamw": 2}.get(config.optimizer, int(config.momentum > 0))
    return 0 if config.epochs == 0 else (3 + numbers) * ahead.weight_bytes


def weights_file(context: Context) -> Path:
    """Where a step that trains keeps its network."""
    return context.work / "model.safetensors"


def train(
    context: Context, model: nn.Module, config: TrainSettings, role: str, label: str, extras: Sequence[Extra] = (),
    adapters: Adapters | None = None,
) -> StepResult:  # fmt: skip
    """Trains ``model`` in place and keeps its weights; goes on where a killed process stopped."""

    def note(record: Any) -> None:
        context.metrics.put([{"step": context.step, **record.to_dict()}])

    history = fit(
        model,
        context.task,
        config.train_config(context.task.samples("train")),
        folder=context.work,
        seed=context.recipe.seed,
        name=context.step,
        extras=[*_extras(context, model, config, role), *extras],
        on_epoch=note,
        progress=context.progress,
        adapters=adapters,
    )
    save_weights(model, weights_file(context))
    quality = context.judge(model)
    return StepResult(
        summary=context.told(quality),
        report=_report(context, history, role, label),
        epochs=tuple({"step": context.step, **record.to_dict()} for record in history.epochs),
        evaluations={role: quality},
    )


def held(state: State) -> list[Extra]:
    """What keeps removed weights of the pruned network at zero while it is trained; the last of its extras."""
    return [HoldMasks(state.masks)] if state.masks else []


def early_weights(folder: Path, epoch: int) -> Path:
    """Where a step that trains keeps the weights after ``epoch``, for one that returns to them."""
    return folder / f"epoch-{epoch}.safetensors"


def _extras(context: Context, model: nn.Module, config: TrainSettings, role: str) -> list[Extra]:
    """What takes part in training besides the loss: penalties, and the weights that a later step returns to."""
    extras: list[Extra] = [penalty.make(model, context.inputs(2)) for penalty in config.penalty]
    early = {int(s.config.epoch) for s in context.recipe.steps if s.kind == "rewind"} - {0}  # type: ignore[attr-defined]
    if role != "dense" or not early:
        return extras
    epochs = config.train_config(context.task.samples("train")).epochs
    if max(early) > epochs:
        raise InputError(
            f"The recipe rewinds to the weights after epoch {max(early)}, and {context.step} trains for {epochs}. Give "
            f"rewind an epoch of 0 (as the run began) to {epochs}."
        )
    keep = {k: partial(save_weights, path=early_weights(context.work, k)) for k in early}
    return [*extras, Snapshot(keep)]


def epochs_before(context: Context, role: str) -> int:
    """Epochs that the network has been trained for in earlier steps: those of its line of descent."""
    line = descent(role)
    return sum(len(r.epochs) for r in context.results.values() if line & set(r.evaluations) and r.epochs)


def _report(context: Context, history: History, role: str, label: str) -> dict[str, Any]:
    """The curves of a training, and how its penalties moved what they are on."""
    before = epochs_before(context, role)
    report: dict[str, Any] = {"curves": [_curve(history, role, label, before)]}
    noted = history.epochs[0].extra if history.epochs else {}
    names = [name for name, value in noted.items() if isinstance(value, dict) and "counts" in value]
    if names:
        report["scales"] = [_scales(history, name, context.step, before) for name in names]
    return report


def _scales(history: History, name: str, step: str, before: int) -> dict[str, Any]:
    keys = ("small", "quantiles", "high", "counts")
    found = [(before, history.epochs[0].extra[name]["before"])]
    found += [(before + record.epoch, record.extra[name]) for record in history.epochs]
    return {"label": name, "step": step, "rows": [{"epoch": e, **{k: row[k] for k in keys}} for e, row in found]}


def _curve(history: History, role: str, label: str, before: int) -> dict[str, Any]:
    points = [
        {"epoch": before + record.epoch, "train": plain(record.train), "validation": plain(record.validation)}
        for record in history.epochs
    ]
    return {"label": label, "role": role, "points": points}
