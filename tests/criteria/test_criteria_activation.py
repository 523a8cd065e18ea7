"""Activation criteria against counts over what the ReLU modules give."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import secateur
from criteria_cases import CASES, by_channel
from secateur.core.errors import InputError
from zoo import settle


@pytest.mark.parametrize("name", CASES)
def test_apoz_counts_zeros_behind_every_relu(name: str) -> None:
    case = CASES[name]()
    images = case.images()
    scores = case.scores("apoz", images)
    for group, relus in case.relus.items():
        seen = case.seen(relus, images)
        for unit in range(case.units[group]):
            shares = []
            for relu in relus:
                channel = seen[relu][:, unit].flatten().tolist()
                shares.append(sum(v == 0 for v in channel) / len(channel))
            assert scores[group][unit] == pytest.approx(1 - sum(shares) / len(shares), abs=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_mean_activation_is_the_mean_behind_every_relu(name: str) -> None:
    case = CASES[name]()
    images = case.images()
    scores = case.scores("mean_activation", images)
    for group, relus in case.relus.items():
        seen = case.seen(relus, images)
        means = torch.stack([by_channel(seen[r], case.units[group]).double().mean(1) for r in relus])
        torch.testing.assert_close(scores[group], means.mean(0), rtol=1e-6, atol=0)


def test_neurons_of_a_flattened_map_count_as_positions_of_their_channel() -> None:
    model = settle(nn.Sequential(nn.Conv2d(1, 3, 1), nn.Flatten(), nn.ReLU(), nn.Linear(3 * 4, 2)))
    images = torch.randn(9, 1, 2, 2)
    plan = secateur.prune(model, images[:2], ratio=0.4, criterion="apoz", data=images).plan
    alive = (model[:3](images).reshape(9, 3, 4) > 0).double().mean((0, 2))  # type: ignore[index]
    assert plan.keep["0.weight"][0] == tuple(sorted(alive.topk(2).indices.tolist()))


def test_in_place_and_functional_activations_count_too() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.c(self.b(self.a(x).relu_()).clamp(min=0))  # type: ignore[no-any-return]

    model, x = settle(Net()), torch.randn(20, 4)
    scored = secateur.criteria.scoring.score(secateur.analyse(model, x).groups, "apoz", data=x)
    first = (model.a(x) > 0).double().mean(0)  # type: ignore[operator]
    torch.testing.assert_close(torch.from_numpy(scored.values[0]), first)
    assert len(scored.values) == 2
    assert scored.notes == ()


@pytest.mark.parametrize("name", CASES)
def test_variance_is_the_variance_behind_every_relu(name: str) -> None:
    case = CASES[name]()
    images = case.images()
    scores = case.scores("variance", images)
    for group, relus in case.relus.items():
        seen = case.seen(relus, images)
        found = [by_channel(seen[r], case.units[group]).double().var(1, correction=0) for r in relus]
        torch.testing.assert_close(scores[group], torch.stack(found).mean(0), rtol=1e-5, atol=1e-9)


def test_groups_that_no_relu_follows_stay_whole_and_are_named() -> None:
    model = settle(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.GELU(), nn.Linear(6, 2)))
    pruned = secateur.prune(model, torch.randn(2, 4), ratio=0.5, criterion="apoz", data=torch.randn(30, 4))
    assert [(c.group.name, c.kept) for c in pruned.groups] == [("0", 4), ("2", 6)]
    assert any("left whole" in note and "no ReLU follows the channels of '2'" in note for note in pruned.notes)


def test_a_network_without_relu_is_refused() -> None:
    model = settle(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)))
    with pytest.raises(InputError, match=r"'apoz' has nothing to score.*no ReLU follows the channels of '0'"):
        secateur.prune(model, torch.randn(2, 4), ratio=0.5, criterion="apoz", data=torch.randn(30, 4))


def test_mean_activation_without_activation_function_takes_the_layers_output() -> None:
    model = settle(nn.Sequential(nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)))
    images = torch.randn(5, 2, 3, 3)
    plan = secateur.prune(model, images[:2], ratio=0.5, criterion="mean_activation", data=images).plan
    strength = model[:2](images).abs().mean((0, 2, 3))  # type: ignore[index]
    assert plan.keep["0.weight"][0] == tuple(sorted(strength.topk(2).indices.tolist()))
