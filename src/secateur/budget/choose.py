"""From an order of removals to the units that stay: by ratio, or by search over the real cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from secateur.budget.order import POOLS, SCOPES, Step, removal_order
from secateur.core.errors import BudgetError, InputError, UnknownNameError
from secateur.core.modes import no_gc
from secateur.core.types import Target
from secateur.cost.counts import Costs
from secateur.graph.groups import Group

__all__ = ["TOLERANCE", "Chosen", "check_rules", "check_tolerance", "choose", "first_few", "reached", "to_target",
           "without"]  # fmt: skip

TOLERANCE = 0.01
"""A target counts as met up to one per cent below it."""

Mask = NDArray[np.bool_]

_UNITS = {
    "energy": "multiply-accumulates by the model of secateur.cost.energy, nothing was measured",
    "size": "bytes of model.safetensors",
}


_NAMED = 5


def first_few(names: Sequence[str]) -> str:
    """Names for a note: the first five, and how many more there are.

    >>> first_few(["a", "b"]), first_few(list("abcdefg"))
    ('a, b', 'a, b, c, d, e and 2 more')
    """
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more}"


class Chosen(NamedTuple):
    """Which units stay.

    Attributes:
        keep: Shape (units,), bool.
        notes: That a target was not met within the tolerance, and why.
        held: Groups of which a threshold would have taken more than may go.
    """

    keep: Mask
    notes: tuple[str, ...] = ()
    held: tuple[str, ...] = ()


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
    tolerance: float | None = None,
    exact: bool = False,
) -> Chosen:
    """Chooses which units stay.

    Args:
        costs: Exact costs of the network under any choice.
        scores: Scores of the units that may go, by group number; higher = keep.
        ratio: Share of units to remove, in [0, 1): of every group (``local``) or block (``block``), of all groups
            of a kind (``isomorphic``) or of all units (``global``); rounded to the nearest whole number, exactly, also
            under ties. Or, with scope ``local``, one per group number; other groups are left alone.
        target: Parameters, MACs, energy or bytes, instead of a ratio: what is left is the nearest at or below it that
            the widths allow.
        scope: One of :data:`~secateur.budget.order.SCOPES`.
        round_to: Widths that are left are multiples of this.
        min_units: Units that every group keeps at least.
        gone: Units that earlier cuts took from the groups, by group number; they count towards ``ratio``, which
            then is a share of the units there were before any cut.
        absolute: Whether scores of different groups compare as they are; otherwise each group's are divided by
            their mean before groups are compared.
        uniform: Whether layers of a kind stay of one width (scope ``local``).
        tolerance: How far below the target, as a share of it, needs no note; :data:`TOLERANCE` by default.
        exact: Whether to refuse what is further below the target than that.

    Returns:
        Which units stay, and what is to be said of it.

    Raises:
        InputError: A value out of range.
        BudgetError: Nothing at or below the target can be reached; says how far it can go.
    """
    check_rules(scope, round_to, min_units)
    check_tolerance(tolerance)
    groups = costs.groups.items
    scope, uniform = ("local", True) if scope == "uniform" else (scope, uniform)
    if isinstance(ratio, Mapping):
        scores = {number: values for number, values in scores.items() if number in ratio}
    with no_gc():
        steps = removal_order(groups, scores, scope=scope, round_to=round_to, min_units=min_units, absolute=absolute,
                              uniform=uniform and target is not None)  # fmt: skip
    keep = np.ones(costs.groups.units, dtype=bool)
    if target is not None:
        found = to_target(costs, steps, keep, target)
        if found is None:
            widest = removal_order(groups, scores, scope=scope, round_to=1, min_units=1, absolute=absolute)
            raise BudgetError(_out_of_reach(costs, target, without(keep, steps), without(keep, widest)))
        short = _short(costs, target, found, TOLERANCE if tolerance is None else tolerance, round_to)
        if short and exact:
            raise BudgetError(f"The target cannot be met within the tolerance: {short[0]}.")
        return Chosen(found.keep, short)
    assert ratio is not None
    shares = ratio if isinstance(ratio, Mapping) else dict.fromkeys(scores, ratio)
    if not steps and any(share > 0 for share in shares.values()):
        raise BudgetError(
            f"Nothing can be pruned: round_to={round_to} and min_units={min_units} leave no smaller width in any "
            f"of the {len(scores)} groups{' that lie inside a block' if scope == 'block' else ''}."
        )
    for taken in _to_ratio(steps, groups, shares, scope, gone or {}):
        keep[taken.units] = False
    return Chosen(keep)


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


def check_tolerance(tolerance: float | None) -> None:
    """Checks how far below a target may be."""
    if tolerance is not None and not 0 <= tolerance < 1:
        raise InputError(
            f"tolerance is how far below the target needs no note, as a share of it in [0, 1); got {tolerance!r}."
        )


def _to_ratio(
    steps: Sequence[Step], groups: Sequence[Group], shares: Mapping[int, float], scope: str, earlier: Mapping[int, int]
) -> list[Step]:
    """Takes steps while that brings each pool's count nearer to what was asked."""

    pool: dict[int, object] = {}
    total: dict[object, int] = {}
    gone: dict[object, int] = {}
    for g in dict.fromkeys(s.group for s in steps):
        before = earlier.get(g, 0)
        pool[g] = POOLS[scope](groups[g]) if scope in POOLS else g if scope == "local" else None
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


