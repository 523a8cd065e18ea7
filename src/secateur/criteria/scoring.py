"""Scores of all groups by one criterion: statistics first, then the criterion group by group."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateur.core.errors import InputError, SecateurError, first_line
from secateur.core.inputs import Data
from secateur.criteria.base import CRITERIA, Criterion, GroupView, NotApplicable, of_kind
from secateur.criteria.statistics import Collecting, Dense, Loss, collect
from secateur.graph.groups import Group, Groups

__all__ = ["Scores", "chosen", "score"]


@dataclass(frozen=True)
class Scores:
    """What a criterion says of a network.

    Attributes:
        values: Scores of the units by group number, higher = keep; a group without any is left whole.
        absolute: Whether scores of different groups compare as they are.
        notes: Groups that were left whole and why, data that were left out.
        additive: Whether what a group loses is the sum of the scores that go, the dearer the later; otherwise the
            last units of a group are worth more than their scores say.
        scope: The scope that is taken where none is asked for.
    """

    values: dict[int, NDArray[np.float64]]
    absolute: bool
    notes: tuple[str, ...]
    additive: bool = False
    scope: str = "local"


def chosen(criterion: str | Callable[[GroupView], Tensor]) -> Criterion:
    """The registered criterion, or a user's own function as one."""
    if isinstance(criterion, str):
        return of_kind(criterion, "channels")
    known = next((c for c in (CRITERIA[n] for n in CRITERIA) if c.score is criterion), None)
    return known or Criterion(getattr(criterion, "__name__", "custom"), criterion, "", "")


def score(
    groups: Groups,
    criterion: str | Callable[[GroupView], Tensor],
    *,
    only: Collection[str] | None = None,
    data: Data | None = None,
    loss: Loss | None = None,
    seed: int = 0,
    measure: str | None = None,
    dense: Dense | None = None,
    read: Callable[[str], Tensor] | None = None,
) -> Scores:
    """Scores every unit of a network.

    Args:
        groups: All groups.
        criterion: Name or function.
        only: Names of the groups to score; by default all.
        data: Calibration data, where the criterion needs them.
        loss: For criteria that need gradients; by default that of ``data`` where this is a task, else cross-entropy.
        seed: Of criteria that draw random numbers and of sampled statistics.
        measure: What the cut aims at (``macs`` …), for criteria that weigh by it.
        dense: The network before its first cut, for criteria that look at its responses.
        read: Gives a parameter's values by its name, where the network's own are on the meta device.

    Raises:
        InputError: Data are missing or do not fit, or the criterion has nothing to say of any group.
    """
    wanted = chosen(criterion)
    if not groups.items:
        return Scores({}, wanted.absolute, ())
    if loss is None and getattr(data, "has_loss", False):  # a task, which criteria need not know
        loss = data.loss  # type: ignore[union-attr]
    if read is not None and wanted.needs:
        raise InputError(
            f"criterion={wanted.name!r} looks at more than weights ({', '.join(wanted.needs)}), for which the network "
            f"has to be in memory; with weights=… take one of {', '.join(_of_weights_alone())}."
        )
    setting = Collecting(groups, seed, loss, measure, dense)
    found, notes = collect(wanted, setting, data)
    generator = torch.Generator().manual_seed(seed)
    values: dict[int, NDArray[np.float64]] = {}
    left: list[tuple[Group, NotApplicable]] = []
    for number, group in enumerate(groups.items):
        if only is not None and group.name not in only:
            continue
        try:
            values[number] = _checked(wanted, GroupView(group, groups, generator, found[number], read))
        except NotApplicable as reason:
            left.append((group, reason))
    if left and not values:
        raise InputError(
            f"The criterion {wanted.name!r} has nothing to score in this network: {left[0][1]}. Use another criterion "
            "(l1, l2)."
        )
    notes = (*_left_whole(wanted.name, left), *notes)
    return Scores(values, wanted.absolute, notes, wanted.additive, wanted.scope)


def _of_weights_alone() -> list[str]:
    """Criteria of channels that need nothing but weights."""
    return [name for name in CRITERIA if "channels" in CRITERIA[name].kinds and not CRITERIA[name].needs]


def _checked(criterion: Criterion, view: GroupView) -> NDArray[np.float64]:
    values = _called(criterion, view).detach().double().cpu().numpy()
    if values.shape != (len(view),) or not np.isfinite(values).all():
        raise InputError(
            f"The criterion gave {values.shape} scores ({np.count_nonzero(~np.isfinite(values))} not finite) for "
            f"group {view.group.name!r}; it has to give one finite score for each of its {len(view)} units."
        )
    return np.asarray(values)


def _called(criterion: Criterion, view: GroupView) -> Tensor:
    """What the criterion says; what a user's own function raises becomes a sentence that names it."""
    assert criterion.score is not None  # it scores channels
    try:
        found = criterion.score(view)
    except SecateurError:
        raise
    except Exception as error:
        if any(p.is_meta for p in view.groups.flow.traced.module.parameters()):
            raise InputError(
                f"The weights are on the meta device and have no values, which criterion={criterion.name!r} looks at. "
                "Say with weights=… which files hold them, take criterion='random', or load the weights first."
            ) from error
        raise InputError(
            f"The criterion {criterion.name!r} failed on group {view.group.name!r}: {type(error).__name__}: "
            f"{first_line(error)}. A criterion is a function of the group's view that gives one score per unit."
        ) from error
    if not isinstance(found, Tensor):
        raise InputError(
            f"The criterion {criterion.name!r} gave a {type(found).__name__} for group {view.group.name!r}; it has to "
            "give a tensor with one score per unit."
        )
    return found


def _left_whole(name: str, left: Sequence[tuple[Group, Any]]) -> list[str]:
    """One note that names the groups a criterion could not score."""
    if not left:
        return []
    several = f"{len(left)} groups are" if len(left) > 1 else "one group is"
    return [f"{several} left whole, of which {name} says nothing: {'; '.join(str(reason) for _, reason in left)}"]
