"""A step of one's own: shrinks all weights a little after a cut, and notes by how much and what that does."""

from pydantic import Field

from secateur.recipe.steps import Context, Settings, State, Step, StepResult, step
from secateur.recipe.steps.weights import load_weights_into, save_weights


class ShrinkSettings(Settings):
    """Settings of the step; a wrong key or value is reported with its line in the recipe."""

    by: float = Field(default=0.01, ge=0, lt=1)


@step("shrink")
class Shrink(Step[ShrinkSettings]):
    """Multiplies every weight by 1 − by."""

    summary = "shrink all weights a little"
    config = ShrinkSettings

    def builds_on(self, earlier: Step) -> bool:
        return earlier.changes_network

    def run(self, context: Context, state: State, config: ShrinkSettings) -> tuple[State, StepResult]:
        model = state.models[state.current]
        weights = {name: (1 - config.by) * w.detach() for name, w in model.named_parameters()}
        model.load_state_dict(weights, strict=False)
        save_weights(model, context.work / "model.safetensors")
        quality = context.judge(model)
        numbers = {"shrunk_by": config.by, **context.told(quality)}
        return state, StepResult(numbers, evaluations={state.current: quality})

    def restore(self, context: Context, state: State, config: ShrinkSettings) -> State:
        load_weights_into(state.models[state.current], context.work / "model.safetensors")
        return state
