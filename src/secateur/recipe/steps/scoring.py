"""The step that scores a network on the way, for ratios that are raised step by step."""

from __future__ import annotations

from typing import Any

from secateur.cost import nonzero_params
from secateur.cost.counts import count
from secateur.recipe.schema import Settings
from secateur.recipe.steps.base import AT_CHANCE, STEPS, Context, State, Step, StepResult
from secateur.timing.measurement import scored

__all__ = ["Score", "ScoreSettings"]


class ScoreSettings(Settings):
    """Settings of a point.

    Attributes:
        label: What the point is called; by default what has been cut so far.
    """

    label: str | None = None


class Score(Step[ScoreSettings]):
    """Notes the size, the leading metric and the NetScore of the network as it is now."""

    summary = "note size, metric and NetScore as they are now"
    config = ScoreSettings

    def run(self, context: Context, state: State, config: ScoreSettings) -> tuple[State, StepResult]:
        """Scores the pruned network (the dense one where nothing was pruned so far)."""
        model, leading = state.network, context.task.leading
        quality = context.evaluation(state.current)
        if quality is None:
            quality = context.judge(model)
        counts, left = count(model, context.inputs(2)), nonzero_params(model)
        point = {
            "label": config.label or cut_so_far(context),
            "params": counts.params,
            "nonzero_params": left,
            "macs": counts.macs,
            "value": quality[leading.name],
            "netscore": scored(leading.percent(quality[leading.name]), left, counts.macs),
        }
        chance = context.task.at_chance(quality)
        notes = [AT_CHANCE.format(what=point["label"])] if chance and point["netscore"] is not None else []
        summary = {**point, **context.told(quality)}
        told = {name: value for name, value in quality.items() if name != "loss"}
        widths = {layer.name: layer.out_channels for layer in counts.layers}
        return state, StepResult(
            summary,
            {"points": [{**point, "quality": told, "widths": widths, "at_chance": chance}], "notes": notes},
            evaluations={state.current: quality},
        )


def cut_so_far(context: Context) -> str:
    """Words for the latest cut of every kind before this step, for instance ``channels −50 %, weights −80 %``."""
    latest: dict[str, Any] = {}
    for step in context.recipe.steps[: int(context.step.partition("-")[0]) - 1]:
        ratio = getattr(step.config, "ratio", None)
        if what := STEPS[step.kind].cuts:
            latest[what] = f" −{100 * ratio:.3g} %" if isinstance(ratio, float) else " cut"
    return ", ".join(f"{what}{how}" for what, how in latest.items()) or "dense"


STEPS.add("score", Score())
