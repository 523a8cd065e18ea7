"""The step that cuts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from secateur.budget import Aim
from secateur.budget.sensitivity import read_ratios
from secateur.core.errors import InputError
from secateur.core.files import write_json
from secateur.core.plan import Plan, remember
from secateur.core.reading import LARGEST_JSON
from secateur.core.types import Counts, ExampleInputs, Target
from secateur.cost.counts import MEASURES, count
from secateur.criteria import CRITERIA
from secateur.criteria.base import of_kind
from secateur.cut.foreseen import foresee_cut
from secateur.cut.language import criterion_for
from secateur.cut.prune import apply, prune
from secateur.models.random_weights import RANDOM
from secateur.models.transformer import is_language_model
from secateur.recipe.records import CutRecord, read_record
from secateur.recipe.schema import Ratio, Settings, StepEntry, ratio_in_words
from secateur.recipe.steps.base import STEPS, Ahead, Context, State, Step, StepResult, derive_seed
from secateur.report import block_rows, layer_rows
from secateur.runtimes import RUNTIMES
from secateur.sparsity.masks import follow

if TYPE_CHECKING:
    from secateur.cut.pruned import Pruned
    from secateur.graph.groups import Group

__all__ = ["TARGETS", "WHERE", "Prune", "PruneSettings", "after_cut", "calibration", "cut_again", "keep_cut",
           "known_runtime", "left", "narrows", "one_amount", "pinned_layers", "ratios_of", "target_of"]  # fmt: skip

TARGETS = (*MEASURES, "latency", "latency_ms")
"""Settings that say what is to be left; a step takes one of them, or a ratio."""

WHERE = ("runtime", "batch", "threads")
"""Settings that say where a latency is measured."""


class PruneSettings(Settings):
    """Settings of the cut: those of `secateur.prune`, with exactly one of ``ratio``, ``std`` and the targets.

    Attributes:
        criterion: What decides which units are worth least; by default what `secateur.prune` takes for the network.
        ratio: Share of the units that is removed, in [0, 1); or one by layer name or pattern; or a file of
            `secateur sensitivity` that holds such ratios (``ratio: sensitivity.json``), which is read at once. Relative
            paths start from the working directory.
        ratio_of: What ``ratio`` is a share of: units, or with scope ``block`` the parameters of every block (params).
        std: A threshold instead: units that score more than so many standard deviations below the mean of their group
            go; inside ``iterate`` in every round.
        params: Parameters to keep: a count, or a share up to 1.
        macs: MACs of one image to keep: a count, or a share up to 1.
        energy: Energy of one image (by a model, in multiply-accumulates) to keep: the same.
        size: Bytes of the weights to keep: the same.
        latency: Measured time in ``runtime``, as a share of the network's, up to 1.
        latency_ms: The same in milliseconds of one call.
        runtime: Where a latency is measured.
        batch: Images per call that a latency is of.
        threads: Threads inside an operator that a latency is of.
        tolerance: How far below the target, as a share of it, needs no note: 0.01 by default, 0.05 for a latency.
        of: What the shares are of: the network as it is, or the dense one (what an ``iterate`` writes).
        scope: Rank units within each group (local; uniform: with the same widths in all layers of a kind), block, or
            over the whole network (global); by default local (global with the criterion ``reconstruction``), and with a
            latency whatever keeps the most score in that time.
        round_to: Kept units are a multiple of this; ``auto`` for the runtime's own step, which is what a latency
            takes by default.
        min_units: At least so many units stay in each group.
        only: Modules (names or patterns) that alone are pruned.
        ignore: Modules (names or patterns) that are left alone.
        groups: Groups (by name, as `secateur inspect` lists them) that alone are pruned.
        granularity: Where a dimension is split into blocks (heads, groups): whole blocks, positions within
            them, or whichever leaves more units; ``even`` keeps pieces that code splits channels into of one size.
        backend: Surgery back end.
        calibration: Training images, with their labels, that criteria with statistics look at.
        mirror: Show each of these images' mirror image too.
    """

    spread: ClassVar[Mapping[str, Literal["removed", "kept"]]] = {
        "ratio": "removed", "params": "kept", "macs": "kept", "energy": "kept", "size": "kept",
        "latency": "kept",
    }  # fmt: skip

    criterion: str | None = None
    ratio: Ratio | None = None
    ratio_of: Literal["units", "params"] = "units"
    std: float | None = None
    params: float | None = Field(default=None, gt=0)
    macs: float | None = Field(default=None, gt=0)
    energy: float | None = Field(default=None, gt=0)
    size: float | None = Field(default=None, gt=0)
    latency: float | None = Field(default=None, gt=0, le=1)
    latency_ms: float | None = Field(default=None, gt=0)
    runtime: str | None = None
    batch: int = Field(default=1, ge=1)
    threads: int = Field(default=1, ge=1)
    tolerance: float | None = Field(default=None, ge=0, lt=1)
    of: Literal["current", "dense"] = "current"
    scope: Literal["local", "uniform", "global", "block", "isomorphic"] | None = None
    round_to: Annotated[int, Field(ge=1)] | Literal["auto"] | None = None
    min_units: int = Field(default=1, ge=1)
    only: tuple[str, ...] | None = None
    ignore: tuple[str, ...] = ()
    groups: tuple[str, ...] | None = None
    granularity: Literal["auto", "whole", "within", "even"] = "auto"
    backend: Literal["auto", "module", "graph"] = "auto"
    calibration: int = Field(default=256, ge=1)
    mirror: bool = False

    @classmethod
    def resolved(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Settings with the ratios that a file holds."""
        return {key: ratios_of(value) if key == "ratio" else value for key, value in settings.items()}

    @field_validator("ratio", mode="before")
    @classmethod
    def _from_file(cls, ratio: Any) -> Any:
        return ratios_of(ratio)

    @field_validator("criterion")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        return None if name is None else of_kind(name, "channels").name

    @field_validator("runtime")
    @classmethod
    def _known_runtime(cls, name: str | None) -> str | None:
        return known_runtime(name)

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        one_amount(self, "set what you do not want to null")
        _ = self.aim  # it checks what goes together
        return self

    @property
    def aim(self) -> Aim:
        """What the cut aims at."""
        return Aim(self.ratio, self.target, ratio_of=self.ratio_of, std=self.std, of=self.of, scope=self.scope,
                   round_to=self.round_to, min_units=self.min_units, tolerance=self.tolerance)  # fmt: skip

    @property
    def target(self) -> Target | None:
        """The absolute target, if the cut is not given as a ratio."""
        return target_of(self)

    def __str__(self) -> str:
        """What is asked for, in words."""
        return f"{self._amount()}{self._where()}"

    def _amount(self) -> str:
        pools = {
            "local": "of every group",
            "uniform": "of every group",
            "block": "of every block",
            "isomorphic": "of all groups of a kind",
            "global": "of the whole network",
        }
        criterion, target = CRITERIA[self.criterion or "l2"], self.target
        first = criterion.goes_first
        pool = pools[self.scope or criterion.scope]
        if self.std is not None:
            many = f"{self.std:g} standard deviation{'s' * (self.std != 1)}"
            return f"units that score more than {many} below the mean of their group, {first}"
        if target is None and self.ratio_of == "params":
            return f"{ratio_in_words(self.ratio or 0.0, 'parameters')} of every block, {first}"
        if target is None:
            units = "units" if isinstance(self.ratio, Mapping) else f"units {pool}"
            return f"{ratio_in_words(self.ratio or 0.0, units)}, {first}"
        if target.measured and self.scope is None:
            return f"down to {left(target)}, {criterion.order or f'the widths that keep the most {criterion.name}'}"
        return f"down to {left(target)}, units {pool}, {first}"

    def _where(self) -> str:
        """What alone was cut, and what was left out."""
        several = [("only in", self.only), ("only the groups", self.groups), ("but in", self.ignore)]
        return "".join(f", {words} {', '.join(names)}" for words, names in several if names)


