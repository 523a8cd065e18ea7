"""The table of a comparison: every network measured the same way, in one process, timed in turn."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from secateur.core.errors import DataError
from secateur.core.files import read_json
from secateur.core.metric import LOSS, TOP1, TOP5, Metric
from secateur.core.types import ExampleInputs
from secateur.cost import nonzero_params, size_on_disk
from secateur.cost.counts import count
from secateur.cost.energy import energy
from secateur.recipe.beforehand import assumed
from secateur.recipe.comparison.plan import DENSE
from secateur.recipe.prepare import NOTHING, Given, make_model
from secateur.recipe.records import StepRecord, problem, read_record
from secateur.recipe.runner import reopen
from secateur.recipe.steps import STEPS
from secateur.recipe.steps.base import AT_CHANCE
from secateur.timing import latency
from secateur.timing.entrants import as_entrants, compared_with
from secateur.timing.measurement import scored
from secateur.timing.timings import busy
from secateur.train import evaluate
from secateur.train.history import plain

if TYPE_CHECKING:
    from torch import nn

    from secateur.recipe.runner import RunResult
    from secateur.timing import Timing

__all__ = ["RESULTS", "Comparison", "Row", "measure_runs"]

RESULTS = "results.json"


@dataclass(frozen=True)
class Row:
    """One network of a comparison; what was not measured is ``None``.

    Attributes:
        name: The recipe (and point of a sweep); ``dense`` for the network that all start from.
        failed: Why its job failed; nothing else is known then.
        before: The metrics on the test samples when the last fine-tuning began, by name.
        now: The same at the end.
        params: Parameters that are not zero.
        macs: Multiply-accumulates of one sample (zeros inside a layer are multiplied like any other weight).
        flops: Twice that.
        compression: Parameters of the dense network / parameters.
        forward_ms: Median time of a forward pass of one sample.
        backward_ms: Median time of the backward pass alone.
        energy_mj: Energy of one sample in millijoules, by the model of `secateur.cost.energy`: an estimate.
        netscore: NetScore of the leading metric, parameters and MACs.
        at_chance: Whether it does no better than a guess, so that its NetScore says nothing.
        weight_bytes: Bytes of the weights on disk, in the smallest form that the run wrote.
        epochs: Epochs of training after the dense network.
        seconds: Duration of the run.
    """

    name: str
    failed: str = ""
    before: dict[str, float | None] = field(default_factory=dict)
    now: dict[str, float | None] = field(default_factory=dict)
    params: int | None = None
    macs: int | None = None
    flops: int | None = None
    compression: float | None = None
    forward_ms: float | None = None
    backward_ms: float | None = None
    energy_mj: float | None = None
    netscore: float | None = None
    at_chance: bool = False
    weight_bytes: int | None = None
    epochs: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Comparison:
    """The result of a comparison.

    Attributes:
        folder: Where everything lies.
        rows: The dense network, then the recipes in the order in which they were named.
        facts: Network, data, budget, machine and command, for the page.
        metrics: Of the task, the one that leads first.
        unit: What one sample is called.
    """

    folder: Path
    rows: tuple[Row, ...]
    facts: Mapping[str, Any]
    metrics: tuple[Metric, ...] = (TOP1, TOP5)
    unit: str = "image"

    @property
    def leading(self) -> Metric:
        """The metric that comes first; the loss where the task has none."""
        return self.metrics[0] if self.metrics else LOSS

    @property
    def failed(self) -> tuple[Row, ...]:
        """Rows of the jobs that failed."""
        return tuple(row for row in self.rows if row.failed)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be said of the figures."""
        lost = [AT_CHANCE.format(what=row.name) for row in self.rows if row.at_chance]
        return (*self.facts.get("assumed", ()), *self.facts.get("busy", ()), *lost)

    def to_json(self) -> dict[str, Any]:
        """Plain data, as in ``results.json``."""
        told = {"metrics": [metric.to_dict() for metric in self.metrics], "unit": self.unit}
        return {**self.facts, **told, "rows": [asdict(row) for row in self.rows]}

    def to_csv(self) -> str:
        """The table with a column per attribute of :class:`Row` and per metric; what is not known is empty."""
        text, names = io.StringIO(), [metric.name for metric in (*self.metrics, LOSS)]
        others = [f.name for f in fields(Row) if f.name not in ("before", "now", "name", "failed")]
        columns = ["name", "failed", *(f"{name}_before" for name in names), *names, *others]
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        for row in self.rows:
            plain = {f.name: getattr(row, f.name) for f in fields(Row)}
            before, now = plain.pop("before"), plain.pop("now")
            quality = {**{f"{n}_before": before.get(n) for n in names}, **{n: now.get(n) for n in names}}
            writer.writerow({**plain, **quality})
        return text.getvalue()

    @classmethod
    def read(cls, folder: Path) -> Comparison:
        """Reads ``results.json`` of a folder.

        Raises:
            DataError: It is missing or damaged.
        """
        data = read_json(folder / RESULTS)
        try:
            rows = TypeAdapter(tuple[Row, ...]).validate_python(data.pop("rows", None))
            metrics = TypeAdapter(tuple[Metric, ...]).validate_python(data.pop("metrics", ()))
            unit = TypeAdapter(str).validate_python(data.pop("unit", "image"))
        except ValidationError as error:
            raise DataError(
                f"{folder / RESULTS} is damaged: {problem(error)}. Delete it and resume: the table is measured again."
            ) from error
        return cls(folder, rows, data, metrics, unit)


