"""``iterate`` over the layers or blocks of a network: one round for each, written out once the network is there."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from secateur.budget import by_group, choose, step_of
from secateur.core.errors import BudgetError, InputError, SecateurWarning
from secateur.core.types import ExampleInputs
from secateur.cost.energy import energy
from secateur.cut.analysis import analyse
from secateur.recipe.iterate import IterateSettings, in_round, inner_steps
from secateur.recipe.schema import Recipe, StepEntry
from secateur.recipe.steps import STEPS
from secateur.recipe.steps.pruning import TARGETS, PruneSettings

if TYPE_CHECKING:
    from secateur.cut.analysis import Analysis
    from secateur.graph.groups import Group
    from secateur.recipe.steps.pruning import PruneSettings

__all__ = ["unroll"]


@dataclass(frozen=True)
class _Part:
    """What one round prunes.

    Attributes:
        groups: Its groups.
        ratio: Share of their units that goes; ``None`` where a threshold says it, round by round.
    """

    groups: tuple[Group, ...]
    ratio: float | None


def unroll(recipe: Recipe, model: nn.Module, inputs: ExampleInputs) -> Recipe:
    """Writes out every ``iterate`` over layers or blocks as steps; any other recipe comes back as it is.

    The widths that the last round reaches are planned on the dense network: the same share of every group, or
    as much of each as meets a target for parameters or MACs exactly. Rounds with nothing to remove are left out.

    Args:
        recipe: A validated recipe.
        model: The dense network.
        inputs: A batch that it is called with.

    Raises:
        InputError: An ``iterate`` over layers without a step that prunes.
        BudgetError: Nothing can be pruned, or a target is out of reach.
    """
    steps: list[StepEntry] = []
    for entry in recipe.steps:
        steps += _rounds(entry, model, inputs) if isinstance(entry.config, IterateSettings) else [entry]
    return recipe if len(steps) == len(recipe.steps) else replace(recipe, steps=tuple(steps))


def _rounds(entry: StepEntry, model: nn.Module, inputs: ExampleInputs) -> list[StepEntry]:
    config = entry.config
    assert isinstance(config, IterateSettings)
    inner = list(inner_steps(config))
    parts = _parts(config, _first_prune(config), model, inputs)
    steps = []
    for number, part in enumerate(parts, start=1):
        for kind, settings in inner:
            made = in_round(STEPS[kind].config, settings, config, number, len(parts))
            if kind == "prune":
                made |= {
                    "groups": [group.name for group in part.groups],
                    "ratio": part.ratio,
                    **dict.fromkeys(TARGETS),
                }
                made |= {"scope": "local"} if config.over == "layers" else {}
            steps.append(StepEntry(kind, STEPS[kind].config.model_validate(made), entry.place))
    return steps


def _first_prune(config: IterateSettings) -> PruneSettings:
    """Settings of the step that prunes, with the criterion of the first round."""
    settings: dict[str, Any] | None = next((s for kind, s in inner_steps(config) if kind == "prune"), None)
    if settings is None:
        raise InputError(f"iterate over: {config.over} wants a prune step inside, which it restricts to one of them.")
    return PruneSettings.model_validate(in_round(PruneSettings, settings, config, 1, 1))


def _parts(config: IterateSettings, prune: PruneSettings, model: nn.Module, inputs: ExampleInputs) -> list[_Part]:
    """The rounds' parts in their order."""
    analysis = analyse(model, inputs, only=prune.only, ignore=prune.ignore, granularity=prune.granularity)
    parts = _planned(analysis, prune, by_block=config.over == "blocks")
    if not parts:
        raise BudgetError(f"iterate over: {config.over} finds nothing to remove: no group can lose a unit.")
    if config.order == "energy":
        return _by_energy(parts, model, inputs)
    return parts[::-1] if config.order == "reverse" else parts


def _by_energy(parts: list[_Part], model: nn.Module, inputs: ExampleInputs) -> list[_Part]:
    """The parts whose layers take the most energy first (Yang et al. 2017, arXiv:1611.05128, §4)."""
    takes: dict[str, float] = {}
    for layer in energy(model, inputs).layers:
        takes[layer.name] = takes.get(layer.name, 0.0) + layer.total

    def total(part: _Part) -> float:
        return sum(takes.get(name, 0.0) for name in {p for group in part.groups for p in group.producers})

    return sorted(parts, key=total, reverse=True)  # stable: equal ones in the order of execution


def _planned(analysis: Analysis, prune: PruneSettings, *, by_block: bool) -> list[_Part]:
    """What is to go in the end, divided into layers or blocks in the order of execution."""
    items = analysis.groups.items
    if prune.std is not None:
        return [_Part(tuple(groups), None) for groups in _pools(items, by_block)]
    order = {g: np.arange(len(group), dtype=np.float64) for g, group in enumerate(items)}
    ratio = prune.ratio
    found = choose(
        analysis.costs,
        order,
        ratio=by_group(ratio, analysis.groups, order)[0] if isinstance(ratio, Mapping) else ratio,
        target=prune.target,
        scope="block" if prune.scope == "block" else "local",
        round_to=step_of(prune.round_to, prune.target),
        min_units=prune.min_units,
        tolerance=prune.tolerance,
    )
    for note in found.notes:
        warnings.warn(f"steps.prune: {note}", SecateurWarning, stacklevel=2)
    parts = [_Part(tuple(groups), _gone(groups, found.keep)) for groups in _pools(items, by_block)]
    return [part for part in parts if part.ratio]


def _pools(items: Sequence[Group], by_block: bool) -> list[list[Group]]:
    """The groups of every round."""
    pools: dict[str, list[Group]] = {}
    for number, group in enumerate(items):
        pools.setdefault(group.block if by_block else str(number), []).append(group)
    return list(pools.values())


def _gone(groups: Sequence[Group], keep: np.ndarray[Any, np.dtype[np.bool_]]) -> float:
    units = np.concatenate([group.units for group in groups])
    return float(1 - keep[units].mean())
