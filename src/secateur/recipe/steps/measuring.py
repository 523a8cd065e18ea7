"""The step that measures the networks side by side."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator
from torch import nn

from secateur.core.errors import SecateurError
from secateur.core.types import ExampleInputs
from secateur.cost.counts import count
from secateur.cost.energy import energy
from secateur.exports.entered import entered
from secateur.recipe.schema import Settings
from secateur.recipe.steps.base import AT_CHANCE, DENSE, STEPS, Context, State, Step, StepResult, title_of
from secateur.runtimes import RUNTIMES
from secateur.timing import latency, measurement, speedups
from secateur.timing.entrants import compared_with
from secateur.timing.quality import scores
from secateur.timing.results import EntrantResult, results
from secateur.timing.timings import Timing, busy

__all__ = ["Measure", "MeasureSettings"]

SLOWER = 0.95  # what lies nearer to 1 may be chance


class MeasureSettings(Settings):
    """What is timed, besides the sizes and the accuracy, which are always given.

    Attributes:
        runtimes: Where the forward pass is timed, names in `secateur.runtimes.RUNTIMES`; empty for no timing.
        int8: Whether to measure quantised files too, in the runtimes that have them.
        calibration: Training images to quantise with.
        images: Test samples for metrics and loss in each runtime; 0 for none. The headline takes all of them.
        batches: Images per call: one for latency, more for throughput.
        backward: Time the backward pass too (PyTorch).
        threads: Threads inside an operator.
        rounds: Rounds in which every network is timed once, in a shuffled order.
        budget_s: Seconds for all timing together.
        processes: Fresh processes that each network is timed in, one after the other; 0 for the run's own.
    """

    runtimes: tuple[str, ...] = ("pytorch", "onnxruntime")
    int8: bool = False
    calibration: int = Field(default=256, ge=1)
    images: int = Field(default=10_000, ge=0)
    batches: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(1, 32), min_length=1)
    backward: bool = True
    threads: int = Field(default=1, ge=1)
    rounds: int = Field(default=30, ge=1)
    budget_s: float = Field(default=10.0, gt=0)
    processes: int = Field(default=1, ge=0)

    @field_validator("runtimes")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            RUNTIMES[name]
        return tuple(dict.fromkeys(names))


class Measure(Step[MeasureSettings]):
    """Counts parameters and MACs, and times the dense and the pruned network in turn, in every runtime named."""

    summary = "count parameters and MACs, and time the networks in turn"
    config = MeasureSettings
    compared = False

    def check(self, config: MeasureSettings) -> None:
        """Asks for the runtimes before the run begins."""
        for name in config.runtimes:
            RUNTIMES[name].need(f"steps.measure.runtimes: {name}")

    def run(self, context: Context, state: State, config: MeasureSettings) -> tuple[State, StepResult]:
        """Measures every network of the state."""
        networks: list[dict[str, Any]] = [
            {"label": title_of(role), "role": role, "measurement": self._numbers(context, role, model)}
            for role, model in state.models.items()
        ]
        # The control has the dense network's form, so timing it would say the same thing twice.
        timed: dict[str, nn.Module] = {role: state.models[role] for role in ("dense", "pruned") if role in state.models}
        params = {n["role"]: n["measurement"]["params"] for n in networks}
        timings, deployed = _time(context, timed, config, params)
        report: dict[str, Any] = {"networks": networks, "latency": [timing.to_json() for timing in timings]}
        report["deployed"] = [line.to_json() for line in deployed]
        report["shown"] = asdict(context.task.show({role: state.models[role] for role in timed}))
        lost = [
            AT_CHANCE.format(what=n["label"])
            for n in networks
            if context.task.at_chance(n["measurement"]["quality"]) and n["measurement"]["netscore"] is not None
        ]
        report["notes"] = [*busy(timings), *_slower(timings), *_failed(deployed), *lost]
        return state, StepResult(summary=_summary(networks, context.task.leading.name), report=report)

    def _numbers(self, context: Context, role: str, model: nn.Module) -> dict[str, Any]:
        inputs = context.inputs(1, split="test")
        quality = context.evaluation(role) or context.judge(model)
        return measurement(
            model, inputs, count(model, inputs),
            quality=quality, leading=context.task.leading, energy_mj=estimated(model, inputs),
        ).to_json()  # fmt: skip


def estimated(model: nn.Module, inputs: ExampleInputs) -> float | None:
    """Energy in millijoules; ``None`` where the network cannot be traced, which its other numbers do not ask for."""
    try:
        return energy(model, inputs).estimated_mj
    except SecateurError:
        return None


def _time(
    context: Context, models: Mapping[str, nn.Module], config: MeasureSettings, params: Mapping[str, int]
) -> tuple[tuple[Timing, ...], tuple[EntrantResult, ...]]:
    """Times the networks in every runtime, and scores them there."""
    images = context.inputs(max(config.batches), split="test")
    calibration = context.inputs(config.calibration) if config.int8 else None
    options: dict[str, Any] = {
        "batches": config.batches,
        "threads": config.threads,
        "rounds": config.rounds,
        "budget_s": config.budget_s,
        "processes": config.processes,
        "seed": context.recipe.seed,
        "backward": config.backward,
    }
    # The files are large, and only here to be timed; the network to ship is the export step's.
    with tempfile.TemporaryDirectory(dir=context.work, prefix=".measured-") as folder:
        wanted: dict[str, Any] = {"runtimes": config.runtimes, "batches": config.batches, "calibration": calibration}
        found = list(entered(models, images, Path(folder), **wanted))
        entrants = compared_with(DENSE, (entrant for entrant in found if not entrant.problem))
        timings = latency(entrants, images, **options) if entrants else ()
        evaluations = scores(found, context.task, samples=config.images, threads=config.threads, like=models[DENSE])
    lines = results(found, timings, reference="dense", params=params, evaluations=evaluations)
    return timings, lines


def _failed(lines: Sequence[EntrantResult]) -> list[str]:
    return [f"{line.network} in {line.runtime} ({line.precision}): {line.problem}" for line in lines if line.problem]


def _slower(timings: tuple[Timing, ...]) -> list[str]:
    """A note on settings in which the pruned network took clearly longer than the dense one."""
    if not any(timing.model == "dense" for timing in timings):
        return []
    found = [
        f"{s.runtime} {s.direction}, batch {s.batch}: {s.ratio.median:.2f}×"
        for s in speedups(timings)
        if s.model == "pruned" and s.ratio.q75 < SLOWER and not s.doubt
    ]
    if not found:
        return []
    return [
        # What would be faster was not tried here, so nothing is advised.
        f"Fewer MACs, but slower here ({'; '.join(found)}): how long a width takes depends on the runtime and the "
        "machine."
    ]


def _summary(networks: list[dict[str, Any]], leading: str) -> dict[str, Any]:
    keys = ("params", "macs", "weight_bytes")
    sizes = {f"{n['role']}_{key}": n["measurement"][key] for n in networks for key in keys}
    return {**sizes, **{f"{n['role']}_{leading}": n["measurement"]["quality"].get(leading) for n in networks}}


STEPS.add("measure", Measure())