class _Found(NamedTuple):
    """The nearest networks on both sides of a target.

    Attributes:
        keep: Units of the one at or below it.
        above: What the one above it costs; ``None`` where the target is met exactly.
    """

    keep: Mask
    above: float | None = None


def to_target(costs: Costs, steps: Sequence[Step], keep: Mask, target: Target) -> _Found | None:
    """Bisects the beginning of the order that meets the target, then closes the gap step by step.

    Returns:
        The nearest at or below the target, ``None`` where even all steps leave more than that.
    """
    if target.measured:
        raise InputError(f"A latency is measured, not counted: secateur.prune() aims at one; got {target}.")
    name = target.measure
    dense = costs.measure(name, keep)
    wanted = target.of(dense)
    if wanted >= dense:
        if wanted <= dense * (1 + TOLERANCE):
            return _Found(keep)
        raise BudgetError(f"The target of {wanted:,.0f} {name} is above the dense network's {dense:,.0f}.")
    most = wanted * (1 + _ROUNDING)
    low, high = 0, len(steps)  # low steps cost more than the target, high steps do not
    if costs.measure(name, without(keep, steps)) > most:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if costs.measure(name, without(keep, steps[:middle])) > most:
            low = middle
        else:
            high = middle
    over = _fill(costs, name, steps[low:], without(keep, steps[:low]), most)
    under = [*_crossing(costs, name, steps[low:], over, most), without(keep, steps[:high])]
    return _Found(max(under, key=lambda k: costs.measure(name, k)), costs.measure(name, over))


_ROUNDING = 1e-9
"""What a share of a count may be off by, being a float."""

_NEAR = 0.001
"""So near above a target, no cheaper removals are looked for."""


def _short(costs: Costs, target: Target, found: _Found, tolerance: float, round_to: int) -> tuple[str, ...]:
    """A note where the target was missed by more than the tolerance: by how much, and what kept it."""
    name, dense = target.measure, costs.measure(target.measure, np.ones_like(found.keep))
    wanted, left = target.of(dense), costs.measure(target.measure, found.keep)
    if found.above is None or left >= wanted * (1 - tolerance):
        return ()
    why = f"units go together{f' and widths are multiples of {round_to}' if round_to > 1 else ''}"
    return (
        f"{name}: {left:,.0f} are left, {1 - left / wanted:.1%} below the target of {wanted:,.0f} (tolerance "
        f"{tolerance:g}): {why}; the nearest above it that was found has {found.above:,.0f}",
    )


def _out_of_reach(costs: Costs, target: Target, least: Mask, free: Mask) -> str:
    """Why a target cannot be met, and whether ``round_to`` and ``min_units`` are in its way, which is tried."""
    name, dense = target.measure, costs.measure(target.measure, np.ones_like(least))
    wanted, floor, freest = target.of(dense), costs.measure(name, least), costs.measure(name, free)
    said = (
        f"The target of {wanted:,.0f} {name} cannot be met: with all that may go removed, {floor:,.0f} are left "
        f"({math.ceil(1000 * floor / dense) / 1000:.1%} of {dense:,.0f})."
    )
    if freest <= wanted:
        return f"{said} With round_to=1 and min_units=1 it can be met."
    fewer = f" Even with round_to=1 and min_units=1, {freest:,.0f} are left." if freest < floor else ""
    return f"{said}{fewer} What else may go is said by only, ignore and groups; remove_layers takes whole layers out."


def without(keep: Mask, steps: Sequence[Step]) -> Mask:
    """``keep`` without the units of some removals."""
    keep = keep.copy()
    if steps:
        keep[np.concatenate([step.units for step in steps])] = False
    return keep


def _fill(costs: Costs, name: str, steps: Sequence[Step], keep: Mask, most: float) -> Mask:
    """Takes cheaper later steps, in order, as long as more than the target is left."""
    left, cost = {step.group for step in steps}, costs.measure(name, keep)
    for step in steps:
        if cost - most <= _NEAR * most or not left:
            break
        if step.group not in left:
            continue
        trial = without(keep, [step])
        if (less := costs.measure(name, trial)) > most:
            keep, cost = trial, less
        else:
            left.remove(step.group)
    return keep


def _crossing(costs: Costs, name: str, steps: Sequence[Step], keep: Mask, most: float) -> list[Mask]:
    """The networks that one more step of any group takes to the target or below it."""
    first: dict[int, Step] = {}
    for step in steps:
        if keep[step.units].any():
            first.setdefault(step.group, step)
    found = (without(keep, [step]) for step in first.values())
    return [trial for trial in found if costs.measure(name, trial) <= most]
