"""Steps that give a pruned architecture other weights: those it once had, or fresh ones."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field
from torch import Tensor, nn

from secateur.core.errors import InputError
from secateur.cost.counts import count
from secateur.graph.copies import deep_copy
from secateur.recipe.schema import Settings
from secateur.recipe.steps.base import STEPS, Ahead, Context, State, Step, StepResult, derive_seed
from secateur.recipe.steps.fitting import TrainSettings, early_weights, epochs_before, held, train, weights_file
from secateur.recipe.steps.weights import load_weights_into, read_weights, save_weights
from secateur.sparsity.masks import apply_masks
from secateur.sparsity.rewinding import fresh, rewind

__all__ = ["Rewind", "RewindSettings", "Scratch", "ScratchSettings"]


class RewindSettings(Settings):
    """Settings of rewinding.

    Attributes:
        epoch: Epoch of the ``adapt`` step after which the weights are taken; 0 for those that the run began with.
    """

    epoch: int = Field(default=0, ge=0)


class Rewind(Step[RewindSettings]):
    """Lottery ticket: the weights that survived return to their early values."""

    summary = "let the weights that are left return to their early values"
    config = RewindSettings

    def builds_on(self, earlier: Step[Any]) -> bool:
        """What made a pruned network."""
        return earlier.changes_network

    def foresee(self, config: RewindSettings, ahead: Ahead) -> None:
        """Asks whether an adapt step will come to that epoch."""
        samples = ahead.task.samples("train")
        trained = [entry.config.train_config(samples).epochs for entry in ahead.earlier if entry.kind == "adapt"]  # type: ignore[attr-defined]
        if config.epoch > max(trained, default=0):
            raise InputError(_not_kept("rewind", config.epoch))

    def run(self, context: Context, state: State, config: RewindSettings) -> tuple[State, StepResult]:
        """Rewinds the pruned network in place; masks go on to hold."""
        model = state.cut.model
        early = _early(context, config.epoch)
        model.load_state_dict(rewind(model, early, state.cut.plan, masks=state.masks).state_dict())
        save_weights(model, weights_file(context))
        quality = context.judge(model)
        summary: dict[str, Any] = {"epoch_rewound_to": config.epoch} | context.told(quality)
        return state, StepResult(summary=summary, evaluations={"pruned": quality})

    def restore(self, context: Context, state: State, config: RewindSettings) -> State:
        """Loads the rewound weights."""
        load_weights_into(state.cut.model, weights_file(context))
        return state


def _not_kept(step: str, epoch: int) -> str:
    return (
        f"{step} wants the weights after epoch {epoch}, and no adapt step of this recipe keeps them. Put an adapt step "
        "of at least that many epochs before the cut, or rewind to epoch 0 (as the run began)."
    )


def _early(context: Context, epoch: int) -> dict[str, Tensor]:
    """The dense network's weights after ``epoch``.

    Raises:
        InputError: No step of the run kept them.
    """
    if epoch == 0:
        return dict(context.begin().state_dict())
    steps = context.folder / "steps"
    found = [early_weights(steps / name, epoch) for name in context.results if name.endswith("-adapt")]
    file = next((path for path in found if path.is_file()), None)
    if file is None:
        raise InputError(_not_kept(context.step, epoch))
    return read_weights(file)


class ScratchSettings(TrainSettings):
    """Settings of training from scratch: those of every step that trains, and how long.

    Attributes:
        epochs: A number, or ``auto``: as many as the dense and the pruned network were trained for in this run.
        budget: ``epochs`` trains for so many (Scratch-E); ``macs`` for as many more as the pruned network is
            cheaper, so that the work is the same (Scratch-B). Masks of single weights hold in either case.
    """

    budget: Literal["epochs", "macs"] = "epochs"


class Scratch(Step[ScratchSettings]):
    """The control of Liu et al. 2019 (arXiv:1810.05270): the pruned architecture, trained from fresh weights."""

    summary = "train the pruned architecture from fresh weights, to compare"
    config = ScratchSettings
    role, title, compared = "scratch", "Pruned form, from scratch", False

    def builds_on(self, earlier: Step[Any]) -> bool:
        """What made a pruned network."""
        return earlier.changes_network

    def run(self, context: Context, state: State, config: ScratchSettings) -> tuple[State, StepResult]:
        """Trains the architecture of ``pruned`` as ``scratch``."""
        model = self._fresh(context, state)
        epochs = _epochs(context, state, config)
        settings = config.model_copy(update={"epochs": epochs})
        result = train(context, model, settings, self.role, self.title, held(state))
        return state.with_other(self.role, model), result

    def restore(self, context: Context, state: State, config: ScratchSettings) -> State:
        """Loads the trained weights."""
        model = deep_copy(state.cut.model)
        load_weights_into(model, weights_file(context))
        return state.with_other(self.role, model)

    @staticmethod
    def _fresh(context: Context, state: State) -> nn.Module:
        seed = derive_seed(context.recipe.seed, context.step)
        model = fresh(state.cut.model, seed=seed, dense=state.dense, plan=state.cut.plan)
        apply_masks(model, state.masks)
        return model


def _epochs(context: Context, state: State, config: ScratchSettings) -> int:
    """How long to train, for the budget that is to be equal."""
    epochs = config.epochs if config.epochs != "auto" else epochs_before(context, "pruned")
    epochs = epochs or config.train_config(context.task.samples("train")).epochs
    if config.budget == "epochs":
        return int(epochs)
    inputs = context.inputs(2)
    dense, pruned = (count(model, inputs).macs for model in (state.dense, state.cut.model))
    return round(epochs * dense / pruned)


STEPS.add("rewind", Rewind())
STEPS.add("scratch", Scratch())
