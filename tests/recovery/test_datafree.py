"""Repair without data: expectations of batch-normalised channels, and channels that resemble each other."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import secateur
from secateur.recovery.datafree import _factors


@pytest.fixture
def net() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(),
                        nn.Flatten(), nn.Linear(6 * 16, 4))  # fmt: skip
    with torch.no_grad():
        net[1].weight.uniform_(0.5, 1.5)
        net[1].bias.normal_()
    net.train()
    for _ in range(80):
        net(torch.randn(64, 3, 8, 8))
    return net.eval()


def test_the_expectation_of_a_rectified_gaussian_goes_into_the_bias(net: nn.Sequential) -> None:
    pruned = secateur.prune(net, torch.randn(2, 3, 8, 8), ratio=0.5, only=["0"])
    fixed = secateur.recover(pruned, dense=net, method="bias")
    gone = sorted(set(range(8)) - set(pruned.plan.keep["0.weight"][0]))
    want = net[3].bias.detach().clone()
    for c in gone:
        mean, std = float(net[1].bias[c]), float(net[1].weight[c])
        phi = math.exp(-0.5 * (mean / std) ** 2) / math.sqrt(2 * math.pi)
        expected = mean * 0.5 * (1 + math.erf(mean / std / math.sqrt(2))) + std * phi
        want += net[3].weight[:, c].detach().sum((1, 2)) * expected
    assert torch.allclose(fixed.model[3].bias, want, atol=2e-2)


def test_it_comes_near_to_what_data_would_give(net: nn.Sequential) -> None:
    x = torch.randn(256, 3, 8, 8)
    pruned = secateur.prune(net, x[:2], ratio=0.5, only=["0"])
    free = secateur.recover(pruned, dense=net, method="bias").model[3].bias
    measured = secateur.recover(pruned, x, dense=net, method="bias").model[3].bias
    old = pruned.model[3].bias
    assert float((free - measured).detach().norm()) < 0.1 * float((old - measured).detach().norm())


def test_multiples_of_kept_channels_are_merged_exactly(net: nn.Sequential) -> None:
    with torch.no_grad():  # channels 0…3 are positive multiples of 4…7, so that ReLU lets the factor through
        scale = net[1].weight / (net[1].running_var + net[1].eps).sqrt()
        factors = torch.tensor([0.1, 0.2, 0.05, 0.15])
        net[0].weight[:4] = net[0].weight[4:] * (factors * scale[4:] / scale[:4])[:, None, None, None]
        shift = net[1].bias + (net[0].bias - net[1].running_mean) * scale
        net[1].bias[:4] = factors * shift[4:] - (net[0].bias - net[1].running_mean)[:4] * scale[:4]
        net[3].weight[:, :4] *= 0.2
    pruned = secateur.prune(
        net, torch.randn(2, 3, 8, 8), ratio=0.5, only=["0"], criterion=lambda view: torch.arange(float(len(view)))
    )
    assert pruned.plan.keep["0.weight"][0] == (4, 5, 6, 7)
    x = torch.randn(32, 3, 8, 8)
    assert not torch.allclose(pruned.model(x), net(x), atol=1e-3)
    for data in (None, x):
        assert torch.allclose(secateur.recover(pruned, data, dense=net, method="merge").model(x), net(x), atol=1e-4)


def test_channels_that_resemble_none_are_not_merged() -> None:
    filters = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0], [0.0, 3.0, 0.3, 0.0]]).double()
    kept = torch.tensor([True, False, True])
    (row,) = _factors(filters, kept)
    assert row[0] == 0
    assert row[1] == pytest.approx(2 / math.hypot(3, 0.3))
    assert (_factors(filters, torch.tensor([False, True, True])) == 0).all()


def test_layers_that_cannot_be_treated_are_named() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.c(torch.relu(self.a(x) + self.b(x)))

    net = Sum()
    fixed = secateur.recover(secateur.prune(net, torch.randn(2, 4), ratio=0.5), dense=net, method="merge")
    assert any(note.startswith("c: its inputs do not come straight") for note in fixed.notes)
