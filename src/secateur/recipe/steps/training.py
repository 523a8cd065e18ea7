"""Steps that train: adapt the dense network, train it on as a control, fine-tune the pruned one."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from torch import nn

from secateur.errors import InputError
from secateur.recipe.schema import Settings
from secateur.recipe.steps.base import STEPS, Context, State, Step, StepResult
from secateur.recipe.steps.penalties import PenaltySettings, as_list
from secateur.recipe.steps.weights import load_weights_into, save_weights
from secateur.sparsify.rewinding import Snapshot
from secateur.train import Distill, Extra, History, TrainConfig, evaluate, fit

__all__ = ["MANY_IMAGES", "Adapt", "Control", "DistillSettings", "Finetune", "FinetuneSettings", "TrainSettings"]


MANY_IMAGES = 20_000
"""From here on ``auto`` means few epochs in bf16; smaller sets get more epochs in float32."""


class TrainSettings(Settings, TrainConfig):
    """Settings of a step that trains: those of `secateur.train.TrainConfig`, and what suits the data set.

    Attributes:
        epochs: A number, or ``auto``: 3 from 20,000 training images on, else 12.
        precision: ``32``, ``bf16``, or ``auto``: bf16 from 20,000 training images on.
        penalty: What pushes weights to zero, one or several: ``{name: bn_l1, weight: 1e-4}``.
    """

    epochs: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"  # type: ignore[assignment]
    precision: Literal["auto", "32", "bf16"] = "auto"  # type: ignore[assignment]
    penalty: Annotated[tuple[PenaltySettings, ...], BeforeValidator(as_list)] = ()

    def train_config(self, images: int) -> TrainConfig:
        """The settings as `secateur.train.fit` takes them, for so many training images."""
        many = images >= MANY_IMAGES
        settings = self.model_dump(include=set(TrainConfig.model_fields))
        if self.epochs == "auto":
            settings["epochs"] = 3 if many else 12
        if self.precision == "auto":
            settings["precision"] = "bf16" if many else "32"
        return TrainConfig(**settings)


class DistillSettings(Settings):
    """A teacher for the pruned network: the arguments of `secateur.train.Distill`.

    Attributes:
        teacher: ``dense``, or ``control`` where the recipe trained one.
        weight: Share of the loss that the teacher's scores take.
        temperature: What scores are divided by.
        features: Weight of the feature maps; 0 for none (a traced graph has no modules to compare).
        layers: Modules whose maps are compared; by default the last of every resolution.
    """

    teacher: Literal["dense", "control"] = "dense"
    weight: float = Field(default=0.5, ge=0, le=1)
    temperature: float = Field(default=4.0, gt=0)
    features: float = Field(default=0.0, ge=0)
    layers: tuple[str, ...] | None = None

    def make(self, context: Context, state: State) -> Distill:
        """The teacher of a run.

        Raises:
            InputError: The recipe has not trained a control.
        """
        if self.teacher not in state.models:
            raise InputError(
                f"{context.step} distils from the {self.teacher} network, which this recipe does not have so far. "
                "Put a control step before it, or distil from dense."
            )
        options = self.model_dump(exclude={"teacher"})
        return Distill(state.models[self.teacher], inputs=context.images(2), **options)


class FinetuneSettings(TrainSettings):
    """Settings of fine-tuning: those of every step that trains, and a teacher.

    Attributes:
        distill: The teacher, or ``null`` for none.
    """

    distill: DistillSettings | None = None


def _weights(context: Context) -> Path:
    return context.work / "model.safetensors"


def _train(
    context: Context, model: nn.Module, config: TrainSettings, role: str, label: str, extras: Sequence[Extra] = ()
) -> StepResult:
    """Trains ``model`` in place and keeps its weights; goes on where a killed process stopped."""

    def note(record: Any) -> None:
        context.metrics.put([{"step": context.step, **record.to_dict()}])

    history = fit(
        model,
        context.data,
        config.train_config(len(context.data.train)),
        folder=context.work,
        seed=context.recipe.seed,
        name=context.step,
        extras=[*_extras(context, model, config, role), *extras],
        on_epoch=note,
        progress=context.progress,
    )
    save_weights(model, _weights(context))
    quality = evaluate(model, context.data.test, data=context.data).to_dict()
    return StepResult(
        summary={f"test_{key}": value for key, value in quality.items()},
        report={"curves": [_curve(history, role, label, _epochs_before(context, role))]},
        epochs=tuple({"step": context.step, **record.to_dict()} for record in history.epochs),
        evaluations={role: quality},
    )


def _extras(context: Context, model: nn.Module, config: TrainSettings, role: str) -> list[Extra]:
    """What takes part in training besides the loss: penalties, and the weights that a later step returns to."""
    extras: list[Extra] = [penalty.make(model, context.images(2)) for penalty in config.penalty]
    early = {int(s.config.epoch) for s in context.recipe.steps if s.kind == "rewind"}  # type: ignore[attr-defined]
    if role == "dense" and early - {0}:
        extras.append(Snapshot({k: partial(save_weights, path=context.work / f"epoch-{k}.safetensors") for k in early}))
    return extras


def _epochs_before(context: Context, role: str) -> int:
    """Epochs that the network has been trained for in earlier steps: those of its line of descent."""
    line = {"dense"} if role != "pruned" else {"dense", "pruned"}
    return sum(len(r.epochs) for r in context.results.values() if line & set(r.evaluations) and r.epochs)


def _curve(history: History, role: str, label: str, before: int) -> dict[str, Any]:
    keys = ("train_top1", "val_top1", "train_loss", "val_loss")
    points = [
        {"epoch": before + record.epoch, **{key: getattr(record, key) for key in keys}} for record in history.epochs
    ]
    return {"label": label, "role": role, "points": points}


class Adapt(Step[TrainSettings]):
    """Trains the dense network, with its head fitted to the data set, on the new data."""

    summary = "train the dense network on the new data"
    config = TrainSettings

    def run(self, context: Context, state: State, config: TrainSettings) -> tuple[State, StepResult]:
        """Trains ``dense`` in place."""
        return state, _train(context, state.models["dense"], config, "dense", "Dense, adapted")

    def restore(self, context: Context, state: State, config: TrainSettings) -> State:
        """Loads the trained weights."""
        load_weights_into(state.models["dense"], _weights(context))
        return state


class Control(Step[TrainSettings]):
    """Trains a copy of the dense network for as long as the pruned one: the honest comparison."""

    summary = "train a copy of the dense network on, to compare the pruned one with"
    config = TrainSettings

    def run(self, context: Context, state: State, config: TrainSettings) -> tuple[State, StepResult]:
        """Trains a copy of ``dense`` as ``control``."""
        model = copy.deepcopy(state.models["dense"])
        result = _train(context, model, config, "control", "Dense, trained on")
        return state.with_model("control", model), result

    def restore(self, context: Context, state: State, config: TrainSettings) -> State:
        """Loads the trained weights into a copy of the dense network."""
        model = copy.deepcopy(state.models["dense"])
        load_weights_into(model, _weights(context))
        return state.with_model("control", model)


class Finetune(Step[FinetuneSettings]):
    """Trains the pruned network, with the dense one as its teacher if that is asked for."""

    summary = "train the pruned network"
    config = FinetuneSettings
    after = ("prune", "sparsify", "remove_layers")

    def run(self, context: Context, state: State, config: FinetuneSettings) -> tuple[State, StepResult]:
        """Trains ``pruned`` in place and writes the run's artifact again."""
        teachers = [] if config.distill is None else [config.distill.make(context, state)]
        result = _train(context, state.models["pruned"], config, "pruned", "Pruned, fine-tuned", teachers)
        state.pruned.save(context.folder / "artifact")
        return state, result

    def restore(self, context: Context, state: State, config: FinetuneSettings) -> State:
        """Loads the trained weights."""
        load_weights_into(state.models["pruned"], _weights(context))
        return state


STEPS.add("adapt", Adapt())
STEPS.add("control", Control())
STEPS.add("finetune", Finetune())