def ratios_of(given: Any) -> Any:
    """What a setting ``ratio`` means: the ratios that a file of a sensitivity holds, or what is given itself.

    Raises:
        DataError: The file is missing, damaged, or holds no ratios.
        InputError: A text that names no such file.
    """
    if not isinstance(given, str):
        return given
    if given.lower().endswith(".json"):
        return read_ratios(given)
    try:
        return float(given)
    except ValueError:
        raise InputError(
            f"it is a number, a mapping of layers to numbers, or a file that `secateur sensitivity` wrote (.json); got "
            f"{given!r:.80}"
        ) from None


def known_runtime(name: str | None) -> str | None:
    """A runtime's name, checked.

    Raises:
        UnknownNameError: There is none of that name.
    """
    return name if name is None else RUNTIMES[name].name


def one_amount(settings: Settings, hint: str = "") -> None:
    """Checks that settings name the share that goes, or one target.

    Raises:
        InputError: None of them, or several.
    """
    keys = [key for key in ("ratio", "std", *TARGETS) if key in type(settings).model_fields]
    given = [key for key in keys if getattr(settings, key) is not None]
    if len(given) != 1:
        got = " and ".join(given) or "none"
        raise InputError(f"give one of {', '.join(keys)}; got {got}{f' ({hint})' if hint else ''}")


