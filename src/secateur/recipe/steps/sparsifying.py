"""Steps that remove single weights at once, and that write them to an entropy-coded file."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator
from torch import nn

from secateur.core.errors import InputError
from secateur.core.files import whole
from secateur.core.plan import Plan
from secateur.cost.energy import energy
from secateur.criteria.base import CRITERIA, of_kind
from secateur.criteria.weight_statistics import WEIGHT_NEEDS
from secateur.recipe.schema import Ratio, Settings, Share, ratio_in_words
from secateur.recipe.steps.base import STEPS, Context, State, Step, StepResult, derive_seed
from secateur.recipe.steps.fitting import TrainSettings, train
from secateur.recipe.steps.weights import load_weights_into, save_weights
from secateur.sparsity import (
    HoldShared,
    Sparse,
    compress,
    decompress,
    energy_aware,
    share_weights,
    sparsify,
    weight_scores,
)
from secateur.sparsity.masks import Masks, copied, load_masks, save_masks
from secateur.sparsity.patterns import parse_pattern
from secateur.sparsity.rewinding import sliced
from secateur.sparsity.weights import sparse

__all__ = [
    "Compress",
    "CompressSettings",
    "EnergyAware",
    "EnergyAwareSettings",
    "Sparsify",
    "SparsifySettings",
    "made_sparse",
    "sparse_result",
]

Bits = Annotated[int, Field(ge=1, le=8)]
FILE = "model.sdc"


class SparsifySettings(Settings):
    """Settings of `secateur.sparsity.sparsify`; one of ``ratio``, ``std`` and an n:m pattern.

    Attributes:
        ratio: Share of all weights to remove, with those that earlier steps removed; a later step raises it. Or the
            same by layer name or pattern; other layers are left alone.
        std: Han's threshold, in standard deviations of the layer's weights; or by layer name or pattern.
        pattern: ``element``, ``kernel``, n:m (``2:4``), or ``block RxC``.
        scope: ``local`` (the same share of every layer) or ``global``.
        criterion: ``magnitude``, ``lamp``, ``snip``, ``obd``, ``change`` (since the run began) or ``random``.
        calibration: Training samples that criteria with gradients look at.
        only: Modules or parameters (names or patterns) that alone are pruned.
        ignore: Modules or parameters that are left alone.
    """

    spread: ClassVar[Mapping[str, Literal["removed", "kept"]]] = {"ratio": "removed"}

    ratio: Ratio | None = None
    std: Annotated[float, Field(ge=0)] | dict[str, Annotated[float, Field(ge=0)]] | None = None
    pattern: str = "element"
    scope: Literal["local", "global"] = "local"
    criterion: str = "magnitude"
    calibration: int = Field(default=256, ge=1)
    only: tuple[str, ...] | None = None
    ignore: tuple[str, ...] = ()

    @field_validator("criterion")
    @classmethod
    def _known(cls, name: str) -> str:
        of_kind(name, "weights")
        return name

    @field_validator("pattern")
    @classmethod
    def _readable(cls, text: str) -> str:
        return str(parse_pattern(text))

    @model_validator(mode="after")
    def _one_amount(self) -> Self:
        given = [key for key in ("ratio", "std") if getattr(self, key) is not None]
        given += [f"pattern {self.pattern}"] * (":" in self.pattern)
        if len(given) != 1:
            raise InputError(f"give one of ratio, std and an n:m pattern; got {' and '.join(given) or 'none'}")
        return self

    def __str__(self) -> str:
        """What is asked for, in words."""
        what = {"element": "weights", "kernel": "kernels"}.get(self.pattern, f"weights, {self.pattern}")
        where = "of every layer" if self.scope == "local" else "of the whole network"
        if self.ratio is not None:
            pool = what if isinstance(self.ratio, Mapping) else f"{what} {where}"
            return f"{ratio_in_words(self.ratio, pool, 1)}, {CRITERIA[self.criterion].goes_first}"
        return f"{what} by {self.criterion}" if self.std is None else f"{what} below {self.std} standard deviations"


class Sparsify(Step[SparsifySettings]):
    """Removes single weights of the current network; training that follows holds the masks."""

    summary = "remove the single weights that are worth least; training holds the masks"
    config = SparsifySettings
    changes_network, cuts = True, "weights"

    def run(self, context: Context, state: State, config: SparsifySettings) -> tuple[State, StepResult]:
        """Makes a sparse copy of the current network and scores it before any training."""
        options = config.model_dump(exclude={"calibration"})
        seed = derive_seed(context.recipe.seed, context.step)
        if needed := _needed(context, state, config):
            options["criterion"] = weight_scores(config.criterion, state.pruned or state.dense, seed=seed,
                                                 example_inputs=context.inputs(2), **needed)  # fmt: skip
        found = sparsify(state.pruned or state.dense, masks=state.masks, seed=seed, example_inputs=context.inputs(2),
                         **options)  # fmt: skip
        save_masks(found.masks, context.work / "masks.safetensors")
        state = state.with_pruned(found, found.masks)
        return state, sparse_result(context, found, str(config))

    def restore(self, context: Context, state: State, config: SparsifySettings) -> State:
        """Applies the masks that were kept to the network as it was."""
        masks = load_masks(context.work / "masks.safetensors")
        return made_sparse(context, state, copied(state.network), masks)[0]


def _needed(context: Context, state: State, config: SparsifySettings) -> dict[str, Any]:
    """What the criterion looks at beside the weights: training samples, or the weights that the run began with."""
    needs = of_kind(config.criterion, "weights").weight_needs
    found: dict[str, Any] = {}
    if any(WEIGHT_NEEDS[need].data for need in needs):
        loss = context.task.loss if context.task.has_loss else None
        found |= {"data": context.calibration(config.calibration), "loss": loss}
    if "start" in needs:
        plan = Plan({}, {}) if state.pruned is None else state.pruned.plan
        found["start"] = sliced(context.begin().state_dict(), plan, state.network)
    return found


def made_sparse(context: Context, state: State, model: nn.Module, masks: Masks) -> tuple[State, Sparse]:
    """The state with ``model`` in place of the pruned network, and masks that hold from here on."""
    found = sparse(model, masks, before=state.pruned, inputs=context.inputs(2), dense=state.dense)
    return state.with_pruned(found, found.masks), found


def sparse_result(context: Context, found: Sparse, asked: str) -> StepResult:
    """Says what is left."""
    quality = context.judge(found.model)
    cuts = [result.report["pruning"] for name, result in context.results.items() if name.endswith("-prune")]
    summary: dict[str, Any] = {
        "params": found.params,
        "params_left": found.params_left,
        "sparsity": found.sparsity,
        "layers": {layer.name: [layer.weights, layer.kept] for layer in found.layers},
        **context.told(quality),
    }
    said = [note for result in context.results.values() for note in result.report.get("notes", ())]
    notes = [f"{found.headline}.", *(note for note in found.notes if note not in said)]
    report = {"pruning": "; then ".join([*cuts[-1:], asked]), "notes": notes}
    return StepResult(summary=summary, report=report, evaluations={"pruned": quality})


# ---------------------------------------------------------------------------------------------------- energy-aware


class EnergyAwareSettings(Settings):
    """Settings of `secateur.sparsity.energy_aware`.

    Attributes:
        ratio: Share of the weights of every layer to remove, with those that earlier steps removed; or by layer name or
            pattern.
        restore: Share of the weights that stay which are chosen by what the layer's output misses.
        images: Training samples that outputs are computed from.
        only: Modules or parameters (names or patterns) that alone are pruned.
        ignore: Modules or parameters that are left alone.
    """

    spread: ClassVar[Mapping[str, Literal["removed", "kept"]]] = {"ratio": "removed"}

    ratio: Ratio
    restore: Share = 0.2
    images: int = Field(default=128, ge=1)
    only: tuple[str, ...] | None = None
    ignore: tuple[str, ...] = ()

    def __str__(self) -> str:
        """What is asked for, in words."""
        what = "weights" if isinstance(self.ratio, Mapping) else "weights of every layer"
        return f"{ratio_in_words(self.ratio, what, 1)}, the layers with the highest energy first"


class EnergyAware(Step[EnergyAwareSettings]):
    """Removes single weights in the order of the layers' energy, restores and refits; training holds the masks."""

    summary = "remove single weights, layers in the order of their energy; restore and refit what the output misses"
    config = EnergyAwareSettings
    changes_network, cuts = True, "weights"

    def run(self, context: Context, state: State, config: EnergyAwareSettings) -> tuple[State, StepResult]:
        """Makes a sparse and refitted copy of the current network, and scores it before any training."""
        inputs, before = context.inputs(2), energy(state.network, context.inputs(2))
        found = energy_aware(state.pruned or state.dense, inputs, data=context.calibration(config.images),
                             masks=state.masks, **config.model_dump(exclude={"images"}))  # fmt: skip
        save_masks(found.masks, context.work / "masks.safetensors")
        save_weights(found.model, context.work / "model.safetensors")
        own = sparse_result(context, found, str(config))
        shown = {"energy_before": before.total, "energy": energy(found.model, inputs).total}
        return state.with_pruned(found, found.masks), replace(own, summary={**own.summary, **shown})

    def restore(self, context: Context, state: State, config: EnergyAwareSettings) -> State:
        """Loads the refitted weights and the masks."""
        model = copied(state.network)
        load_weights_into(model, context.work / "model.safetensors")
        return made_sparse(context, state, model, load_masks(context.work / "masks.safetensors"))[0]


