"""What earlier cuts of the same network have taken, so that shares can count from the dense one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from secateur.graph.groups import Group
from secateur.measure.counts import MEASURES, Costs
from secateur.plan import Plan
from secateur.types import Target

__all__ = ["before_cut", "gone_before", "of_dense"]

KEY = "before"


def before_cut(costs: Costs) -> dict[str, Any]:
    """What a plan's provenance keeps of the network that is cut: its size, and the units of every group."""
    everything = np.ones(costs.groups.units, dtype=bool)
    sizes = {name: round(costs.measure(name, everything)) for name in MEASURES}
    return {KEY: {**sizes, "units": {g.name: len(g) for g in costs.groups.items}}}


def gone_before(plan: Plan | None, groups: Iterable[Group]) -> dict[int, int]:
    """Units that earlier cuts took from each group of the network that they left, by group number.

    Args:
        plan: The cuts so far; ``None`` where there were none.
        groups: Groups of the network as it is now.
    """
    units = _dense(plan).get("units", {})
    return {number: units.get(group.name, len(group)) - len(group) for number, group in enumerate(groups)}


def of_dense(target: Target, plan: Plan | None) -> Target:
    """The target with a share of the dense network's parameters, MACs, energy or bytes written as a count.

    Where no cut was made so far (masks do not cut), the network is as large as the dense one, and the target stays.
    """
    name, value = target.measure, target.given[target.measure]
    before = _dense(plan).get(name)
    if before is None or value > 1:
        return target
    return Target(**{name: max(value * before, 1.000001)})


def _dense(plan: Plan | None) -> Mapping[str, Any]:
    """What the first cut noted about the network it was given."""
    parts = () if plan is None else (plan.parts or (plan,))
    return next((part.provenance[KEY] for part in parts if KEY in part.provenance), {})
