"""Steps that repair a cut without labels, and delete unused paths."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator, model_validator

from secateur.core.errors import InputError
from secateur.recipe.schema import Settings
from secateur.recipe.steps.base import STEPS, Context, State, Step, StepResult, derive_seed
from secateur.recipe.steps.pruning import calibration, cut_again, keep_cut, pinned_layers
from secateur.recipe.steps.weights import load_weights_into, save_weights
from secateur.recovery import purify, recover, tune
from secateur.recovery.api import check_method
from secateur.recovery.tuning import BLOCK_EPOCHS, EPOCHS, check_tuning
from secateur.recovery.twin import last_cut

if TYPE_CHECKING:
    from secateur.cut.pruned import Pruned

__all__ = ["Purify", "PurifySettings", "Recover", "RecoverSettings", "Tune", "TuneSettings"]


class RecoverSettings(Settings):
    """Settings of `secateur.recover`.

    Attributes:
        method: ``least_squares``, ``scale`` (ThiNet), ``bias``, ``batch_norm`` or ``merge``.
        images: Unlabelled training images; 0 for the forms without data (``bias`` and ``merge``).
        mirror: Show each image's mirror image too.
        fit_to: Whose responses are fitted: those of the dense network, or of the one before the last cut (before).
        layers: All layers behind the cut, or the next ones alone: those that the last cut took inputs from.
        ridge: Strength of the ridge, 0 for none, or null to choose it by cross-validation.
        match_variance: Give refitted layers' responses the variance of the dense network's; ``auto`` to try both.
    """

    method: str = "least_squares"
    images: int = Field(default=512, ge=0)
    mirror: bool = False
    fit_to: Literal["dense", "before"] = "dense"
    layers: Literal["all", "next"] = "all"
    ridge: float | None = Field(default=None, ge=0)
    match_variance: bool | Literal["auto"] = False

    @field_validator("method")
    @classmethod
    def _known(cls, name: str) -> str:
        check_method(name)
        return name

    @model_validator(mode="after")
    def _together(self) -> RecoverSettings:
        check_method(self.method, match_variance=self.match_variance, layers=self.layers)
        if self.layers == "next" and not self.images:
            raise InputError("layers: next wants images to fit on; got images: 0")
        return self


class Recover(Step[RecoverSettings]):
    """Repairs the pruned network without labels, gradients or training."""

    summary = "repair the pruned network without training: least squares, scales, biases, statistics"
    config = RecoverSettings

    def builds_on(self, earlier: Step[Any]) -> bool:
        """What took something away that is missed."""
        return earlier.repairable

    def run(self, context: Context, state: State, config: RecoverSettings) -> tuple[State, StepResult]:
        """Fits the pruned network to the dense one, and scores it; the network before stays as it was."""
        data = calibration(context, config.images, config.mirror) if config.images else None
        seed = derive_seed(context.recipe.seed, context.step)
        options = config.model_dump(exclude={"images", "mirror", "fit_to"}) | {"seed": seed}
        fixed = _fitted(recover, state, data, options, last=config.fit_to == "before")
        return _kept(context, state, fixed)

    def restore(self, context: Context, state: State, config: RecoverSettings) -> State:
        """Loads the repaired weights."""
        load_weights_into(state.cut.model, _file(context))
        return state


class TuneSettings(Settings):
    """Settings of `secateur.tune`.

    Attributes:
        images: Unlabelled training images.
        mirror: Show each image's mirror image too.
        block_epochs: Passes over the images for every block; 0 leaves the blocks out.
        epochs: Passes over the images for the whole network; 0 leaves the distillation out.
        seconds: When to stop; the result then depends on the machine. Null for no bound.
        memory_bytes: What waits between two blocks may take in memory; null for 1 GiB.
        batch_size: Images that run at a time.
        loss: ``auto``, ``scores`` or ``error``.
    """

    images: int = Field(default=512, ge=8)
    mirror: bool = False
    block_epochs: int = Field(default=BLOCK_EPOCHS, ge=0)
    epochs: int = Field(default=EPOCHS, ge=0)
    seconds: float | None = Field(default=None, gt=0)
    memory_bytes: int | None = Field(default=None, ge=0)
    batch_size: int = Field(default=32, ge=1)
    loss: str = "auto"

    @model_validator(mode="after")
    def _together(self) -> TuneSettings:
        check_tuning(block_epochs=self.block_epochs, epochs=self.epochs, loss=self.loss)
        return self


class Tune(Step[TuneSettings]):
    """Trains the pruned network towards the dense one, without labels."""

    summary = "train the pruned network towards the dense one: gradients, no labels; blocks first, then the whole"
    config = TuneSettings

    def builds_on(self, earlier: Step[Any]) -> bool:
        """What took something away that is missed."""
        return earlier.repairable

    def run(self, context: Context, state: State, config: TuneSettings) -> tuple[State, StepResult]:
        """Tunes the pruned network, and scores it; the network before stays as it was."""
        data = calibration(context, config.images, config.mirror)
        options = config.model_dump(exclude={"images", "mirror"})
        options["seed"] = derive_seed(context.recipe.seed, context.step)
        return _kept(context, state, _fitted(tune, state, data, options))

    def restore(self, context: Context, state: State, config: TuneSettings) -> State:
        """Loads the tuned weights."""
        load_weights_into(state.cut.model, _file(context))
        return state


def _kept(context: Context, state: State, fixed: Pruned) -> tuple[State, StepResult]:
    """Keeps a repaired network's weights, and scores it."""
    save_weights(fixed.model, _file(context))
    quality = context.judge(fixed.model)
    notes = [n for n in fixed.notes if n not in state.cut.notes]
    result = StepResult(summary=context.told(quality), report={"notes": notes}, evaluations={"pruned": quality})
    return state.with_pruned(fixed), result


