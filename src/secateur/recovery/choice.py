"""Choice of channels that knows it will be repaired: reconstruction error after the refit, layer budgets measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.budget import AUTO, LATENCY, step_of
from secateur.budget.choose import choose
from secateur.budget.latency import Rules, setting_of, to_latency
from secateur.core import arguments
from secateur.core.checks import check_inputs, check_weights, run
from secateur.core.errors import BudgetError, InputError
from secateur.core.inputs import Data, calls
from secateur.core.modes import evaluating
from secateur.core.plan import Plan
from secateur.core.types import Target
from secateur.criteria.scoring import Scores
from secateur.cut.analysis import Analysis, analyse
from secateur.cut.prune import apply, plan_of
from secateur.graph.trace import preserved_rng
from secateur.recovery.affine import Options
from secateur.recovery.gather import Curve, Gather, Ledger
from secateur.recovery.probe import sensitivities
from secateur.recovery.scale import check_scale
from secateur.recovery.sites import norms, sites
from secateur.recovery.sweep import sweep
from secateur.recovery.twin import Twin
from secateur.recovery.walk import Walker

__all__ = ["select"]

Mask = NDArray[np.bool_]


@arguments.checked
def select(
    model: nn.Module,
    calibration: Data,
    *,
    ratio: float | None = None,
    target: Target | None = None,
    scope: str | None = None,
    round_to: int | str | None = None,
    min_units: int = 1,
    only: Iterable[str] | None = None,
    ignore: Iterable[str] = (),
    granularity: str = "auto",
    probes: int = 64,
    batch_size: int = 64,
    seed: int = 0,
) -> Plan:
    """Chooses the units to remove by what the layers behind them cannot make good after a refit.

    Within a group, units go one by one: next goes the one without which the refitted consumers lose least (a
    closed form, OBS). Across groups, that error is turned into error of the network's output by measurement:
    each group alone is cut to a half and a quarter, its consumers refitted, and the outputs compared. Units then
    go by output error per MAC (or parameter) saved.

    Args:
        model: The trained network; not touched.
        calibration: Unlabelled inputs, as :func:`secateur.recover` takes them.
        ratio: Share of all units to remove; or
        target: ``Target(macs=…)``, ``params``, ``energy`` or ``size`` to reach, or a measured ``latency``.
        scope: ``global`` (layers get what they need), ``local`` or ``block`` (the same share everywhere). By default
            ``global``; with a latency, the widths whose removal the output feels least in that time.
        round_to: Widths that are left are multiples of this; ``auto`` as for :func:`secateur.prune`.
        min_units: Units that every group keeps at least.
        only: Modules whose output channels alone may go.
        ignore: Modules that keep their output channels.
        granularity: As for :func:`secateur.prune`.
        probes: Samples on which the groups' effect on the output is measured.
        batch_size: Samples that run at a time.
        seed: Of the positions that are looked at.

    Returns:
        A plan for :func:`secateur.apply`, whose result :func:`secateur.recover` repairs.

    Raises:
        InputError: Data that does not fit, or an impossible setting.
        BudgetError: Nothing to remove, or a target out of reach.
        ExportError: The network cannot be exported to the runtime of a latency.
    """
    example, calibration = _first_batch(calibration)
    for word, number in (("probes", probes), ("batch_size", batch_size)):
        if number < 1:
            raise InputError(f"select({word}=…) is a number of samples, at least 1; got {number!r}.")
    step = step_of(round_to, target)
    if target is not None and target.measured:
        setting_of(target)  # before anything that takes time
    check_weights(model)
    with evaluating(model), torch.no_grad(), preserved_rng():
        run(model, example, "calibration")
    analysis = analyse(model, example, only=only, ignore=ignore, granularity=granularity)
    if not analysis.groups.items:
        raise BudgetError("Nothing can be selected: the network has no free group, or only/ignore keep all of it.")
    with preserved_rng():
        curves = _curves(analysis, calibration, batch_size, probes, seed)
    provenance: dict[str, Any] = {"criterion": "reconstruction", "ratio": ratio, "scope": scope, "seed": seed,
                                  "round_to": step, "target": None if target is None else target.given}  # fmt: skip

    def plan(keep: Mask) -> Plan:
        return plan_of(analysis.groups, analysis.groups.label_keep(keep), provenance)

    if ratio is None and target is not None and target.measured:
        scores = Scores(_scores(analysis, curves, None), absolute=True, notes=(), additive=True)
        rules = Rules(scope, step, min_units, fine=round_to in (None, AUTO))
        met = to_latency(analysis.costs, scores, target, rules=rules, dense=(model, example),
                         cut=lambda keep: apply(model, plan(keep), example).model)  # fmt: skip
        provenance[LATENCY] = met.record
        return plan(met.keep)
    cost = None if ratio is not None or target is None else target.measure
    provenance["scope"] = scope = scope or "global"
    keep = choose(analysis.costs, _scores(analysis, curves, cost), ratio=ratio, target=target, scope=scope,
                  round_to=step, min_units=min_units, absolute=True)  # fmt: skip
    return plan(keep)


def _first_batch(data: Data) -> tuple[Any, Data]:
    """Two samples to trace a network with, and the data unharmed (an iterator has lost its first batch)."""
    if not isinstance(data, (Tensor, tuple, Mapping)):
        data = list(data)
    whole = isinstance(data, (Tensor, tuple, Mapping))
    part = data if whole else next(iter(data), None)
    if part is not None:
        check_inputs(tuple(part) if isinstance(part, list) else part, "calibration")
    return pytree.tree_map(lambda v: v[:2] if isinstance(v, Tensor) and v.ndim else v, part), data


def _curves(analysis: Analysis, calibration: Data, batch_size: int, probes: int, seed: int) -> dict[int, Curve]:
    """Order of removal and growth of the output's error for every group."""
    groups = analysis.groups
    flow = groups.flow
    walker = Walker(flow.traced.module)
    every = np.ones(len(groups.component), dtype=bool)
    pair = Twin(groups, every, walker, walker, {n: n for n in walker.nodes})
    data = (batch.inputs for batch in calls(calibration, flow.traced, batch_size))
    first = list(islice(data, 1))
    check_scale(walker, norms(flow), first[0])
    ledger = Ledger(pair)

    def plan(samples: int) -> list[Gather]:
        options = Options(seed=seed, samples=samples)
        return [Gather(pair, site, options, ledger) for site in sites(flow) if ledger.wants(site)]

    sweep((walker,), chain(first, data), plan)
    curves = ledger.finished()
    for number, factor in sensitivities(pair, curves, first[0], probes).items():
        curves[number] = curves[number].times(factor)
    return curves


