"""The smaller network of the user's own classes, where their code holds sizes.

Attributes are solved for, and factors that are computed from a size are made good in the weights.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from secateur.core.errors import VerificationError, first_line
from secateur.core.patterns import without_numbers
from secateur.core.plan import Place, Plan, Scaled
from secateur.graph.batch import Unfollowed
from secateur.graph.groups import Groups
from secateur.surgery.attempt import Built, Rung
from secateur.surgery.building import described, has_configuration
from secateur.surgery.configured import configured
from secateur.surgery.factors import folded, scale_entries
from secateur.surgery.graph import new_indices
from secateur.surgery.islands import with_islands
from secateur.surgery.module import Keep, prune_module
from secateur.surgery.pruned_graph import has_train_mode
from secateur.surgery.sizes import Conflict, Sizes, solved_sizes
from secateur.surgery.training import EVAL_ALONE

__all__ = ["configuring", "living", "numbers_in_words", "replayed"]

Mask = NDArray[np.bool_]


def living(
    model: nn.Module, groups: Groups, label_keep: Mask, keep: Keep, known: dict[str, Sizes], *, config: bool = False,
    islands: bool = False,
) -> Built:  # fmt: skip
    """Cuts a copy of ``model`` whose attributes say the new sizes.

    Args:
        model: The dense network; it is not touched.
        groups: Its groups.
        label_keep: Which labels stay, shape (labels,).
        keep: Kept indices by tensor name and dimension.
        known: What an earlier call for the same cut has found out; further calls find it there.
        config: Whether its configuration is made true as well.
        islands: Whether submodules whose code does not fit become graphs.

    Returns:
        The network, with what was changed in it. It is not proven yet.

    Raises:
        VerificationError: Nothing in the attributes would have to be another number, or they cannot say the sizes.
        Unsayable: The configuration cannot say them.
    """
    if "sizes" not in known:
        try:
            known["sizes"] = solved_sizes(model, groups, label_keep)
        except Exception as error:  # the network raises what it likes
            raise VerificationError(f"Its attributes cannot be followed ({first_line(error)}).") from error
    sizes, indices = known["sizes"], new_indices(groups, label_keep)
    numbers: dict[Place, float] = {**sizes.numbers}
    small = prune_module(model, keep, indices=indices, numbers=numbers)
    notes = []
    if config:
        found = configured(model, small, sizes)
        numbers |= found.numbers
        small = prune_module(model, keep, indices=indices, numbers=numbers)
        notes = found.notes
    scaled: Mapping[str, tuple[Scaled, ...]] = {}
    with contextlib.suppress(Unfollowed):
        scaled = folded(small, groups, label_keep)
    made: tuple[str, ...] = ()
    if islands:
        made = with_islands(model, small, groups, label_keep, keep)
        notes += [f"graphs in the place of submodules whose code does not fit: {', '.join(made)}"] if made else []
        notes += [f"{path}: {EVAL_ALONE}" for path in made if not has_train_mode(small.get_submodule(path))]
        if not made:
            raise VerificationError(_why(sizes.conflicts))
    elif not numbers and not scaled and not config:
        raise VerificationError(_why(sizes.conflicts))
    _multiply(small, scaled)
    kinds = {path: type(module).__module__ for path, module in model.named_modules()}
    own = {p: n for p, n in sizes.numbers.items() if not kinds[p.module].startswith(_LAYERS)}
    return Built(small, numbers, scaled, made, (*notes, *_notes(replace(sizes, numbers=own), scaled)))


def replayed(model: nn.Module, plan: Plan, groups: Groups, label_keep: Mask) -> Built:
    """Cuts a copy of ``model`` as a plan of this network says, its sizes and factors among it; nothing is solved.

    Raises:
        VerificationError: A submodule that the plan names cannot be a graph.
        PlanError: The network has no number in a place that the plan names.
    """
    small = prune_module(model, plan.keep, indices=new_indices(groups, label_keep), numbers=plan.numbers)
    islands = with_islands(model, small, groups, label_keep, plan.keep) if plan.islands else ()
    _multiply(small, plan.scaled)
    return Built(small, plan.numbers, plan.scaled, islands)


_LAYERS = ("torch.nn.modules.normalization", "torch.nn.modules.conv")
"""Layers whose sizes are those of their weights; nobody has to be told."""


def configuring(
    model: nn.Module, groups: Groups, label_keep: Mask, keep: Keep, known: dict[str, Sizes]
) -> list[Rung]:  # fmt: skip
    """The way to a smaller network whose configuration is true, for one that carries such a thing."""
    if not has_configuration(model) and not described(model):
        return []
    return [Rung("module", lambda: living(model, groups, label_keep, keep, known, config=True), "configuration")]


def _multiply(small: nn.Module, scaled: Mapping[str, Sequence[Scaled]]) -> None:
    named = dict(small.named_parameters(remove_duplicate=False)) | dict(small.named_buffers(remove_duplicate=False))
    with torch.no_grad():
        for name, several in scaled.items():
            named[name].copy_(scale_entries(named[name], several))


def _why(conflicts: Sequence[Conflict]) -> str:
    if not conflicts:
        return "No attribute holds a size that changes."
    first = conflicts[0]
    names = ", ".join(str(place) for place in first.places) or "a number in its code"
    where = first.module or "(top level)"
    return f"{first.operator} in {where} would need {first.wanted}, which {names} cannot say."


def _notes(sizes: Sizes, scaled: Mapping[str, Sequence[Scaled]]) -> list[str]:
    """What was changed, layers that are alike in one line."""
    factors: dict[str, list[str]] = {}
    for name, several in scaled.items():
        for one in several:
            factors.setdefault(f"{len(one.entries)} outputs of {without_numbers(name)} × {one.factor:.4g}", []).append(
                name
            )
    found = numbers_in_words(sizes.numbers, sizes.before)
    return found + [f"made good in the weights: {text}{_times(names)}" for text, names in factors.items()]


def numbers_in_words(numbers: Mapping[Place, int], before: Mapping[Place, int]) -> list[str]:
    """What attributes have become; places that are alike in one line."""
    changes: dict[str, list[Place]] = {}
    for place, number in numbers.items():
        text = f"{without_numbers(str(place))} {before[place]} → {number}"
        changes.setdefault(text, []).append(place)
    return [f"size in its code: {text}{_times(places)}" for text, places in changes.items()]


def _times(several: Sequence[object]) -> str:
    return f" ({len(several)} times)" if len(several) > 1 else ""
