"""The criterion reconstruction, which knows of a repair: against brute force, and on networks whose answer is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import secateur
from latency_cases import arithmetic  # noqa: F401 (a fixture)
from secateur.core.errors import BudgetError, InputError, PlanError, UnknownNameError
from secateur.criteria.least_squares.elimination import Fit, eliminate


def choose(net: nn.Module, x: Any, **options: Any) -> secateur.Plan:
    """The plan of a cut by reconstruction error."""
    return secateur.prune(net, x[:2], criterion="reconstruction", data=x, **options).plan


def problem(units: int = 5, block: int = 3, outputs: int = 4) -> tuple[Tensor, Tensor]:
    """Correlated columns with a row of ones, and targets."""
    torch.manual_seed(0)
    x = torch.randn(400, units * block).double()
    x[:, block : 2 * block] += x[:, :block]
    y = x @ torch.randn(units * block, outputs).double() + 0.1 * torch.randn(400, outputs)
    return torch.cat([x, torch.ones(400, 1).double()], 1), y


def fit_of(x: Tensor, y: Tensor, units: int, block: int) -> Fit:
    columns = [(u, torch.arange(u * block, (u + 1) * block)) for u in range(units)]
    return Fit.of(x.T @ x, x.T @ y, columns, 1.0)


def residual(x: Tensor, y: Tensor, gone: list[int], block: int) -> float:
    left = [c for c in range(x.shape[1]) if c // block not in gone]
    solution = np.linalg.lstsq(x[:, left].numpy(), y.numpy(), rcond=None)[0]
    return float(np.square(y.numpy() - x[:, left].numpy() @ solution).sum())


def test_rises_are_those_of_refitting_from_scratch() -> None:
    x, y = problem()
    fit, gone = fit_of(x, y, 5, 3), []
    for _ in range(4):
        base = residual(x, y, gone, 3)
        want = [residual(x, y, [*gone, u], 3) - base for u in fit.units]
        assert np.allclose(fit.rises(), want, rtol=5e-3), "the closed form of OBS, also after removals"
        gone.append(fit.units[0])
        fit.remove(gone[-1])


def test_elimination_is_greedy_refitting() -> None:
    x, y = problem()
    order, errors = eliminate([fit_of(x, y, 5, 3)], 5)
    gone: list[int] = []
    for unit, rise in zip(order, errors, strict=True):
        trials = {u: residual(x, y, [*gone, u], 3) for u in range(5) if u not in gone}
        assert unit == min(trials, key=lambda u: trials[u])
        assert rise == pytest.approx(trials[unit] - residual(x, y, gone, 3), rel=5e-3)
        gone.append(unit)


def test_a_channel_that_others_can_replace_goes_first_whatever_its_size() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 5)).eval()
    with torch.no_grad():
        net[0].weight[3] = 5 * net[0].weight[:3].sum(0)
        net[0].bias[3] = 5 * net[0].bias[:3].sum()
    plan = choose(net, torch.randn(256, 6), ratio=0.125)
    (gone,) = set(range(8)) - set(plan.keep["0.weight"][0])
    assert gone in (0, 1, 2, 3), "one of the four that depend on each other"
    assert 3 in secateur.prune(net, torch.randn(2, 6), ratio=0.125).plan.keep["0.weight"][0], "its norm is the largest"


class Two(nn.Module):
    """Two blocks; the second one's inner channels hardly matter."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = (nn.Sequential(nn.Conv2d(4, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 4, 3, padding=1))
                          for _ in range(2))  # fmt: skip
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.a(x)
        x = x + 0.01 * self.b(x)
        return self.head(torch.relu(x).mean((2, 3)))


def test_layers_get_what_the_output_needs() -> None:
    torch.manual_seed(0)
    net, x = Two().eval(), torch.randn(128, 4, 8, 8)
    plan = choose(net, x, target=secateur.Target(macs=87_564), only=["a.0", "b.0"])
    left = {n: len(plan.keep.get(f"{n}.0.weight", {}).get(0, range(16))) for n in ("a", "b")}
    assert left["a"] >= 14
    assert left["b"] <= 5
    pruned = secateur.apply(net, plan, x[:2])
    assert pruned.after.macs == 87_564
    even = choose(net, x, ratio=0.5, scope="local", only=["a.0", "b.0"])
    assert [len(even.keep[f"{n}.0.weight"][0]) for n in ("a", "b")] == [8, 8]


def test_a_chosen_and_repaired_cut_is_better_than_a_repaired_one() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 24, 3), nn.ReLU(), nn.Conv2d(24, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 3)).eval()
    x = torch.randn(128, 3, 10, 10)
    cuts = [
        secateur.prune(net, x[:2], ratio=0.5),
        secateur.prune(net, x[:2], ratio=0.5, criterion="reconstruction", data=x),
    ]
    fresh = torch.randn(64, 3, 10, 10)
    one, two = (
        float((secateur.recover(c, x, dense=net).model(fresh) - net(fresh)).detach().square().mean()) for c in cuts
    )
    assert two < 0.8 * one


def test_widths_are_multiples_and_groups_keep_what_they_have_to() -> None:
    torch.manual_seed(0)
    net, x = Two().eval(), torch.randn(64, 4, 8, 8)
    plan = choose(net, x, ratio=0.5, round_to=4, min_units=4, only=["a.0", "b.0"])
    widths = [len(plan.keep.get(f"{n}.0.weight", {}).get(0, range(16))) for n in ("a", "b")]
    assert all(w % 4 == 0 and w >= 4 for w in widths)
    assert sum(widths) == 16


