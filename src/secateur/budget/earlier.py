"""What earlier cuts of the same network have taken, so that shares can count from the dense one."""

from __future__ import annotations

from dataclasses import fields

from secateur.errors import InputError
from secateur.graph.groups import Group
from secateur.plan import Plan
from secateur.types import Target

__all__ = ["gone_before", "of_dense"]


def gone_before(plan: Plan | None, groups: tuple[Group, ...]) -> dict[int, int]:
    """Units that ``plan`` took from each group of the network that it left, by group number.

    A unit stands for the same number of entries before and after a cut, so the widths of the group's first
    dimension give the number of its units in the dense network.

    Args:
        plan: The cuts so far; ``None`` where there were none.
        groups: Groups of the network as it is now.
    """
    if plan is None:
        return {}
    found = {}
    for number, group in enumerate(groups):
        member = next((m for m in group.members if not m.consumes), group.members[0])
        kept = plan.keep.get(member.parameter, {}).get(member.dim)
        if kept is not None:
            dense = plan.dense_shapes[member.parameter][member.dim]
            found[number] = round(len(group) * (dense - len(kept)) / len(kept))
    return found


def of_dense(target: Target, plan: Plan | None) -> Target:
    """The target with a share of the dense network written as a count.

    Raises:
        InputError: The plan does not know how large the network was before its first cut.
    """
    name, value = next((f.name, v) for f in fields(target) if (v := getattr(target, f.name)) is not None)
    if plan is None or value > 1:
        return target
    first = plan.parts[0] if plan.parts else plan
    before = first.provenance.get("before", {}).get(name)
    if before is None:
        raise InputError(f"The network's plan does not say how many {name} it had before the cut. Give a count.")
    return Target(**{name: max(value * before, 1.000001)})