# --------------------------------------------------------------------------------------------------- the file


class CompressSettings(TrainSettings):
    """Settings of `secateur.compress`, and of a training of the shared weights before the file is written.

    Attributes:
        bits: 1 to 8: the weights of a layer share 2^bits values; or by layer name or pattern.
        epochs: Of training the shared values; 0 for none.
    """

    bits: Bits | dict[str, Bits] = 5
    epochs: Annotated[int, Field(ge=0)] = 0


class Compress(Step[CompressSettings]):
    """Deep Compression: shares weights, trains the shared values, writes the entropy-coded file ``model.sdc``."""

    summary = "share weights and write them to an entropy-coded file"
    config = CompressSettings
    changes_network = True

    def run(self, context: Context, state: State, config: CompressSettings) -> tuple[State, StepResult]:
        """Puts the network as the file gives it back in place of the pruned one, and scores it."""
        model = share_weights(state.network, config.bits)
        trained = StepResult()
        if config.epochs:
            trained = train(context, model, config, "pruned", "Shared weights, trained", [HoldShared()])
        small = compress(model, context.work / FILE, bits=config.bits)
        with whole(context.folder / FILE) as draft:
            shutil.copyfile(small.path, draft)
        state = self.restore(context, state, config)
        quality = context.judge(state.network)
        summary = {
            "compressed_bytes": small.bytes,
            "dense_bytes": small.dense_bytes,
            "compression": small.ratio,
            **context.told(quality),
        }
        note = f"{FILE}: {small.bytes:,} bytes on disk, {small.ratio:.1f}× smaller than {small.dense_bytes:,}."
        report = {**trained.report, "notes": [note]}
        return state, StepResult({**trained.summary, **summary}, report, trained.epochs, {"pruned": quality})

    def restore(self, context: Context, state: State, config: CompressSettings) -> State:
        """Reads the file."""
        model: nn.Module = decompress(context.work / FILE, state.network)
        return made_sparse(context, state, model, state.masks)[0]


STEPS.add("sparsify", Sparsify())
STEPS.add("energy_aware", EnergyAware())
STEPS.add("compress", Compress())
