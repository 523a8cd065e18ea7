"""A threshold in standard deviations: what scores too far below the mean of its group goes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from secateur.budget.choose import Chosen, first_few
from secateur.budget.order import removal_order
from secateur.cost.counts import Costs

__all__ = ["below_mean"]


def below_mean(
    costs: Costs,
    scores: Mapping[int, NDArray[np.float64]],
    deviations: float,
    *,
    round_to: int = 1,
    min_units: int = 1,
) -> Chosen:
    """Removes from every group the units with s < mean(s) − k·σ(s), s the group's scores (σ divides by n).

    With scores 1 − APoZ and k = 1 these are the units whose APoZ is above the mean of their layer by more than one
    standard deviation: Hu et al. 2016, Network Trimming, arXiv:1607.03250, §3.2.

    Args:
        costs: Exact costs of the network under any choice, for its groups.
        scores: Scores of the units that may go, by group number; higher = keep.
        deviations: k. A group of which all units score alike loses none.
        round_to: Widths that are left are multiples of this: fewer units go where they are not.
        min_units: Units that every group keeps at least.

    Returns:
        Which units stay; notes name groups that lose none, and those that were held at the fewest they keep.
    """
    groups = costs.groups.items
    keep = np.ones(costs.groups.units, dtype=bool)
    wanted = {g: int((s < s.mean() - deviations * s.std() - 1e-12).sum()) for g, s in scores.items()}
    gone, free = dict.fromkeys(scores, 0), dict.fromkeys(scores, 0)
    for step in removal_order(groups, scores, scope="local", round_to=round_to, min_units=min_units):
        free[step.group] += len(step.units)
        if free[step.group] <= wanted[step.group]:
            gone[step.group] = free[step.group]
            keep[step.units] = False
    short = [g for g in scores if free[g] < wanted[g]]
    held = [
        f"{groups[g].name} ({wanted[g]} of {len(groups[g])} are below the threshold, {len(groups[g]) - gone[g]} stay)"
        for g in short
    ]
    fewest = f"round_to={round_to}, min_units={min_units}"
    notes = [f"held at the fewest units that a group keeps ({fewest}): {first_few(held)}"] if held else []
    said = f"{deviations:g} standard deviation{'s' * (deviations != 1)} below the mean of its group"
    if keep.all() and not held:
        notes.append(f"nothing was removed: no unit scores more than {said}")
    elif idle := [groups[g].name for g in scores if not wanted[g]]:
        notes.append(f"no unit scores more than {said} in {first_few(idle)}")
    return Chosen(keep, tuple(notes), tuple(groups[g].name for g in short))
