"""Steps that train: adapt the dense network, train it on as a control, fine-tune the pruned one."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from secateur.core.errors import InputError
from secateur.graph.copies import deep_copy
from secateur.recipe.schema import Settings
from secateur.recipe.steps.base import DENSE, STEPS, Ahead, Context, State, Step, StepResult
from secateur.recipe.steps.fitting import TrainSettings, held, kept_bytes, train, weights_file
from secateur.recipe.steps.weights import load_weights_into
from secateur.train import Adapters, Distill
from secateur.train.adapters import check_installed

__all__ = ["Adapt", "AdapterSettings", "Control", "DistillSettings", "Finetune", "FinetuneSettings"]


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
            raise InputError(_no_teacher(context.step, self.teacher))
        options = self.model_dump(exclude={"teacher"})
        return Distill(state.models[self.teacher], inputs=context.inputs(2), task=context.task, **options)


def _no_teacher(step: str, teacher: str) -> str:
    return (
        f"{step} distils from the {teacher} network, which this recipe does not have so far. Put a control step before "
        "it, or distil from dense."
    )


class AdapterSettings(Settings, Adapters):
    """Low-rank adapters beside linear layers: the settings of `secateur.train.Adapters`."""


class FinetuneSettings(TrainSettings):
    """Settings of fine-tuning: those of every step that trains, a teacher, and adapters.

    Attributes:
        distill: The teacher, or ``null`` for none.
        adapters: Adapters that are trained in the place of the weights and then added to them, or ``null`` for none.
    """

    distill: DistillSettings | None = None
    adapters: AdapterSettings | None = None

    @model_validator(mode="after")
    def _plain(self) -> Self:
        if self.adapters is not None and self.penalty:
            raise InputError("a penalty is on weights, and with adapters none is trained: leave one of them out")
        return self


class Adapt(Step[TrainSettings]):
    """Trains the dense network, with its head fitted to the data set, on the new data."""

    summary = "train the dense network on the new data"
    config = TrainSettings
    role, title, trains = "dense", "Dense, adapted", True

    def leaves(self, config: TrainSettings, ahead: Ahead) -> int:
        """Checkpoints, and the weights in the end."""
        return kept_bytes(config, ahead)

    def run(self, context: Context, state: State, config: TrainSettings) -> tuple[State, StepResult]:
        """Trains ``dense`` in place."""
        return state, train(context, state.dense, config, self.role, self.title)

    def restore(self, context: Context, state: State, config: TrainSettings) -> State:
        """Loads the trained weights."""
        load_weights_into(state.dense, weights_file(context))
        return state


class Control(Step[TrainSettings]):
    """Trains a copy of the dense network for as long as the pruned one: the honest comparison."""

    summary = "train a copy of the dense network on, to compare the pruned one with"
    config = TrainSettings
    role, title, trains, compared = "control", "Dense, trained on", True, False

    def leaves(self, config: TrainSettings, ahead: Ahead) -> int:
        """Checkpoints, and the weights in the end."""
        return kept_bytes(config, ahead)

    def run(self, context: Context, state: State, config: TrainSettings) -> tuple[State, StepResult]:
        """Trains a copy of ``dense`` as ``control``."""
        model = deep_copy(state.dense)
        result = train(context, model, config, self.role, self.title)
        return state.with_other(self.role, model), result

    def restore(self, context: Context, state: State, config: TrainSettings) -> State:
        """Loads the trained weights into a copy of the dense network."""
        model = deep_copy(state.dense)
        load_weights_into(model, weights_file(context))
        return state.with_other(self.role, model)


_FILLED = (
    "finetune: adapters are added to all weights of a layer, so those that sparsify removed would come back. Fine-tune "
    "without adapters, which keeps them at zero."
)


class Finetune(Step[FinetuneSettings]):
    """Trains the pruned network, with the dense one as its teacher if that is asked for; masks hold."""

    summary = "train the pruned network"
    config = FinetuneSettings
    trains = True

    def builds_on(self, earlier: Step[Any]) -> bool:
        """What made a pruned network."""
        return earlier.changes_network

    def foresee(self, config: FinetuneSettings, ahead: Ahead) -> None:
        """Asks whether there will be a teacher."""
        roles = {DENSE, *(STEPS[entry.kind].role for entry in ahead.earlier if entry.kind in STEPS)}
        if config.distill is not None and config.distill.teacher not in roles:
            raise InputError(_no_teacher("finetune", config.distill.teacher))
        if config.adapters is not None and any(
            STEPS[e.kind].cuts == "weights" for e in ahead.earlier if e.kind in STEPS
        ):
            raise InputError(_FILLED)

    def check(self, config: FinetuneSettings) -> None:
        """Looks for PEFT, where adapters are wanted."""
        if config.adapters is not None:
            check_installed()

    def run(self, context: Context, state: State, config: FinetuneSettings) -> tuple[State, StepResult]:
        """Trains ``pruned`` in place."""
        teachers = [] if config.distill is None else [config.distill.make(context, state)]
        if config.adapters is not None and state.masks:
            raise InputError(_FILLED)
        extras = [*teachers, *held(state)]
        result = train(context, state.cut.model, config, "pruned", "Pruned, fine-tuned", extras, config.adapters)
        return state, result

    def restore(self, context: Context, state: State, config: FinetuneSettings) -> State:
        """Loads the trained weights."""
        load_weights_into(state.cut.model, weights_file(context))
        return state


STEPS.add("adapt", Adapt())
STEPS.add("control", Control())
STEPS.add("finetune", Finetune())
