"""Steps that repair a cut without training, choose channels for that, and delete unused paths."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from secateur.recipe.schema import Settings
from secateur.recipe.steps.base import STEPS, Context, State, Step, StepResult, derive_seed
from secateur.recipe.steps.pruning import (
    TARGETS,
    WHERE,
    cut_again,
    keep_cut,
    known_runtime,
    left,
    one_amount,
    pinned_layers,
    target_of,
)
from secateur.recipe.steps.weights import load_weights_into, save_weights

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Purify", "PurifySettings", "Recover", "RecoverSettings", "Select", "SelectSettings"]


def _mirrored(images: Tensor, mirror: bool) -> Tensor:
    import torch

    return torch.cat([images, images.flip(3)]) if mirror else images


class RecoverSettings(Settings):
    """Settings of `secateur.recover`.

    Attributes:
        method: ``least_squares``, ``scale`` (ThiNet), ``bias``, ``batch_norm`` or ``merge``.
        images: Unlabelled training images; 0 for the forms without data (``bias`` and ``merge``).
        mirror: Show each image's mirror image too.
        ridge: Strength of the ridge, or null to choose it by cross-validation.
    """

    method: str = "least_squares"
    images: int = Field(default=512, ge=0)
    mirror: bool = False
    ridge: float | None = Field(default=None, ge=0)

    @field_validator("method")
    @classmethod
    def _known(cls, name: str) -> str:
        from secateur.core.errors import UnknownNameError
        from secateur.recovery import METHODS

        if name not in METHODS:
            raise UnknownNameError("recovery method", name, METHODS)
        return name


class Recover(Step[RecoverSettings]):
    """Repairs the pruned network without labels, gradients or training."""

    summary = "repair the pruned network without training: least squares, scales, biases, statistics"
    config = RecoverSettings

    def builds_on(self, earlier: Step[Any]) -> bool:
        """What took something away that is missed."""
        return earlier.repairable

    def run(self, context: Context, state: State, config: RecoverSettings) -> tuple[State, StepResult]:
        """Fits the pruned network to the dense one, and scores it; the network before stays as it was."""
        from secateur.recovery import recover
        from secateur.train import evaluate

        data = _mirrored(context.images(config.images), config.mirror) if config.images else None
        seed = derive_seed(context.recipe.seed, context.step)
        fixed = recover(state.cut, data, dense=state.dense, method=config.method, ridge=config.ridge,
                        seed=seed)  # fmt: skip
        save_weights(fixed.model, self._file(context))
        quality = evaluate(fixed.model, context.data.test, data=context.data).to_dict()
        notes = [n for n in fixed.notes if n not in state.cut.notes]
        result = StepResult(
            summary={f"test_{key}": value for key, value in quality.items()},
            report={"notes": notes},
            evaluations={"pruned": quality},
        )
        return state.with_pruned(fixed), result

    def restore(self, context: Context, state: State, config: RecoverSettings) -> State:
        """Loads the repaired weights."""
        load_weights_into(state.cut.model, self._file(context))
        return state

    @staticmethod
    def _file(context: Context) -> Path:
        return context.work / "model.safetensors"


class SelectSettings(Settings):
    """Settings of `secateur.select`, with exactly one of ``ratio`` and the targets.

    Attributes:
        ratio: Share of the units that is removed, in [0, 1).
        params: Parameters to keep: a count, or a share up to 1.
        macs: MACs of one image to keep: a count, or a share up to 1.
        energy: Energy of one image (by a model, in multiply-accumulates) to keep: the same.
        size: Bytes of the weights to keep: the same.
        latency: Measured time in ``runtime``, as a share of the network's, up to 1.
        latency_ms: The same in milliseconds of one call.
        runtime: Where a latency is measured.
        batch: Images per call that a latency is of.
        threads: Threads inside an operator that a latency is of.
        scope: Budgets by measured sensitivity (global), or the same share of every group or block; by default
            global, and with a latency the widths whose removal the output feels least in that time.
        round_to: Kept units are a multiple of this; ``auto`` for the runtime's own step, which is what a latency
            takes by default.
        min_units: At least so many units stay in each group.
        only: Modules (names or patterns) that alone are pruned.
        ignore: Modules (names or patterns) that are left alone.
        granularity: Whole blocks (heads, groups) or positions within them.
        images: Unlabelled training images.
        mirror: Show each image's mirror image too.
    """

    ratio: float | None = Field(default=None, ge=0, lt=1)
    params: float | None = Field(default=None, gt=0)
    macs: float | None = Field(default=None, gt=0)
    energy: float | None = Field(default=None, gt=0)
    size: float | None = Field(default=None, gt=0)
    latency: float | None = Field(default=None, gt=0, le=1)
    latency_ms: float | None = Field(default=None, gt=0)
    runtime: str | None = None
    batch: int = Field(default=1, ge=1)
    threads: int = Field(default=1, ge=1)
    scope: Literal["local", "global", "block"] | None = None
    round_to: Annotated[int, Field(ge=1)] | Literal["auto"] | None = None
    min_units: int = Field(default=1, ge=1)
    only: tuple[str, ...] | None = None
    ignore: tuple[str, ...] = ()
    granularity: Literal["auto", "whole", "within"] = "auto"
    images: int = Field(default=512, ge=1)
    mirror: bool = False

    @field_validator("runtime")
    @classmethod
    def _known_runtime(cls, name: str | None) -> str | None:
        return known_runtime(name)

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        one_amount(self)
        target_of(self)  # it checks what goes together
        return self

    def __str__(self) -> str:
        """What is asked for, in words."""
        target = target_of(self)
        amount = f"{self.ratio:.0%} of the units" if target is None else f"down to {left(target)}"
        return f"{amount}, those first that the layers behind can best make good"


class Select(Step[SelectSettings]):
    """Removes the units whose loss a refit makes good best, and verifies the cut."""

    summary = "remove the units whose loss a refit of the next layers makes good best"
    config = SelectSettings
    changes_network, cuts, repairable = True, "channels", True

    def run(self, context: Context, state: State, config: SelectSettings) -> tuple[State, StepResult]:
        """Chooses on the current network and cuts it."""
        from secateur.cut.prune import apply
        from secateur.recovery import select

        current = state.network
        options = config.model_dump(exclude={*TARGETS, *WHERE, "images", "mirror"})
        images = _mirrored(context.images(config.images), config.mirror)
        seed = derive_seed(context.recipe.seed, context.step)
        plan = select(current, images, target=target_of(config), seed=seed, **options)
        pruned = apply(current, plan, context.images(2))
        pinned = pinned_layers(pruned.before, (cut.group for cut in pruned.groups))
        return keep_cut(context, state, pruned, str(config), pinned)

    def restore(self, context: Context, state: State, config: SelectSettings) -> State:
        """Cuts again by the plan that was kept."""
        return cut_again(context, state, context.images(2))


class PurifySettings(Settings):
    """Deleting unused paths has no settings."""


class Purify(Step[PurifySettings]):
    """Deletes channels that nothing enters or nothing uses, to a fixed point."""

    summary = "delete channels that are on no path from input to output (after weight pruning)"
    config = PurifySettings
    changes_network, cuts = True, "unused paths"

    def run(self, context: Context, state: State, config: PurifySettings) -> tuple[State, StepResult]:
        """Deletes from the current network; the function stays the same, and that is checked."""
        from secateur.recovery import purify

        pruned = purify(state.network, context.images(2))
        pinned = pinned_layers(pruned.before, (cut.group for cut in pruned.groups))
        new, result = keep_cut(context, state, pruned, "channels without use", pinned)
        save_weights(pruned.model, context.work / "model.safetensors")
        return new, result

    def restore(self, context: Context, state: State, config: PurifySettings) -> State:
        """Cuts again by the plan that was kept, and takes the biases that constants were folded into."""
        state = cut_again(context, state, context.images(2))
        load_weights_into(state.cut.model, context.work / "model.safetensors")
        return state


STEPS.add("recover", Recover())
STEPS.add("select", Select())
STEPS.add("purify", Purify())
