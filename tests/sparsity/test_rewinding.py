"""Rewinding equals slicing by hand; fresh weights are those of a new network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import secateur
from secateur.core.errors import InputError, WeightsError
from secateur.models import create
from secateur.sparsity.rewinding import Snapshot, fresh, rewind, sliced

IMAGES = torch.zeros(2, 1, 8, 8)


def test_rewinding_equals_slicing_by_hand() -> None:
    early, late = (nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)) for _ in range(2))
    with torch.no_grad():
        late[0].weight.mul_(torch.tensor([[3.0], [0.1], [2.0], [0.1], [4.0]]))  # units 1 and 3 go
    pruned = secateur.prune(late, torch.zeros(1, 4), ratio=0.4, criterion="l2")
    back = rewind(pruned.model, early.state_dict(), pruned.plan)
    kept = [0, 2, 4]
    assert torch.equal(back[0].weight, early[0].weight[kept])
    assert torch.equal(back[0].bias, early[0].bias[kept])
    assert torch.equal(back[2].weight, early[2].weight[:, kept])
    assert torch.equal(back[2].bias, early[2].bias)
    assert not torch.equal(pruned.model[0].weight, back[0].weight), "the pruned network is left as it was"


def test_a_network_cut_twice_is_sliced_in_the_first_networks_indices() -> None:
    early, late = create("resnet_digits"), create("resnet_digits")
    once = secateur.prune(late, IMAGES, ratio=0.3, criterion="random")
    twice = secateur.prune(once.model, IMAGES, ratio=0.3, criterion="random", seed=1)
    # the same cuts of the early network itself, one after the other
    step = secateur.apply(early, once.plan, IMAGES)
    wanted = secateur.apply(step.model, twice.plan.parts[-1], IMAGES).model.state_dict()
    found = sliced(early.state_dict(), twice.plan, twice.model)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_masked_weights_stay_zero() -> None:
    early, late = nn.Linear(3, 2), nn.Linear(3, 2)
    mask = torch.tensor([[True, False, True], [False, True, True]])
    back = rewind(late, early.state_dict(), masks={"weight": mask})
    assert torch.equal(back.weight, early.weight * mask)
    assert torch.equal(back.bias, early.bias)


def test_early_weights_that_do_not_fit_are_refused() -> None:
    late = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    pruned = secateur.prune(late, torch.zeros(1, 4), ratio=0.4)
    with pytest.raises(WeightsError, match=r"'0.weight'.*which the pruned network has"):
        rewind(pruned.model, {}, pruned.plan)
    other = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    with pytest.raises(WeightsError, match=r"\(6, 4\); the plan counts from \(5, 4\)"):
        rewind(pruned.model, other.state_dict(), pruned.plan)
    with pytest.raises(WeightsError, match="Take the weights of the network that was pruned"):
        rewind(pruned.model, late.state_dict())


def test_fresh_weights_come_from_the_seed_alone() -> None:
    torch.manual_seed(0)
    pruned = secateur.prune(create("resnet_digits"), IMAGES, ratio=0.5, scope="block").model
    pruned.bn1.running_mean.fill_(3.0)
    one, again, other = (fresh(pruned, seed=s).state_dict() for s in (1, 1, 2))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert {n: t.shape for n, t in one.items()} == {n: t.shape for n, t in pruned.state_dict().items()}
    weights = [name for name, p in pruned.named_parameters() if p.ndim > 1]
    assert not any(torch.equal(one[n], other[n]) or torch.equal(one[n], pruned.state_dict()[n]) for n in weights)
    assert one["bn1.running_mean"].abs().max() == 0
    # as PyTorch initialises a convolution of that size: uniform up to 1/√(fan in)
    weight = one["layer3.1.conv1.weight"]
    bound = (weight.shape[1] * 9) ** -0.5
    assert 0.9 * bound < weight.abs().max() <= bound


def test_a_graph_takes_the_kept_entries_of_a_fresh_dense_network() -> None:
    dense = create("resnet_digits")
    pruned = secateur.prune(dense, IMAGES, ratio=0.5, backend="graph")
    new = fresh(pruned.model, seed=3, dense=dense, plan=pruned.plan).state_dict()
    wanted = sliced(fresh(dense, seed=3).state_dict(), pruned.plan, pruned.model)
    assert all(torch.equal(new[name], wanted[name]) for name in wanted)
    with pytest.raises(InputError, match="give the dense network"):
        fresh(pruned.model, seed=3)


def test_parameters_that_nobody_initialises_are_named() -> None:
    class Token(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token, self.fc = nn.Parameter(torch.zeros(3)), nn.Linear(3, 2)

    with pytest.raises(InputError, match=r"token .*reset_parameters"):
        fresh(Token(), seed=0)


def test_a_snapshot_is_taken_after_its_epoch_alone() -> None:
    seen: list[str] = []
    extra = Snapshot({2: lambda model: seen.append(type(model).__name__)})
    for epoch in (1, 2, 3):
        assert extra.epoch(nn.Linear(1, 1), epoch) == {}
        assert len(seen) == (epoch >= 2)
    assert extra.settings()["after"] == [2]
