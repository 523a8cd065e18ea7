"""From an order of removals to the units that stay: by ratio, or by search over the real cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from secateur.budget.order import SCOPES, Step, removal_order
from secateur.core.errors import BudgetError, InputError, UnknownNameError
from secateur.core.modes import no_gc
from secateur.core.types import Target
from secateur.cost.counts import Costs
from secateur.graph.groups import Group

__all__ = ["TOLERANCE", "check_rules", "choose", "reached", "to_target", "without"]

TOLERANCE = 0.01
"""A target counts as met within one per cent."""

Mask = NDArray[np.bool_]

_UNITS = {
    "energy": "multiply-accumulates by the model of secateur.cost.energy, nothing was measured",
    "size": "bytes of model.safetensors",
}


def choose(
    costs: Costs,
    scores: Mapping[int, NDArray[np.float64]],
    *,
    ratio: float | Mapping[int, float] | None = None,
    target: Target | None = None,
    scope: str = "local",
    round_to: int = 1,
    min_units: int = 1,
    gone: Mapping[int, int] | None = None,
    absolute: bool = False,
    uniform: bool = False,
) -> Mask:
    """Chooses which units stay.

    Args:
        costs: Exact costs of the network under any choice.
        scores: Scores of the units that may go, by group number; higher = keep.
        ratio: Share of units to remove, in [0, 1): of every group (``local``), of every block (``block``) or
            of all units (``global``); rounded to the nearest whole number, exactly, also under ties. Or, with scope
            ``local``, one per group number; other groups are left alone.
        target: Parameters, MACs, energy or bytes to reach, within one per cent, instead of a ratio.
        scope: ``local``, ``global`` or ``block``.
        round_to: Widths that are left are multiples of this.
        min_units: Units that every group keeps at least.
        gone: Units that earlier cuts took from the groups, by group number; they count towards ``ratio``, which
            then is a share of the units there were before any cut.
        absolute: Whether scores of different groups compare as they are; otherwise each group's are divided by
            their mean before groups are compared.
        uniform: Whether layers of a kind stay of one width (scope ``local``).

    Returns:
        Which units stay, shape (units,), bool.

    Raises:
        InputError: A value out of range.
        BudgetError: The target is out of reach; says how far it can go.
    """
    check_rules(scope, round_to, min_units)
    groups = costs.groups.items
    if isinstance(ratio, Mapping):
        scores = {number: values for number, values in scores.items() if number in ratio}
    with no_gc():
        steps = removal_order(groups, scores, scope=scope, round_to=round_to, min_units=min_units, absolute=absolute,
                              uniform=uniform and target is not None)  # fmt: skip
    keep = np.ones(costs.groups.units, dtype=bool)
    if target is not None:
        return to_target(costs, steps, keep, target)
    assert ratio is not None
    shares = ratio if isinstance(ratio, Mapping) else dict.fromkeys(scores, ratio)
    if not steps and any(share > 0 for share in shares.values()):
        raise BudgetError(
            f"Nothing can be pruned: round_to={round_to} and min_units={min_units} leave no smaller width in any "
            f"of the {len(scores)} groups{' that lie inside a block' if scope == 'block' else ''}."
        )
    for taken in _to_ratio(steps, groups, shares, scope, gone or {}):
        keep[taken.units] = False
    return keep


def reached(costs: Costs, keep: Mask, target: Target | None) -> tuple[str, ...]:
    """What came of a target that parameters and MACs do not show: energy or bytes, in words."""
    if target is None or target.measure not in _UNITS:
        return ()
    dense, now = (costs.measure(target.measure, units) for units in (np.ones_like(keep), keep))
    return (f"{target.measure}: {dense:,.0f} → {now:,.0f} {_UNITS[target.measure]} ({now / dense:.1%})",)


def check_rules(scope: str, round_to: int, min_units: int) -> None:
    """Checks what the widths that are left have to keep to."""
    if scope not in SCOPES:
        raise UnknownNameError("scope", scope, SCOPES)
    if round_to < 1 or min_units < 1:
        raise InputError(f"round_to and min_units are at least 1; got {round_to!r} and {min_units!r}.")


def _to_ratio(
    steps: Sequence[Step], groups: Sequence[Group], shares: Mapping[int, float], scope: str, earlier: Mapping[int, int]
) -> list[Step]:
    """Takes steps while that brings each pool's count nearer to what was asked."""

    pool: dict[int, object] = {}
    total: dict[object, int] = {}
    gone: dict[object, int] = {}
    for g in dict.fromkeys(s.group for s in steps):
        before = earlier.get(g, 0)
        pool[g] = {"local": g, "block": groups[g].block, "global": None}[scope]
        total[pool[g]] = total.get(pool[g], 0) + len(groups[g]) + before
        gone[pool[g]] = gone.get(pool[g], 0) + before
    closed: set[int] = set()
    taken = []
    for step in steps:
        key, size = pool[step.group], len(step.units)
        wanted = shares[step.group] * total[key] + 1e-9
        if step.group not in closed and gone[key] + size / 2 <= wanted:
            gone[key] += size
            taken.append(step)
        else:
            closed.add(step.group)
    return taken