def measure_runs(
    runs: Mapping[str, Path],
    failed: Mapping[str, str],
    *,
    given: Given = NOTHING,
    budget_s: float = 20.0,
    trust: bool = False,
) -> tuple[tuple[Row, ...], Mapping[str, Sequence[str]]]:
    """Measures the finished runs and the dense network that they started from.

    The dense network is timed against itself in the same rounds.

    Args:
        runs: Folder of every run by name, failed ones included.
        failed: Why the failed ones did.
        given: Network and task that were handed over from Python.
        budget_s: Seconds for all timing together.
        trust: Whether the runs may name code that was not started here.

    Returns:
        The rows, and what is to be said of them: under ``assumed`` that the network had random weights, under ``busy``
        that the machine was while times were taken.
    """
    finished = {name: reopen(folder, given=given, trust=trust) for name, folder in runs.items() if name not in failed}
    if not finished:
        return tuple(Row(name, failed=failed[name]) for name in runs if name != DENSE), {}
    first = next(iter(finished.values()))
    networks = {DENSE: _dense(first, given), **{name: _final(run) for name, run in finished.items() if name != DENSE}}
    timings = _times(networks, first.task.sample(1, split="test"), budget_s)
    rows = {DENSE: _row(DENSE, networks[DENSE], first, timings, None)}
    for name in networks:
        if name != DENSE:
            rows[name] = _row(name, networks[name], finished[name], timings, rows[DENSE].params)
    names = [DENSE, *(name for name in runs if name != DENSE)]
    notes = {"assumed": [*assumed(first.recipe, given)], "busy": busy(timings, DENSE)}
    return tuple(rows.get(name) or Row(name, failed=failed[name]) for name in names), notes


def _dense(run: RunResult, given: Given) -> nn.Module:
    """The network that the run started from, as it was before sparsity training or anything else of the recipe."""
    if run.recipe.name == DENSE:
        return run.state.models[DENSE]
    return make_model(run.recipe, run.task, given)


def _final(run: RunResult) -> nn.Module:
    return run.state.models[run.state.current]


def _times(networks: Mapping[str, nn.Module], sample: ExampleInputs, budget_s: float) -> tuple[Timing, ...]:
    entrants = compared_with(DENSE, as_entrants(networks, ("pytorch",)))
    return latency(entrants, sample, batches=(1,), backward=True, rounds=30, budget_s=budget_s)


def _row(name: str, model: nn.Module, run: RunResult, timings: Sequence[Timing], dense: int | None) -> Row:
    inputs, leading = run.task.sample(2, split="test"), run.task.leading
    params, macs = nonzero_params(model), count(model, inputs).macs
    now = plain(evaluate(model, run.task).metrics)
    before, epochs, stored = (None, None, None) if name == DENSE else _story(run)
    ms = {t.direction: t.median_ms for t in timings if t.model == name}
    return Row(
        name,
        before={key: before.get(key) for key in now} if before else {},
        now=now,
        params=params,
        macs=macs,
        flops=2 * macs,
        compression=(dense or params) / max(1, params),
        forward_ms=ms.get("forward"),
        backward_ms=ms.get("backward"),
        energy_mj=energy(model, inputs).estimated_mj,
        netscore=(score := scored(leading.percent(now.get(leading.name)), params, macs)),
        at_chance=score is not None and run.task.at_chance(now),
        weight_bytes=min(filter(None, (size_on_disk(model), stored))),
        epochs=epochs,
        seconds=run.results["duration_s"],
    )


def _trains_the_pruned(kind: str) -> bool:
    return kind in STEPS and STEPS[kind].trains and STEPS[kind].role == "pruned"


def _story(run: RunResult) -> tuple[Mapping[str, Any] | None, int, int | None]:
    """Quality when the last fine-tuning began, epochs of all training, and bytes of a compressed file."""
    files = sorted((run.folder / "steps").glob("*/result.json"))
    results = {file.parent.name: read_record(file, StepRecord)[1]["result"] for file in files}
    kinds = [name.partition("-")[2] for name in results]
    last = max((i for i, kind in enumerate(kinds) if _trains_the_pruned(kind)), default=None)
    scored = [result["evaluations"].get("pruned") for result in list(results.values())[: last or 0]]
    before = next((quality for quality in reversed(scored) if quality), None)
    sizes = [result["summary"].get("compressed_bytes") for result in results.values()]
    stored = next((size for size in reversed(sizes) if isinstance(size, int) and size > 0), None)
    return before, sum(len(result["epochs"]) for result in results.values()), stored