def target_of(settings: Settings) -> Target | None:
    """The target that settings name; ``None`` where they name a ratio."""
    given = {key: value for key in TARGETS if (value := getattr(settings, key, None)) is not None}
    where = {key: value for key in WHERE if (value := getattr(settings, key, None)) is not None}
    return Target(**given, **where) if given else None


def left(target: Target) -> str:
    """What a target leaves, in words.

    >>> left(Target(macs=0.5)), left(Target(size=2e6))
    ('50% of the macs', '2,000,000 bytes')
    """
    value, name = target.given[target.measure], target.measure
    if target.measured:
        return f"{f'{value:.0%} of the time' if name == 'latency' else f'{value:g} ms'} in {target.runtime}"
    unit = {"size": "bytes", "energy": "multiply-accumulates of energy"}.get(name, name)
    return f"{value:.0%} of the {name}" if value <= 1 else f"{value:,.0f} {unit}"


def pinned_layers(counts: Counts, groups: Iterable[Group]) -> list[dict[str, str]]:
    """Layers whose output channels are in no group, each with the reason."""
    free = {layer for group in groups for layer in group.producers}
    return [
        {
            "layer": layer.name or "(top level)",
            "reason": "gives the network's output"
            if layer is counts.layers[-1]
            else "it gives another of the outputs, its size is fixed by what uses it, or it was to be left alone",
        }
        for layer in counts.layers
        if layer.name not in free
    ]


class Prune(Step[PruneSettings]):
    """Removes units, verifies the cut, and keeps it as an artifact."""

    summary = "remove the units that are worth least, and verify the cut"
    config = PruneSettings
    changes_network, cuts, repairable = True, "channels", True

    def check(self, config: PruneSettings) -> None:
        """Asks for the runtime that a latency is measured in."""
        config.aim.need()

    def foresee(self, config: PruneSettings, ahead: Ahead) -> None:
        """Plans the cut on the dense network, unless other cuts come first: what they leave is not known."""
        cuts = [entry for entry in ahead.earlier if narrows(entry)]
        if any(_freedom(entry.config) != _freedom(config) for entry in cuts) or (cuts and config.of == "current"):
            return
        how = config.model_dump(include={"criterion", "only", "ignore", "groups", "granularity"})
        foresee_cut(ahead.model, ahead.inputs, config.aim, **how)

    def run(self, context: Context, state: State, config: PruneSettings) -> tuple[State, StepResult]:
        """Cuts the current network, which stays as it is, and scores the result before any training."""
        options = config.model_dump(exclude={*TARGETS, *WHERE, "calibration", "mirror"}) | {"target": config.target}
        seed = derive_seed(context.recipe.seed, context.step)
        data: Any = calibration(context, config.calibration, config.mirror)
        data = list(data) if is_language_model(state.network) else data  # tokens are small, and the loss is told
        loss: Any = context.task.loss if context.task.has_loss else None
        network = state.network if state.pruned is None else replace(state.cut, dense=state.dense)
        pruned = prune(network, self._inputs(context), seed=seed, data=data, loss=loss, **options)
        pinned = pinned_layers(pruned.before, (cut.group for cut in pruned.groups))
        decided = criterion_for(state.network, config.criterion, data)
        wording = str(config.model_copy(update={"criterion": decided}))
        new, result = keep_cut(context, state, pruned, wording, pinned)
        said = _threshold_words(pruned, config)
        return new, replace(result, summary={**result.summary, "threshold": said}) if said else result

    def restore(self, context: Context, state: State, config: PruneSettings) -> State:
        """Cuts the network that was cut, with the weights it had then, by the last part of the plan."""
        return cut_again(context, state, self._inputs(context))

    @staticmethod
    def _inputs(context: Context) -> ExampleInputs:
        return context.inputs(2)