def _file(context: Context) -> Path:
    return context.work / "model.safetensors"


def _fitted(
    repair: Callable[..., Pruned], state: State, data: Any, options: Mapping[str, Any], *, last: bool = False
) -> Pruned:
    """The pruned network, fitted to the dense one; if ``last`` or if branches went, to that before the last cut.

    There is nothing of a branch that is gone to fit to, and what the last cut was made in has all of the rest.
    """
    parts = state.cut.plan.parts
    if state.before is None or not parts or not (last or any(part.removed for part in parts[:-1])):
        return repair(state.cut, data, dense=state.dense, **options)
    cut = replace(state.cut, source=state.before, dense=state.dense)
    return last_cut(cut, lambda alone, before: repair(alone, data, dense=before, **options))


class PurifySettings(Settings):
    """Settings of `secateur.purify`.

    Attributes:
        emptiness: Share of an input channel's columns that are zero from which on all of it goes; null to delete only
            what has no effect.
    """

    emptiness: float | None = Field(default=None, gt=0, le=1)


class Purify(Step[PurifySettings]):
    """Deletes channels that nothing enters or nothing uses, to a fixed point."""

    summary = "delete channels that are on no path from input to output (after weight pruning)"
    config = PurifySettings
    changes_network, cuts = True, "unused paths"

    def run(self, context: Context, state: State, config: PurifySettings) -> tuple[State, StepResult]:
        """Deletes from the current network; without purification the function stays the same, and that is checked."""
        pruned = purify(state.network, context.inputs(2), emptiness=config.emptiness)
        pinned = pinned_layers(pruned.before, (cut.group for cut in pruned.groups))
        new, result = keep_cut(context, state, pruned, "channels without use", pinned)
        save_weights(pruned.model, context.work / "model.safetensors")
        return new, result

    def restore(self, context: Context, state: State, config: PurifySettings) -> State:
        """Cuts again by the plan that was kept, and takes the biases that constants were folded into."""
        state = cut_again(context, state, context.inputs(2))
        load_weights_into(state.cut.model, context.work / "model.safetensors")
        return state


STEPS.add("recover", Recover())
STEPS.add("tune", Tune())
STEPS.add("purify", Purify())
