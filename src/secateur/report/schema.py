"""What a report is made from: plain data, every part of it optional."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from secateur.core.metric import LOSS, TOP1, TOP5, Metric
from secateur.core.types import Unsupported, Verification
from secateur.exports.checks import ExportCheck
from secateur.task.shown import Shown
from secateur.timing.machine import Machine
from secateur.timing.measurement import Measurement
from secateur.timing.results import EntrantResult
from secateur.timing.timings import Timing

__all__ = [
    "BlockRow",
    "Curve",
    "CurvePoint",
    "LayerRow",
    "Network",
    "Pinned",
    "Point",
    "Results",
    "ScaleRow",
    "Scales",
    "Stage",
]

Role = Literal["dense", "pruned", "control", "scratch", "other"]


class _Part(BaseModel):
    # A misspelt key would silently leave a part of the report out.
    model_config = ConfigDict(extra="forbid", frozen=True)


class Network(_Part):
    """One column of the headline table.

    Attributes:
        label: For instance ``Dense, adapted``.
        role: Decides the colour: dense, pruned, control (dense, trained as long as the pruned one) or other.
        measurement: Its numbers.
    """

    label: str
    role: Role = "other"
    measurement: Measurement = Measurement()


class BlockRow(_Part):
    """Parameters of one block before and after (seed 000, Table 1)."""

    block: str
    before: int = Field(ge=0)
    after: int = Field(ge=0)


class LayerRow(_Part):
    """Output channels (or features) of one layer, dense and pruned."""

    layer: str
    kind: str = ""
    before: int = Field(ge=0)
    after: int = Field(ge=0)


class CurvePoint(_Part):
    """One epoch of one training: loss and metrics by name. Numbers that are missing are left out."""

    epoch: float
    train: dict[str, float | None] = Field(default_factory=dict)
    validation: dict[str, float | None] = Field(default_factory=dict)


class Curve(_Part):
    """Train and validation curves of one network (seed 000, Figure 3).

    Epochs run on: a fine-tuning that follows 3 epochs of adaptation starts at epoch 4.
    """

    label: str
    role: Role = "other"
    points: tuple[CurvePoint, ...] = ()


class ScaleRow(_Part):
    """How scales or norms of groups lay after one epoch (0: before training).

    Attributes:
        epoch: Running over all trainings of the network.
        small: Share below 0.01.
        quantiles: At 0, 5, 25, 50, 75, 95 and 100 %.
        high: The largest.
        counts: How many lie in each of the equal bins from 0 to ``high``.
    """

    epoch: int
    small: float
    quantiles: tuple[float, ...]
    high: float = Field(ge=0)
    counts: tuple[int, ...] = Field(min_length=1)


class Scales(_Part):
    """How a penalty moved the distribution of what it is on.

    Attributes:
        label: Of the penalty, for instance ``bn_l1``.
        step: In which step of the run.
        rows: In the order of the epochs.
    """

    label: str
    step: str = ""
    rows: tuple[ScaleRow, ...] = ()


class Point(_Part):
    """A network on the way, scored: one of the points that a ratio raised step by step gives.

    Attributes:
        label: What had been cut by then.
        params: Parameters.
        nonzero_params: Those that are not zero.
        macs: Multiply-accumulates of one sample, zeros counted like other weights.
        value: Of the leading metric.
        netscore: Of it, non-zero parameters and MACs; ``None`` where the metric is no share of anything.
        quality: All metrics by name.
        widths: Output channels by layer.
        at_chance: Whether it does no better than a guess, so that its NetScore says nothing.
    """

    label: str
    params: int = Field(gt=0)
    nonzero_params: int = Field(gt=0)
    macs: int = Field(gt=0)
    value: float
    netscore: float | None = None
    quality: dict[str, float | None] = Field(default_factory=dict)
    widths: dict[str, int] = Field(default_factory=dict)
    at_chance: bool = False


class Stage(_Part):
    """A network as a step left it.

    Attributes:
        step: Of the run, for instance ``03-prune``.
        role: Which network.
        quality: The metrics on the test samples, by name, and the loss.
    """

    step: str
    role: str
    quality: dict[str, float | None] = Field(default_factory=dict)


class Pinned(_Part):
    """A layer that could not be pruned, and why."""

    layer: str
    reason: str


class Results(_Part):
    """Everything a report can show; parts that are missing or empty are left out of the page.

    Attributes:
        recipe: Name of the recipe.
        description: One or two sentences about what the run did.
        model: Name of the network.
        data: Name of the data set; details may follow after a colon (``digits: 1,294 training images``).
        pruning: What was asked for, for instance ``10 % of the channels of every block by L2 norm``.
        created: Date and time, best in ISO form.
        duration_s: Seconds of the whole run.
        metrics: Of the task, the one that leads first.
        unit: What one sample is called.
        shown: Test samples and curves, as the task shows them.
        stages: What every step came to that scored a network.
        networks: Columns of the headline table; the first ``dense`` and ``pruned`` ones make the headline.
        verification: Proof of the cut.
        backend: Surgery back end, ``module`` or ``graph``.
        blocks: Parameters per block, see :func:`~secateur.report.block_rows`.
        layers: Channels per layer, see :func:`~secateur.report.layer_rows`.
        curves: Training curves.
        scales: How penalties moved scales and norms.
        points: Networks on the way, scored.
        latency: From :func:`secateur.timing.latency`; models named ``dense`` and ``pruned``.
        deployed: Every network in every runtime and precision that was measured, from
            :func:`secateur.timing.results.results`.
        exports: From :func:`secateur.exports.export`.
        unsupported: Operators without a rule.
        pinned: Layers that were not prunable.
        notes: Sentences that a reader must know.
        recipe_yaml: The resolved recipe.
        seeds: Seed per purpose.
        machine: From :func:`secateur.timing.machine`.
        command: The command that repeats the run.
    """

    recipe: str = ""
    description: str = ""
    model: str = ""
    data: str = ""
    pruning: str = ""
    created: str = ""
    duration_s: float | None = None
    metrics: tuple[Metric, ...] = (TOP1, TOP5)
    shown: Shown = Shown()
    stages: tuple[Stage, ...] = ()
    unit: str = "image"
    networks: tuple[Network, ...] = ()
    verification: Verification | None = None
    backend: str = ""
    blocks: tuple[BlockRow, ...] = ()
    layers: tuple[LayerRow, ...] = ()
    curves: tuple[Curve, ...] = ()
    scales: tuple[Scales, ...] = ()
    points: tuple[Point, ...] = ()
    latency: tuple[Timing, ...] = ()
    deployed: tuple[EntrantResult, ...] = ()
    exports: tuple[ExportCheck, ...] = ()
    unsupported: tuple[Unsupported, ...] = ()
    pinned: tuple[Pinned, ...] = ()
    notes: tuple[str, ...] = ()
    recipe_yaml: str = ""
    seeds: dict[str, int] = Field(default_factory=dict)
    machine: Machine | None = None
    command: str = ""

    @property
    def title(self) -> str:
        """Network and data set, without the details of the latter."""
        return " on ".join(part for part in (self.model, self.data.partition(": ")[0]) if part)

    @property
    def leading(self) -> Metric:
        """The metric that comes first; the loss where the task has none."""
        return self.metrics[0] if self.metrics else LOSS

    def network(self, role: Role) -> Network | None:
        """Returns the first network of that role."""
        return next((network for network in self.networks if network.role == role), None)