def _threshold_words(pruned: Pruned, config: PruneSettings) -> str:
    """What is to be said at once of a cut by a threshold: that nothing went, or which layers were held."""
    if config.std is None:
        return ""
    if all(cut.kept == len(cut.group) for cut in pruned.groups):
        return "nothing was removed: no unit is below the threshold"
    part = pruned.plan.parts[-1] if pruned.plan.parts else pruned.plan
    held = part.provenance.get("held", ())
    return f"held at the fewest units (min_units={config.min_units}): {', '.join(held)}" if held else ""


def narrows(entry: StepEntry) -> bool:
    """Whether a step may leave another form than it was given; weights that become zero change none."""
    return entry.kind not in STEPS or STEPS[entry.kind].cuts not in ("", "weights")


def _freedom(config: Settings) -> dict[str, Any]:
    """What alone says how far a cut can go."""
    names = ("only", "ignore", "groups", "granularity", "round_to", "min_units", "scope")
    return {name: getattr(config, name, None) for name in names}


def calibration(context: Context, samples: int, mirror: bool) -> Iterator[tuple[ExampleInputs, Any]]:
    """Batches of training samples with their targets; all of them once more as in a mirror, if ``mirror``.

    Raises:
        InputError: There are to be mirror images, and the task's samples have none with the same target.
    """
    if mirror and not context.task.mirrors:
        raise InputError(f"{context.step}: mirror is for images with labels; set it to false for {context.task.name}.")
    yield from context.calibration(samples)
    if mirror:
        yield from ((x.flip(-1), labels) for x, labels in context.calibration(samples))  # type: ignore[union-attr]


def keep_cut(
    context: Context, state: State, pruned: Pruned, wording: str, pinned: list[dict[str, str]]
) -> tuple[State, StepResult]:
    """Keeps what a cut can be repeated from, scores the network before any training, and words the report.

    Args:
        context: Where the step works.
        state: The networks before the cut.
        pruned: The cut, verified.
        wording: What was asked for.
        pinned: Layers that stay as they are, each with the reason.
    """
    dense, proof = state.dense, pruned.verification
    before = pruned.before if state.network is dense else count(dense, pruned.inputs)
    assert proof is not None  # it was not switched off
    write_json(context.work / "cut.json", {"backend": pruned.backend, "plan": pruned.plan.to_dict()})
    quality = context.judge(pruned.model)
    report = {
        "pruning": wording,
        "backend": pruned.backend,
        "verification": asdict(proof),
        "blocks": [row.model_dump() for row in block_rows(dense, pruned.model)],
        "layers": [row.model_dump() for row in layer_rows(before, pruned.after)],
        "unsupported": [asdict(item) for item in pruned.unsupported],
        "pinned": pinned,
        "notes": [note for note in pruned.notes if note != RANDOM],  # the run says so itself
    }
    summary = {
        "params_before": pruned.before.params,
        "params": pruned.after.params,
        "macs_before": pruned.before.macs,
        "macs": pruned.after.macs,
        "backend": pruned.backend,
        "max_relative_error": proof.max_relative_error,
        "proven": proof.proven,
        **context.told(quality),
    }
    return after_cut(state, pruned), StepResult(summary=summary, report=report, evaluations={"pruned": quality})


def cut_again(context: Context, state: State, inputs: ExampleInputs) -> State:
    """The state after a cut that was kept: the same network is cut by the last part of the plan."""
    cut, _ = read_record(context.work / "cut.json", CutRecord, largest=LARGEST_JSON)
    plan = Plan.from_dict(cut.plan)
    part = plan.parts[-1] if plan.parts else plan
    pruned = apply(state.network, part, inputs, backend=cut.backend)
    remember(pruned.model, plan)  # with all that was noted then, of a network that the step may have cleaned first
    return after_cut(state, pruned)


def after_cut(state: State, pruned: Pruned) -> State:
    """The state with the smaller network; masks of single weights are cut with it."""
    plan = pruned.plan.parts[-1] if pruned.plan.parts else pruned.plan
    masks = follow(state.masks, plan, pruned.model)
    return replace(state, before=state.network).with_pruned(replace(pruned, dense=state.dense), masks)


STEPS.add("prune", Prune())
