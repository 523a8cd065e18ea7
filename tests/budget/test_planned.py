"""Planned cuts against the cuts that prune makes, and estimates of latency against arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import secateur
from latency_cases import arithmetic, chain, residual, seconds_by_macs  # noqa: F401 (a fixture)
from secateur.budget.latency import setting_of
from secateur.budget.latency.estimate import estimated
from secateur.budget.planned import PlannedCut, planned_cuts
from secateur.core.types import ExampleInputs, Target
from secateur.cost.counts import Costs
from secateur.criteria.scoring import score
from secateur.cut.analysis import analyse
from tiny_networks import Blocks


def planned(
    model: nn.Module, x: ExampleInputs, scope: str = "local", round_to: int = 1
) -> tuple[Costs, tuple[PlannedCut, ...]]:
    analysis = analyse(model, x)
    return analysis.costs, planned_cuts(analysis.costs, score(analysis.groups, "l2"), scope=scope, round_to=round_to)


@pytest.mark.parametrize("scope", ["local", "global"])
def test_a_point_is_what_prune_makes_of_the_same_budget(scope: str, tmp_path: Path) -> None:
    model, x = residual()
    _, points = planned(model, x, scope)
    assert points[0].macs == secateur.count(model, x).macs
    for point in (points[5], points[-1]):
        pruned = secateur.prune(model, x, macs=point.asked, scope=scope)
        assert (pruned.after.macs, pruned.after.params) == (point.macs, point.params)
        assert sorted(cut.kept for cut in pruned.groups) == sorted(point.widths)
        pruned.save(tmp_path / f"{point.macs}", graph=False)
        assert (tmp_path / f"{point.macs}" / "model.safetensors").stat().st_size == point.size


def test_points_go_down_in_even_steps_to_the_smallest_network() -> None:
    _, points = planned(*chain(64, 64, 64))
    shares = [point.asked for point in points[:-1]]
    assert shares == [round(1 - 0.05 * k, 2) for k in range(len(shares))]
    assert len(points) == 21
    assert points[-1].widths == (1, 1, 1)
    macs = [point.macs for point in points]
    assert macs == sorted(macs, reverse=True)


def test_where_widths_are_coarse_the_nearest_below_is_taken_and_can_be_asked_for() -> None:
    model, x = chain(8, 8)
    _, points = planned(model, x, round_to=4)
    assert [point.widths for point in points] == [(8, 8), (8, 4), (4, 8), (4, 4)]
    for point in points[1:]:
        assert point.macs <= point.asked * (points[0].macs if point.asked <= 1 else 1)
        assert secateur.prune(model, x, macs=point.asked, round_to=4).after.macs == point.macs


def test_a_network_of_which_nothing_may_go_has_one_point() -> None:
    _, points = planned(nn.Linear(4, 3), torch.zeros(2, 4))
    assert [(point.macs, point.params, point.widths) for point in points] == [(12, 15, ())]


def test_an_estimate_is_the_dense_time_by_the_share_of_the_layers(arithmetic: Callable[..., str]) -> None:  # noqa: F811
    model, x = chain(16, 32, 32)
    costs, points = planned(model, x, round_to=2)
    setting = setting_of(Target(latency=1.0, runtime=arithmetic()))
    found = estimated(costs, setting, (model, x), points[-1].keep)
    dense = 1e3 * seconds_by_macs(model, x[:1])
    assert found.dense_ms == pytest.approx(dense)
    assert found.ms(np.ones_like(points[0].keep)) == pytest.approx(dense)
    for point in points[::4]:
        pruned = secateur.prune(model, x, macs=point.asked, round_to=2)
        assert found.ms(point.keep) == pytest.approx(1e3 * seconds_by_macs(pruned.model, x[:1]), rel=0.02)


def test_streams_keep_one_width() -> None:
    _, points = planned(Blocks().eval(), torch.randn(2, 1, 12, 12))
    assert len(points) > 8
    assert len({len(point.widths) for point in points}) == 1
