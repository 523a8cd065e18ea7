"""The step that removes whole layers."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from secateur.core.errors import InputError
from secateur.criteria.base import CRITERIA, of_kind
from secateur.cut.layers import foresee_removal, removable, remove_layers
from secateur.cut.layers_by_output import OUTPUT_CHANGE, SAMPLES
from secateur.models.transformer import is_language_model
from secateur.recipe.schema import Settings
from secateur.recipe.steps.base import STEPS, Ahead, Context, State, Step, StepResult, derive_seed
from secateur.recipe.steps.pruning import cut_again, keep_cut, narrows

__all__ = ["RemoveLayers", "RemoveLayersSettings"]


class RemoveLayersSettings(Settings):
    """Settings of `secateur.remove_layers`, with exactly one of ``count``, ``ratio``, ``names``.

    Attributes:
        count: How many residual branches go, lowest score first.
        ratio: Share of the removable branches that goes.
        names: Names or patterns of the branches (or modules around them) that go.
        ignore: Names or patterns of branches that stay.
        criterion: What ranks the branches: the scale of the batch norm that ends them, the norm of their last
            weights, noise, or the change of the output on training samples (``output_change``); ``auto`` takes that for
            language models, the scale where every branch has one, else l1.
        backend: Surgery back end.
        whole: Whether ``count`` and ``ratio`` are of whole elements of lists of modules (a transformer's layers).
        if_any: Whether a network without residual branches is left as it is, with a note; else it is refused.
    """

    count: int | None = Field(default=None, ge=1)
    ratio: float | None = Field(default=None, gt=0, lt=1)
    names: tuple[str, ...] | None = None
    ignore: tuple[str, ...] = ()
    criterion: str = "auto"
    backend: Literal["auto", "module", "graph"] = "auto"
    whole: bool = False
    if_any: bool = False

    @field_validator("criterion")
    @classmethod
    def _known(cls, name: str) -> str:
        return name if name in ("auto", OUTPUT_CHANGE) else of_kind(name, "branches").name

    @model_validator(mode="after")
    def _one_amount(self) -> Self:
        given = [key for key in ("count", "ratio", "names") if getattr(self, key) is not None]
        if len(given) != 1:
            raise InputError(
                f"give one of count, ratio, names; got {' and '.join(given) or 'none'} "
                "(set what you do not want to null)"
            )
        return self

    def __str__(self) -> str:
        """What is asked for, in words."""
        if self.names is not None:
            return f"whole residual branches: {', '.join(self.names)}"
        amount = f"{self.count}" if self.count is not None else f"{self.ratio:.0%}"
        what = "layers with all their branches" if self.whole else "residual branches"
        return f"{amount} of the {what}, {_first(self.criterion)}"


def _first(criterion: str) -> str:
    """What goes first; ``auto`` has not chosen its criterion yet."""
    if criterion == OUTPUT_CHANGE:
        return "those first without which the output changes least"
    return "lowest score first" if criterion == "auto" else CRITERIA[criterion].goes_first


class RemoveLayers(Step[RemoveLayersSettings]):
    """Removes whole residual branches, verifies the cut, and keeps it as an artifact."""

    summary = "remove whole residual branches (their skips stay), and verify the cut"
    config = RemoveLayersSettings
    changes_network, cuts, repairable = True, "layers", True

    def foresee(self, config: RemoveLayersSettings, ahead: Ahead) -> None:
        """Chooses among the branches of the dense network, unless cuts come first."""
        if config.if_any or any(narrows(entry) for entry in ahead.earlier):
            return
        foresee_removal(ahead.model, ahead.inputs, **config.model_dump(exclude={"if_any", "backend"}))

    def run(self, context: Context, state: State, config: RemoveLayersSettings) -> tuple[State, StepResult]:
        """Cuts the current network, which stays as it is, and scores the result before any training."""
        model, inputs = state.network, context.inputs(2)
        if config.if_any and not any(not b.reason for b in removable(model, inputs, criterion="l1")):
            note = "The network has no residual branch that could go: no layer was removed."
            return state, StepResult(summary={"removed": []}, report={"notes": [note]})
        seed = derive_seed(context.recipe.seed, context.step)
        looks = config.criterion == OUTPUT_CHANGE or (config.criterion == "auto" and is_language_model(model))
        data = list(context.calibration(SAMPLES)) if looks else None
        pruned = remove_layers(model, inputs, seed=seed, data=data, **config.model_dump(exclude={"if_any"}))
        held = [b for b in removable(model, inputs, criterion="l1") if b.reason]
        pinned = [{"layer": branch.name, "reason": branch.reason} for branch in held]
        part = pruned.plan.parts[-1] if pruned.plan.parts else pruned.plan
        state, result = keep_cut(context, state, pruned, f"{config}: {', '.join(part.removed)}", pinned)
        summary = {**result.summary, "removed": list(part.removed)}
        return state, StepResult(summary, result.report, result.epochs, result.evaluations)

    def restore(self, context: Context, state: State, config: RemoveLayersSettings) -> State:
        """Removes the same branches again."""
        cut = (context.work / "cut.json").is_file()
        return cut_again(context, state, context.inputs(2)) if cut else state


STEPS.add("remove_layers", RemoveLayers())
