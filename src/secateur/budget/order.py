"""The order in which units would be removed; every ratio and target takes a beginning of it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from math import lcm
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from secateur.core.patterns import without_numbers
from secateur.graph.groups import Group

__all__ = ["POOLS", "SCOPES", "Step", "removal_order"]

SCOPES = ("local", "uniform", "global", "block", "isomorphic")

POOLS: dict[str, Callable[[Group], Hashable]] = {"block": lambda g: g.block, "isomorphic": lambda g: g.kind}
"""Scopes that rank by score within pools of groups, and take the same share of every pool."""


class Step(NamedTuple):
    """Units of one group that are removed together (one unit, or as many as ``round_to`` asks for).

    Attributes:
        group: Number of the group.
        units: Units to remove.
        key: Place in the order: ascending.
    """

    group: int
    units: NDArray[np.int64]
    key: float


def removal_order(
    groups: Sequence[Group],
    scores: Mapping[int, NDArray[np.float64]],
    *,
    scope: str,
    round_to: int,
    min_units: int,
    absolute: bool = False,
    uniform: bool = False,
) -> list[Step]:
    """Orders all removals that the floors allow.

    Args:
        groups: All groups.
        scores: Scores of the units of the groups that may be cut, by group number.
        scope: ``local`` removes the same share of every group, ``uniform`` too, and keeps layers that are alike of one
            width; ``global`` goes by score, each group's scores
            divided by their mean so that layers of different size compare; ``block`` does that within each
            block and removes the same share of every block, of the channels inside it: a residual stream that
            joins several blocks is left whole; ``isomorphic`` does it within all groups of a kind, those whose layers
            are joined in the same way (Fang et al. 2024, Isomorphic Pruning, arXiv:2407.04616, §3.3).
        round_to: Widths that are left are multiples of this (or the dense width).
        min_units: Units that every group keeps at least.
        absolute: Whether scores of different groups compare as they are, without division by the mean.
        uniform: Whether layers that are alike lose units together (``local`` alone), so that they stay of one width.
    """
    scope, uniform = ("local", True) if scope == "uniform" else (scope, uniform)
    steps: list[Step] = []
    for g, values in scores.items():
        if scope == "block" and groups[g].spans:
            continue
        steps += _group_steps(g, groups[g], values, round_to, min_units, absolute)
    if scope == "local":
        steps = [s._replace(key=share) for s, share in zip(steps, _shares(steps, groups), strict=True)]
        steps = _together(steps, groups) if uniform else steps
    elif scope in POOLS:
        steps = _by_pool(steps, groups, POOLS[scope])
    return sorted(steps, key=lambda s: s.key)  # stable: ties keep the order of execution


def _group_steps(
    number: int, group: Group, scores: NDArray[np.float64], round_to: int, min_units: int, absolute: bool
) -> list[Step]:
    """Splits a group's units, worst first, into removals that leave allowed widths."""
    order = np.argsort(scores, kind="stable")
    size = len(group)
    step, least = lcm(round_to, group.step), max(min_units, group.least)
    widths = [w for w in range(size - 1, 0, -1) if w % step == 0 and w >= least]
    mean = 1.0 if absolute else float(np.mean(scores)) or 1.0
    if not widths:
        return []
    ends = [size - width for width in widths]
    starts = [0, *ends[:-1]]
    worth = np.add.reduceat(scores[order[: ends[-1]]], starts) / np.diff([0, *ends])
    keys = np.maximum.accumulate(worth / mean)  # a later step of a group never comes earlier
    units = group.units[order]
    return [
        Step(number, units[start:end] if end == start + 1 else np.sort(units[start:end]), key)
        for start, end, key in zip(starts, ends, keys.tolist(), strict=True)
    ]


def _together(steps: Sequence[Step], groups: Sequence[Group]) -> list[Step]:
    """One step for all layers of a kind: groups whose tensors are called alike, but for their layer's number."""
    kinds = {s.group: tuple((without_numbers(m.parameter), m.dim) for m in groups[s.group].members) for s in steps}
    found: dict[tuple[object, float], list[Step]] = {}
    for step in steps:
        found.setdefault((kinds[step.group], step.key), []).append(step)
    return [Step(same[0].group, np.sort(np.concatenate([s.units for s in same])), same[0].key)
            for same in found.values()]  # fmt: skip


def _shares(steps: Sequence[Step], groups: Sequence[Group]) -> list[float]:
    """Share of its group that is gone half-way through each step."""
    gone: dict[int, int] = {}
    shares = []
    for step in steps:
        before = gone.get(step.group, 0)
        gone[step.group] = before + len(step.units)
        shares.append((before + len(step.units) / 2) / len(groups[step.group]))
    return shares


def _by_pool(steps: Sequence[Step], groups: Sequence[Group], pool: Callable[[Group], Hashable]) -> list[Step]:
    """Within a pool of groups (a block, a kind) by score, across pools by the share of the pool that is gone."""
    total: dict[Hashable, int] = {}
    for g in dict.fromkeys(s.group for s in steps):
        total[pool(groups[g])] = total.get(pool(groups[g]), 0) + len(groups[g])
    gone: dict[Hashable, int] = {}
    result = []
    for step in sorted(steps, key=lambda s: s.key):
        own = pool(groups[step.group])
        before = gone.get(own, 0)
        gone[own] = before + len(step.units)
        result.append(Step(step.group, step.units, (before + len(step.units) / 2) / total[own]))
    return result
