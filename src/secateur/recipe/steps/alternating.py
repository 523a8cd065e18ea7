"""Steps that train under a constraint: towards few weights (LC), towards filters and columns of zeros (ADMM)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal, TypeVar

from pydantic import Field, model_validator

from secateur.recipe.schema import Ratio, Share, ratio_in_words
from secateur.recipe.steps.base import STEPS, Ahead, Context, State, Step, StepResult
from secateur.recipe.steps.fitting import TrainSettings, held, kept_bytes, train, weights_file
from secateur.recipe.steps.pruning import narrows
from secateur.recipe.steps.sparsifying import made_sparse, sparse_result
from secateur.recipe.steps.weights import load_weights_into
from secateur.sparsity import ADMM, LC
from secateur.sparsity.alternating import APART, Alternating
from secateur.sparsity.masks import copied, load_masks, save_masks

__all__ = ["AdmmSettings", "AlternatingSettings", "LearnCompress", "LearnCompressSettings", "RegulariseByAdmm"]


class AlternatingSettings(TrainSettings):
    """Settings of training under a constraint: those of a step that trains, and of its extra.

    Attributes:
        iterations: How often training and projection alternate, spread over the training.
        only: Modules or parameters (names or patterns) that alone are pruned.
        ignore: Modules or parameters that are left alone.
    """

    iterations: int = Field(default=40, ge=1)
    only: tuple[str, ...] | None = None
    ignore: tuple[str, ...] = ()
    keep: Literal["last"] = "last"  # the constraint holds for the weights of the last iteration

    @abstractmethod
    def make(self) -> Alternating:
        """The extra that alternates.

        Raises:
            InputError: Settings that do not go together.
        """

    @model_validator(mode="after")
    def _together(self) -> AlternatingSettings:
        self.make()
        return self


class LearnCompressSettings(AlternatingSettings):
    """Settings of LC: those of a step that trains, and those of `secateur.sparsity.LC`.

    Attributes:
        ratio: Share of all weights to remove.
        mu: Weight of the penalty in the first iteration; null to work it out from ``final_mu``.
        final_mu: Weight in the last iteration; null for 1, or for what ``mu`` grows to.
        growth: Its factor from one iteration to the next; null for the default of the schedule.
        iterations: Compression steps, spread over the training.
    """

    spread: ClassVar[Mapping[str, Literal["removed", "kept"]]] = {"ratio": "removed"}

    ratio: Share = 0.95
    mu: float | None = Field(default=None, gt=0)
    final_mu: float | None = Field(default=None, gt=0)
    growth: float | None = Field(default=None, ge=1)

    def make(self) -> LC:
        """The extra that alternates."""
        return LC(self.ratio, mu=self.mu, final_mu=self.final_mu, growth=self.growth, iterations=self.iterations,
                  only=self.only, ignore=self.ignore)  # fmt: skip

    def __str__(self) -> str:
        """What is asked for, in words."""
        return f"{self.ratio:.1%} of the weights of the whole network by LC"


class AdmmSettings(AlternatingSettings):
    """Settings of ADMM: those of a step that trains, and those of `secateur.sparsity.ADMM`.

    Attributes:
        filters: Share of the filters of every convolution to remove, or one by layer name or pattern.
        columns: Share of the columns (input channel and place in the kernel), likewise.
        rho: ρ of the first stage.
        growth: Factor of ρ from one stage to the next.
        stages: How many values ρ takes.
        iterations: Updates of Z and U, spread over the training.
    """

    spread: ClassVar[Mapping[str, Literal["removed", "kept"]]] = {"filters": "removed", "columns": "removed"}

    filters: Ratio = 0.0
    columns: Ratio = 0.0
    rho: float = Field(default=0.3, gt=0)
    growth: float = Field(default=3.0, ge=1)
    stages: int = Field(default=3, ge=1)
    iterations: int = Field(default=9, ge=1)

    def make(self) -> ADMM:
        """The extra that alternates."""
        return ADMM(self.filters, self.columns, rho=self.rho, growth=self.growth, stages=self.stages,
                    iterations=self.iterations, only=self.only, ignore=self.ignore)  # fmt: skip

    def __str__(self) -> str:
        """What is asked for, in words."""
        asked = [(self.filters, "filters of every convolution"), (self.columns, "columns")]
        return f"{' and '.join(ratio_in_words(share, what) for share, what in asked if share)} by ADMM"


ConfigT = TypeVar("ConfigT", bound=AlternatingSettings)


class _Alternate(Step[ConfigT]):
    """Trains a copy of the current network under a constraint, and keeps only what obeys it."""

    changes_network, cuts = True, "weights"
    label: ClassVar[str]

    def leaves(self, config: ConfigT, ahead: Ahead) -> int:
        """Checkpoints, and the weights in the end."""
        return kept_bytes(config, ahead)

    def foresee(self, config: ConfigT, ahead: Ahead) -> None:
        """Finds the layers and their shares on the dense network, unless a cut comes first."""
        if not any(narrows(entry) for entry in ahead.earlier):
            config.make().choose(ahead.model)

    def run(self, context: Context, state: State, config: ConfigT) -> tuple[State, StepResult]:
        """Trains as ``pruned``; masks hold from here on."""
        model, extra = copied(state.network), config.make()
        trained = train(context, model, config, "pruned", self.label, [extra, *held(state)])
        masks = {name: mask & state.masks.get(name, mask).to(mask.device) for name, mask in extra.masks.items()}
        masks = {**state.masks, **masks}
        save_masks(masks, context.work / "masks.safetensors")
        state, found = made_sparse(context, state, model, masks)
        own = sparse_result(context, found, str(config))
        report = {**trained.report, **own.report, "notes": [*own.report["notes"], *_apart(trained, extra)]}
        return state, StepResult({**trained.summary, **own.summary}, report, trained.epochs, own.evaluations)

    def restore(self, context: Context, state: State, config: ConfigT) -> State:
        """Loads the trained weights and the masks."""
        model = copied(state.network)
        load_weights_into(model, weights_file(context))
        return made_sparse(context, state, model, load_masks(context.work / "masks.safetensors"))[0]


def _apart(trained: StepResult, extra: Alternating) -> list[str]:
    """What the report says where weights and constraint have not come together."""
    distance = trained.epochs[-1]["extra"][f"{extra.name.lower()}_distance"] if trained.epochs else 0.0
    if distance <= APART:
        return []
    return [
        f"{extra.name} has not converged: after the last epoch the weights were {distance:.0%} of their size from what "
        f"the constraint left of them. {extra.remedy}"
    ]


class LearnCompress(_Alternate[LearnCompressSettings]):
    """Trains a copy of the current network until it agrees with its own largest weights, and keeps only those."""

    summary = "train towards few weights (learning-compression), and keep only those"
    config = LearnCompressSettings
    label = "Learning-compression"


class RegulariseByAdmm(_Alternate[AdmmSettings]):
    """Trains a copy of the current network until whole filters and columns are nearly zero, and removes them."""

    summary = "train towards filters and columns of zeros (ADMM), and remove those; training holds the masks"
    config = AdmmSettings
    label = "ADMM"


STEPS.add("lc", LearnCompress())
STEPS.add("admm", RegulariseByAdmm())