def _scores(analysis: Analysis, curves: dict[int, Curve], cost: str | None) -> dict[int, NDArray[np.float64]]:
    """Rise of the output's error with each unit, per MAC (parameter, …) that it saves; convex along each group."""
    scores = {}
    everything = np.ones(analysis.groups.units, dtype=bool)
    whole = analysis.costs.measure(cost, everything) if cost else 0.0
    for number, curve in curves.items():
        units = analysis.groups.items[number].units
        price = 1.0
        if cost is not None:
            without = everything.copy()
            without[units[0]] = False
            price = max(whole - analysis.costs.measure(cost, without), 1e-9)
        rises = _rising(np.asarray(curve.rises)) / price
        values = np.full(len(units), np.inf)
        values[curve.order] = rises * (1 + 1e-9 * np.arange(1, len(rises) + 1))
        values[np.isinf(values)] = 10 * max(rises.max(initial=0.0), 1e-30)
        scores[number] = values
    return scores


def _rising(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rising sequence nearest to ``values``: neighbours that fall are pooled.

    >>> _rising(np.array([1.0, 3.0, 2.0, 4.0])).tolist()
    [1.0, 2.5, 2.5, 4.0]
    """
    pools: list[tuple[float, int]] = []
    for value in values:
        mean, count = float(value), 1
        while pools and pools[-1][0] > mean:
            before, many = pools.pop()
            mean, count = (before * many + mean * count) / (many + count), many + count
        pools.append((mean, count))
    return np.concatenate([np.full(c, m) for m, c in pools]) if pools else values
