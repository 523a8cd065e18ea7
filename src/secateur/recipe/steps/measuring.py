"""The step that measures the networks side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor, nn

from secateur.measure.timings import Timing
from secateur.recipe.schema import Settings
from secateur.recipe.steps.base import STEPS, Context, State, Step, StepResult

__all__ = ["Measure", "MeasureSettings"]

SLOWER = 0.95  # what lies nearer to 1 may be chance
LABELS = {
    "dense": "Dense, adapted",
    "control": "Dense, trained on",
    "pruned": "Pruned",
    "scratch": "Pruned form, from scratch",
}


class MeasureSettings(Settings):
    """What is timed, besides the sizes and the accuracy, which are always given.

    Attributes:
        runtimes: Where the forward pass is timed; empty for no timing.
        batches: Images per call: one for latency, more for throughput.
        backward: Time the backward pass too (PyTorch).
        threads: Threads inside an operator.
        rounds: Rounds in which every network is timed once, in a shuffled order.
        budget_s: Seconds for all timing together.
    """

    runtimes: tuple[Literal["pytorch", "onnxruntime"], ...] = ("pytorch", "onnxruntime")
    batches: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(1, 32), min_length=1)
    backward: bool = True
    threads: int = Field(default=1, ge=1)
    rounds: int = Field(default=30, ge=1)
    budget_s: float = Field(default=10.0, gt=0)


class Measure(Step[MeasureSettings]):
    """Counts parameters and MACs, and times the dense and the pruned network in turn."""

    summary = "count parameters and MACs, and time the networks in turn"
    config = MeasureSettings

    def run(self, context: Context, state: State, config: MeasureSettings) -> tuple[State, StepResult]:
        """Measures every network of the state."""
        images = context.images(max(config.batches), split="test")
        networks = [
            {"label": LABELS[role], "role": role, "measurement": self._numbers(context, role, model)}
            for role, model in state.models.items()
        ]
        # The control has the dense network's form, so timing it would say the same thing twice.
        timed = {role: state.models[role] for role in ("dense", "pruned") if role in state.models}
        timings = _time(context, timed, images, config)
        report: dict[str, Any] = {"networks": networks, "latency": [timing.to_json() for timing in timings]}
        report["notes"] = _slower(timings)
        return state, StepResult(summary=_summary(networks), report=report)

    def _numbers(self, context: Context, role: str, model: nn.Module) -> dict[str, Any]:
        from secateur.measure import measurement
        from secateur.measure.counts import count
        from secateur.train import evaluate

        inputs = context.images(1, split="test")
        quality = context.evaluation(role) or evaluate(model, context.data.test, data=context.data).to_dict()
        return measurement(model, inputs, count(model, inputs), **quality).to_json()


def _time(
    context: Context, models: Mapping[str, nn.Module], images: Tensor, config: MeasureSettings
) -> tuple[Timing, ...]:
    from secateur.deploy import export
    from secateur.measure import latency

    options: dict[str, Any] = {
        "batches": config.batches,
        "threads": config.threads,
        "rounds": config.rounds,
        "budget_s": config.budget_s,
        "seed": context.recipe.seed,
    }
    contenders: dict[str, nn.Module | Path] = dict(models) if "pytorch" in config.runtimes else {}
    files = {f"{role}.onnx": context.work / f"{role}.onnx" for role in models}
    try:
        if "onnxruntime" in config.runtimes:
            for role, model in models.items():
                export(model, images[:1], files[f"{role}.onnx"], to="onnx")
            contenders |= files
        return latency(contenders, images, backward=config.backward, **options) if contenders else ()
    finally:  # large, and only here to be timed; the network to ship is the export step's
        for file in files.values():
            file.unlink(missing_ok=True)


def _slower(timings: tuple[Timing, ...]) -> list[str]:
    """A note on settings in which the pruned network took clearly longer than the dense one."""
    from secateur.measure import speedups

    if not any(timing.model == "dense" for timing in timings):
        return []
    found = [
        f"{s.runtime} {s.direction}, batch {s.batch}: {s.ratio.median:.2f}×"
        for s in speedups(timings)
        if s.model == "pruned" and s.ratio.q75 < SLOWER
    ]
    if not found:
        return []
    return [
        f"Fewer MACs, but slower here ({'; '.join(found)}): runtimes work on blocks of 8 or 16 channels, which "
        "the widths that are left do not fill. Prune to whole blocks with round_to: 8 (--set steps.prune.round_to=8)."
    ]


def _summary(networks: list[dict[str, Any]]) -> dict[str, Any]:
    keys = ("params", "macs", "weight_bytes", "top1")
    return {f"{n['role']}_{key}": n["measurement"][key] for n in networks for key in keys}


STEPS.add("measure", Measure())