def test_the_same_data_gives_the_same_plan() -> None:
    torch.manual_seed(0)
    net, x = Two().eval(), torch.randn(64, 4, 8, 8)
    plans = [choose(net, x, ratio=0.4, seed=3).to_json() for _ in range(2)]
    assert plans[0] == plans[1]


def test_a_latency_is_met_by_what_the_output_feels_least(arithmetic: Callable[..., str]) -> None:  # noqa: F811
    torch.manual_seed(0)
    net, x = Two().eval(), torch.randn(128, 4, 8, 8)
    target = secateur.Target(latency=0.6, runtime=arithmetic())
    plan = choose(net, x, target=target, only=["a.0", "b.0"])
    found = plan.provenance["latency"]
    assert found["reached"] == pytest.approx(0.6, rel=0.05)
    assert (plan.provenance["round_to"], plan.provenance["scope"]) == (2, None)
    pruned = secateur.apply(net, plan, x[:2])
    assert "where 60.0% was asked for" in pruned.notes[0]
    assert pruned.after.macs / pruned.before.macs == pytest.approx(found["reached"], rel=1e-3)
    left = [len(plan.keep.get(f"{n}.0.weight", {}).get(0, range(16))) for n in ("a", "b")]
    assert left[0] >= 14
    assert left[1] <= 6
    even = choose(net, x, target=target, only=["a.0", "b.0"], scope="local")
    assert even.provenance["latency"]["score_kept"] < found["score_kept"]
    again = secateur.Plan.from_json(plan.to_json())
    assert again.provenance["latency"] == found
    for damaged in ({}, [1], {**found, "reached": "half"}, {**found, "wanted": 0}):
        bad = replace(again, provenance={**again.provenance, "latency": damaged})
        with pytest.raises(PlanError, match="record of a latency is damaged"):
            secateur.apply(net, bad, x[:2])


def test_a_latency_out_of_reach_is_refused(arithmetic: Callable[..., str]) -> None:  # noqa: F811
    net, x = Two().eval(), torch.randn(64, 4, 8, 8)
    with pytest.raises(BudgetError, match="the narrowest network takes"):
        choose(net, x, target=secateur.Target(latency=0.01, runtime=arithmetic()))
    with pytest.raises(UnknownNameError, match="Did you mean 'onnxruntime'"):
        choose(net, x, target=secateur.Target(latency=0.5, runtime="onnxrunt"))


def test_bad_settings_are_refused() -> None:
    net, x = Two().eval(), torch.randn(8, 4, 8, 8)
    with pytest.raises(InputError, match="Give one aim"):
        choose(net, x)
    with pytest.raises(InputError, match=r"\[0, 1\)"):
        choose(net, x, ratio=1.5)
    with pytest.raises(BudgetError, match="no free group"):
        choose(nn.Sequential(nn.Linear(4, 4)), torch.randn(8, 4), ratio=0.5)


def test_pooling_of_falling_costs_keeps_the_sum() -> None:
    from secateur.criteria.reconstruction import _rising

    values = np.random.default_rng(0).random(50)
    pooled = _rising(values)
    assert all(a <= b for a, b in pairwise(pooled))
    assert pooled.sum() == pytest.approx(values.sum())


def test_a_plan_by_reconstruction_says_how_it_was_made() -> None:
    torch.manual_seed(0)
    net, x = Two().eval(), torch.randn(64, 4, 8, 8)
    found = choose(net, x, macs=0.5, only=["a.0", "b.0"]).provenance
    assert {k: found[k] for k in ("criterion", "scope", "target", "ratio", "of")} == {
        "criterion": "reconstruction", "scope": "global", "target": {"macs": 0.5}, "ratio": None, "of": "current",
    }  # fmt: skip


def test_it_is_a_criterion_like_any_other() -> None:
    torch.manual_seed(0)
    net, x = Two().eval(), torch.randn(64, 4, 8, 8)
    pruned = secateur.prune(net, x[:2], ratio=0.5, criterion="reconstruction", data=iter(x.split(16)), groups=["a.0"])
    assert {c.group.name: c.kept for c in pruned.groups if c.kept < len(c.group)} == {"a.0": 8}
    assert pruned.verification is not None
    assert pruned.verification.max_relative_error < 1e-9
    with pytest.raises(InputError, match="'reconstruction' needs calibration data"):
        secateur.prune(net, x[:2], ratio=0.5, criterion="reconstruction")
    by_layer = choose(net, x, ratio={"a.0": 0.25, "b.0": 0.5})
    assert [len(by_layer.keep[f"{n}.0.weight"][0]) for n in ("a", "b")] == [12, 8]


class _TwoHeads(nn.Module):
    """A detector in small: scores in 0…1 and boxes in hundreds of pixels, each with hidden channels of its own."""

    def __init__(self, joined: bool) -> None:
        super().__init__()
        self.scores = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 1), nn.Sigmoid())
        self.boxes = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1))
        self.joined = joined

    def forward(self, x: Tensor) -> Any:
        found = self.scores(x), 300 * self.boxes(x)
        return torch.cat(found, 1) if self.joined else found


def test_maps_that_are_joined_to_one_output_count_like_several_outputs() -> None:
    torch.manual_seed(0)
    apart, x = _TwoHeads(joined=False).eval(), torch.randn(32, 3, 6, 6)
    joined = _TwoHeads(joined=True).eval()
    joined.load_state_dict(apart.state_dict())
    cuts = [secateur.prune(net, x[:2], criterion="reconstruction", data=x, ratio=0.5).model for net in (apart, joined)]
    widths = [[net.get_submodule(f"{head}.0").out_channels for head in ("scores", "boxes")] for net in cuts]
    assert widths[0] == widths[1], "else the scores, whose numbers are small, would lose all their channels first"
    assert min(widths[1]) > 1
