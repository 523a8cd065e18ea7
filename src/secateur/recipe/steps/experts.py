"""The step that removes whole experts of mixtures."""

from __future__ import annotations

from typing import Self

from pydantic import Field, field_validator, model_validator

from secateur.core.errors import InputError
from secateur.cut.experts import AUTO, check_criterion, foresee_experts, measures, remove_experts
from secateur.recipe.schema import Settings
from secateur.recipe.steps.base import STEPS, Ahead, Context, State, Step, StepResult, derive_seed
from secateur.recipe.steps.pruning import cut_again, keep_cut, narrows

__all__ = ["RemoveExperts", "RemoveExpertsSettings"]


class RemoveExpertsSettings(Settings):
    """Settings of `secateur.remove_experts`, with exactly one of ``keep``, ``count``, ``ratio``.

    Attributes:
        keep: How many experts of every mixture stay.
        count: How many go, of every mixture.
        ratio: Share that goes, of every mixture.
        ignore: Names or patterns of mixtures that stay whole.
        criterion: What ranks experts: how much the router asks for them (``routing``, which ``auto`` takes), the change
            of the mixture's output without them (``output_change``), or a criterion of channels.
        samples: Training samples that are looked at.
    """

    keep: int | None = Field(default=None, ge=1)
    count: int | None = Field(default=None, ge=1)
    ratio: float | None = Field(default=None, gt=0, lt=1)
    ignore: tuple[str, ...] = ()
    criterion: str = AUTO
    samples: int = Field(default=512, ge=1)

    @field_validator("criterion")
    @classmethod
    def _known(cls, name: str) -> str:
        check_criterion(name)
        return name

    @model_validator(mode="after")
    def _one_amount(self) -> Self:
        given = [key for key in ("keep", "count", "ratio") if getattr(self, key) is not None]
        if len(given) != 1:
            raise InputError(
                f"give one of keep, count, ratio; got {' and '.join(given) or 'none'} "
                "(set what you do not want to null)"
            )
        return self

    def __str__(self) -> str:
        """What is asked for, in words."""
        if self.keep is not None:
            return f"all but {self.keep} experts of every mixture"
        amount = f"{self.count}" if self.count is not None else f"{self.ratio:.0%}"
        return f"{amount} of the experts of every mixture"


class RemoveExperts(Step[RemoveExpertsSettings]):
    """Removes whole experts with their rows of the router, verifies the cut, and keeps it as an artifact."""

    summary = "remove whole experts of mixtures, with their rows of the router, and verify the cut"
    config = RemoveExpertsSettings
    changes_network, cuts, repairable = True, "experts", True

    def foresee(self, config: RemoveExpertsSettings, ahead: Ahead) -> None:
        """Looks for the experts of the dense network, unless cuts come first."""
        if not any(narrows(entry) for entry in ahead.earlier):
            amount = config.model_dump(include={"keep", "count", "ratio", "ignore"})
            foresee_experts(ahead.model, ahead.inputs, **amount)

    def run(self, context: Context, state: State, config: RemoveExpertsSettings) -> tuple[State, StepResult]:
        """Cuts the current network, which stays as it is, and scores the result before any training."""
        seed = derive_seed(context.recipe.seed, context.step)
        data = list(context.calibration(config.samples)) if measures(config.criterion) else None
        options = config.model_dump(exclude={"samples"})
        pruned = remove_experts(state.network, context.inputs(2), seed=seed, data=data, **options)
        part = pruned.plan.parts[-1] if pruned.plan.parts else pruned.plan
        return keep_cut(context, state, pruned, f"{config}, by {part.provenance['criterion']}", [])

    def restore(self, context: Context, state: State, config: RemoveExpertsSettings) -> State:
        """Removes the same experts again."""
        return cut_again(context, state, context.inputs(2))


STEPS.add("remove_experts", RemoveExperts())
