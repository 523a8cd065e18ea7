"""LAMP, the energy model and the criteria of cost, against figures worked out by hand."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import nn
from torch.fx import Node

import secateur
from criteria_cases import CASES
from secateur.core.errors import InputError
from secateur.core.types import Target
from secateur.cost.energy import energy, node_energies
from secateur.criteria.energy import unit_costs
from secateur.cut.analysis import analyse
from secateur.graph.trace import trace
from secateur.graph.traced import Traced
from secateur.timing.layers import operator_times
from zoo import ZOO, settle

MOVED = 200 + 6 + 2


@pytest.mark.parametrize("name", CASES)
def test_lamp_divides_by_the_sum_of_what_is_not_smaller(name: str) -> None:
    case = CASES[name]()
    magnitudes, scores = case.scores("l2"), case.scores("lamp")
    for group, norms in magnitudes.items():
        squares = [float(v) ** 2 for v in norms]
        for unit, own in enumerate(squares):
            larger = sum(v for v in squares if v >= own)
            assert float(scores[group][unit]) == pytest.approx(own / larger, rel=1e-5)


def test_lamp_is_compared_between_groups_as_it_is() -> None:
    model = settle(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 2)))
    x = torch.randn(2, 4)
    kept = secateur.prune(model, x, ratio=0.4, criterion="lamp", scope="global").groups
    found = secateur.criteria.scoring.score(analyse(model, x).groups, "lamp")
    pooled = np.sort(np.concatenate(list(found.values.values())))
    for cut, scores in zip(kept, found.values.values(), strict=True):
        assert cut.kept == int((scores > pooled[5]).sum())  # 40 % of 15 units are 6


def test_slimming_has_one_threshold_for_the_whole_network() -> None:
    model = settle(nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8),
                                 nn.Conv2d(8, 2, 1)))  # fmt: skip
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4, 0.15, 0.25, 0.35, 0.45]))  # type: ignore[operator]
        model[3].weight.copy_(torch.tensor([2.0, 0.5, 0.05, 1.0, 1.0, 1.0, 1.0, 1.0]))  # type: ignore[operator]
    pruned = secateur.prune(model, torch.randn(2, 3, 2, 2), ratio=0.375, criterion="bn_scale", scope="global")
    assert pruned.plan.keep["0.weight"][0] == (3, 6, 7)
    assert pruned.plan.keep["2.weight"][0] == (0, 1, 3, 4, 5, 6, 7)


def test_slimming_leaves_layers_without_batch_norm_whole_and_names_them() -> None:
    model = settle(nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)))
    pruned = secateur.prune(model, torch.randn(2, 4), ratio=0.5, criterion="bn_scale")
    assert [(c.group.name, c.kept) for c in pruned.groups] == [("0", 3), ("2", 8)]
    assert any("no batch normalisation scales the channels of '2'" in note for note in pruned.notes)


# --------------------------------------------------------------------------------------------------------- energy


def test_energy_of_a_convolution_by_hand() -> None:
    conv = nn.Conv2d(3, 8, 3, padding=1)
    found = energy(conv, torch.randn(4, 3, 10, 10))
    macs = 10 * 10 * 9 * 3 * 8
    values = 3 * 100 + 8 * 100 + (9 * 3 * 8 + 8)
    (layer,) = found.layers
    assert (layer.kind, layer.compute) == ("conv2d", macs)
    assert found.total == macs * (1 + 4) + values * MOVED
    assert found.estimated_mj == pytest.approx(found.total * 4.6e-9)


def test_weights_are_shared_by_a_batch_and_zeros_cost_nothing() -> None:
    layer = nn.Linear(10, 20, bias=False)
    alone, shared = (energy(layer, torch.randn(2, 10), batch=b).total for b in (1, 50))
    assert alone - shared == pytest.approx(200 * MOVED * (1 - 1 / 50))
    with torch.no_grad():
        layer.weight[:, ::2] = 0
    assert energy(layer, torch.randn(2, 10)).total == 100 * 5 + (100 + 30) * MOVED


def test_energy_of_a_pruned_network_falls() -> None:
    model, x = ZOO["plain"]()
    pruned = secateur.prune(settle(model), x, target=Target(macs=0.5))
    assert energy(pruned.model, x).total < 0.9 * energy(model, x).total


def test_energy_wants_a_batch() -> None:
    with pytest.raises(InputError, match=r"batch=…\) is at least 1; got 0"):
        energy(nn.Linear(2, 2), torch.zeros(1, 2), batch=0)


# ---------------------------------------------------------------------------------------------------------- shares


@pytest.mark.parametrize("name", ["plain", "residual", "dense_concatenation", "depthwise_multiplier"])
def test_a_units_macs_are_what_goes_with_it(name: str) -> None:
    model, x = ZOO[name]()
    analysis = analyse(settle(model), x)
    everything = np.ones(analysis.groups.units, dtype=bool)
    macs = {n: float(f * np.prod([analysis.costs.sizes(everything)[s] for s in slots], dtype=float))
            for n, (f, slots) in analysis.costs.macs.items()}  # fmt: skip
    shares = unit_costs(analysis.groups, macs)
    dense = analysis.costs.measure("macs", everything)
    for unit in range(analysis.groups.units):
        without = everything.copy()
        without[unit] = False
        gone = dense - analysis.costs.measure("macs", without)
        assert gone <= shares[unit] * (1 + 1e-9)
        assert gone >= shares[unit] * 0.85  # a layer that loses an input and an output loses their crossing once


def test_energy_divides_relative_magnitude_by_relative_energy() -> None:
    case = CASES["flattened"]()
    shares = unit_costs(case.groups, {n: e.total for n, e in node_energies(case.groups).items()})
    magnitudes, scores = case.scores("l2"), case.scores("energy")
    for group in case.groups.items:
        for position, unit in enumerate(group.units):
            relative = float(magnitudes[group.name][position] / magnitudes[group.name].mean())
            expected = relative / (shares[unit] / shares.mean())
            assert float(scores[group.name][position]) == pytest.approx(expected, rel=1e-5)


def test_what_takes_most_energy_goes_first() -> None:
    model = settle(nn.Sequential(nn.Conv2d(3, 10, 5, padding=2), nn.MaxPool2d(8), nn.Flatten(), nn.Linear(40, 30),
                                 nn.ReLU(), nn.Linear(30, 2)))  # fmt: skip
    x = torch.randn(2, 3, 16, 16)
    kept = {c: [cut.kept for cut in secateur.prune(model, x, ratio=0.2, criterion=c, scope="global").groups]
            for c in ("energy", "l2")}  # fmt: skip
    assert kept["energy"][0] < kept["l2"][0]
    assert kept["energy"][1] > kept["l2"][1]


def test_latency_shares_follow_the_measured_times(monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES["flattened"]()

    def measured(traced: Traced) -> Mapping[Node, float]:
        return {n: 3.0 if "linear" in str(n.target) else 1.0 for n in traced.nodes if n.op == "call_function"}

    monkeypatch.setattr("secateur.criteria.energy.operator_times", measured)
    shares = unit_costs(case.groups, measured(case.groups.flow.traced))
    assert shares[0] == pytest.approx(4 / 8 + 1 / 8)  # conv, batch norm, ReLU and pool make it, a conv takes it
    scores, magnitudes = case.scores("latency_share"), case.scores("l2")
    relative = magnitudes["0.conv"] / magnitudes["0.conv"].mean()
    torch.testing.assert_close(scores["0.conv"], relative / shares[:8].mean() * shares.mean(), rtol=1e-5, atol=0)


def test_operators_are_timed_in_the_running_network() -> None:
    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 2, 1))
    traced = trace(model, torch.randn(4, 3, 48, 48))
    threads = torch.get_num_threads()
    times = list(operator_times(traced, rounds=5).values())
    assert len(times) == 3
    assert min(times) > 0
    assert times[0] > times[2]  # 14 times the multiply-accumulates
    assert torch.get_num_threads() == threads
