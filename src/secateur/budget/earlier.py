"""What earlier cuts of the same network have taken, so that shares can count from the dense one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from secateur.core.errors import InputError
from secateur.core.plan import Plan
from secateur.core.types import Target
from secateur.cost.counts import MEASURES, Costs
from secateur.graph.groups import Group

__all__ = ["LATENCY", "before_cut", "gone_before", "latency_of_dense", "of_dense"]

KEY = "before"

LATENCY = "latency"
"""Where a plan's provenance keeps what a latency target has measured."""


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


def latency_of_dense(target: Target, plan: Plan | None) -> Target:
    """The target with a share of the dense network's time written as one of the network as it is now.

    Raises:
        InputError: An earlier cut was not measured in the same runtime with as many threads and samples.
    """
    if target.latency is None:
        return target
    now, parts = target.latency, () if plan is None else (plan.parts or (plan,))
    for number, part in enumerate(parts, 1):
        found = part.provenance.get(LATENCY)
        if found is None or any(found[key] != getattr(target, key) for key in ("runtime", "threads", "batch")):
            raise InputError(
                f"A latency of {target.latency:.0%} of the dense network's (of='dense') wants every earlier cut "
                f"measured in {target.runtime} (batch {target.batch}, {target.threads} threads); cut {number} of "
                f"{len(parts)} was not. Give milliseconds (latency_ms), or a share of the network as it is."
            )
        now /= found["reached"]
    return replace(target, latency=min(1.0, now))


def _dense(plan: Plan | None) -> Mapping[str, Any]:
    """What the first cut noted about the network it was given."""
    parts = () if plan is None else (plan.parts or (plan,))
    return next((part.provenance[KEY] for part in parts if KEY in part.provenance), {})