# ---------------------------------------------------------------------------------------------------- targets


def to_target(costs: Costs, steps: Sequence[Step], keep: Mask, target: Target) -> Mask:
    """Bisects the beginning of the order that costs the target, then closes the gap step by step."""
    if target.measured:
        raise InputError(f"A latency is measured, not counted: secateur.prune() aims at one; got {target}.")
    name = target.measure
    dense = costs.measure(name, keep)
    wanted = target.of(dense)
    if wanted >= dense:
        if wanted <= dense * (1 + TOLERANCE):
            return keep
        raise BudgetError(f"The target of {wanted:,.0f} {name} is above the dense network's {dense:,.0f}.")
    low, high = 0, len(steps)  # low steps cost at least the target, high steps (if any) less
    floor = costs.measure(name, without(keep, steps))
    if floor > wanted * (1 + TOLERANCE):
        raise BudgetError(
            f"The target of {wanted:,.0f} {name} cannot be met: with all that may go removed, {floor:,.0f} are "
            f"left ({floor / dense:.1%} of {dense:,.0f}). Lower round_to or min_units, or widen only/ignore."
        )
    while high - low > 1:
        middle = (low + high) // 2
        if costs.measure(name, without(keep, steps[:middle])) >= wanted:
            low = middle
        else:
            high = middle
    over = _fill(costs, name, steps, low, without(keep, steps[:low]), wanted)
    under = without(keep, steps[:high])
    best = min((over, under), key=lambda k: abs(costs.measure(name, k) - wanted))
    reached = costs.measure(name, best)
    if abs(reached - wanted) > TOLERANCE * wanted:
        near = sorted({round(costs.measure(name, over)), round(costs.measure(name, under))})
        raise BudgetError(
            f"The target of {wanted:,.0f} {name} cannot be met within 1 %: the nearest widths that the coupled "
            f"groups allow give {' and '.join(f'{v:,}' for v in near)}. Take one of those, or a smaller round_to."
        )
    return best


def without(keep: Mask, steps: Sequence[Step]) -> Mask:
    """``keep`` without the units of some removals."""
    keep = keep.copy()
    if steps:
        keep[np.concatenate([step.units for step in steps])] = False
    return keep


def _fill(costs: Costs, name: str, steps: Sequence[Step], low: int, keep: Mask, wanted: float) -> Mask:
    """Takes cheaper later steps, in order, as long as the cost stays at or above the target."""
    closed: set[int] = set()
    for step in steps[low:]:
        if step.group in closed:
            continue
        cost = costs.measure(name, keep)
        if cost - wanted <= 0.001 * wanted or len(closed) == len(costs.groups.items):
            break
        trial = without(keep, [step])
        if costs.measure(name, trial) >= wanted:
            keep = trial
        else:
            closed.add(step.group)
    return keep
