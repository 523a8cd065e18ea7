"""Steps that train: adapt the dense network, train it on as a control, fine-tune the pruned one."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from torch import nn

from secateur.recipe.schema import Settings
from secateur.recipe.steps.base import STEPS, Context, State, Step, StepResult
from secateur.recipe.steps.penalties import PenaltySettings, as_list
from secateur.recipe.steps.weights import load_weights_into, save_weights
from secateur.sparsify.rewinding import Snapshot
from secateur.train import Extra, History, TrainConfig, evaluate, fit

__all__ = ["MANY_IMAGES", "Adapt", "Control", "Finetune", "TrainSettings"]


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


def _weights(context: Context) -> Path:
    return context.work / "model.safetensors"


def _train(context: Context, model: nn.Module, config: TrainSettings, role: str, label: str) -> StepResult:
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
        extras=_extras(context, model, config, role),
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


class Finetune(Step[TrainSettings]):
    """Trains the pruned network."""

    summary = "train the pruned network"
    config = TrainSettings
    after = ("prune", "sparsify", "remove_layers")

    def run(self, context: Context, state: State, config: TrainSettings) -> tuple[State, StepResult]:
        """Trains ``pruned`` in place and writes the run's artifact again."""
        result = _train(context, state.models["pruned"], config, "pruned", "Pruned, fine-tuned")
        state.pruned.save(context.folder / "artifact")
        return state, result

    def restore(self, context: Context, state: State, config: TrainSettings) -> State:
        """Loads the trained weights."""
        load_weights_into(state.models["pruned"], _weights(context))
        return state


STEPS.add("adapt", Adapt())
STEPS.add("control", Control())
STEPS.add("finetune", Finetune())
