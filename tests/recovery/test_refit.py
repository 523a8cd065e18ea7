"""What a repair writes into the layers, against explicit design matrices and hand computation."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import secateur
from secateur.criteria.least_squares.affine import Options
from secateur.cut.pruned import Pruned

KINDS: dict[str, Any] = {
    "conv": lambda n: nn.Conv2d(n, 5, 3),
    "padded": lambda n: nn.Conv2d(n, 5, 3, padding=1),
    "strided": lambda n: nn.Conv2d(n, 5, 3, stride=2, padding=1),
    "dilated": lambda n: nn.Conv2d(n, 5, 3, dilation=2, padding=2),
    "transposed": lambda n: nn.ConvTranspose2d(n, 5, 3, stride=2, padding=1, output_padding=1),
    "no_bias": lambda n: nn.Conv2d(n, 5, 3, bias=False),
    "one_by_one": lambda n: nn.Conv2d(n, 5, 1),
}


def cut(net: nn.Module, x: Tensor, **options: Any) -> Pruned:
    return secateur.prune(net.eval(), x[:2], ratio=0.5, **options)


def design(layer: nn.Module, x: Tensor) -> np.ndarray[Any, Any]:
    """One column per weight of one output: the layer's answer when that weight alone is 1."""
    inner = layer.weight.shape[:1] if isinstance(layer, nn.ConvTranspose2d) else layer.weight.shape[1:2]
    shape = (*inner, *layer.weight.shape[2:])
    columns = []
    for k in range(int(np.prod(shape))):
        one = torch.zeros(int(np.prod(shape)), dtype=x.dtype)
        one[k] = 1
        weight = torch.zeros_like(layer.weight.detach())
        kernel = one.reshape(shape)
        if isinstance(layer, nn.ConvTranspose2d):
            weight[:, 0] = kernel
        else:
            weight[0] = kernel
        probe = torch.func.functional_call(layer, {"weight": weight, **_no_bias(layer)}, (x,))
        columns.append(probe[:, 0].detach().reshape(-1).numpy())
    return np.stack(columns, 1)


def _no_bias(layer: nn.Module) -> dict[str, Tensor]:
    return {} if layer.bias is None else {"bias": torch.zeros_like(layer.bias)}


@pytest.mark.parametrize("kind", KINDS)
def test_least_squares_is_numpys(kind: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), KINDS[kind](8)).double()
    x = torch.randn(24, 3, 7, 7).double()
    pruned = cut(net, x)
    fixed = secateur.recover(pruned, x, dense=net, ridge=0.0)
    layer, given = fixed.model[2], fixed.model[:2](x).detach()
    matrix = design(layer, given)
    if layer.bias is not None:
        matrix = np.concatenate([matrix, np.ones((len(matrix), 1))], 1)
    target = net(x).detach().transpose(0, 1).flatten(1).numpy().T
    want = np.linalg.lstsq(matrix, target, rcond=None)[0]
    transposed = isinstance(layer, nn.ConvTranspose2d)
    got = (layer.weight.transpose(0, 1) if transposed else layer.weight).detach().flatten(1).numpy().T
    assert np.allclose(got, want[: len(got)], atol=1e-7)
    if layer.bias is not None:
        assert np.allclose(layer.bias.detach().numpy(), want[-1], atol=1e-7)


@pytest.mark.parametrize("groups", [2, 4])
def test_each_group_of_a_grouped_convolution_is_fitted_on_its_own_inputs(groups: int) -> None:
    torch.manual_seed(0)
    first, grouped = nn.Conv2d(3, 8, 1), nn.Conv2d(4, 4, 3, groups=groups)
    net = nn.Sequential(first, nn.Tanh(), nn.Conv2d(8, 4, 1), nn.Tanh(), grouped).double()
    x = torch.randn(24, 3, 6, 6).double()
    pruned = cut(net, x, only=["0"])
    fixed = secateur.recover(pruned, x, dense=net, ridge=0.0)
    given, want, size = fixed.model[:4](x).detach(), net(x).detach(), 4 // groups
    for g in range(groups):
        patches = F.unfold(given[:, g * size : (g + 1) * size], 3).transpose(1, 2).reshape(-1, 9 * size).numpy()
        matrix = np.concatenate([patches, np.ones((len(patches), 1))], 1)
        for o in range(size):
            target = want[:, g * size + o].reshape(-1).numpy()
            expected = np.linalg.lstsq(matrix, target, rcond=None)[0]
            row = fixed.model[4].weight[g * size + o].detach().reshape(-1).numpy()
            assert np.allclose(row, expected[:-1], atol=1e-7)


def test_channels_that_are_combinations_of_kept_ones_are_recovered_exactly() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)).double()
    with torch.no_grad():  # the four small ones are combinations of the four large ones
        mix = torch.rand(4, 4).double() * 0.1
        net[0].weight[4:] = torch.einsum("ij,jabc->iabc", mix, net[0].weight[:4])
        net[0].bias[4:] = mix @ net[0].bias[:4]
        net[1].weight[:, 4:] *= 0.1
    x = torch.randn(40, 3, 8, 8).double()
    pruned = cut(net, x)
    assert pruned.plan.keep["0.weight"][0] == (0, 1, 2, 3)
    error = (pruned.model(x) - net(x)).detach().abs().max()
    fixed = secateur.recover(pruned, x, dense=net, ridge=1e-12)
    assert float(error) > 1e-2
    assert float((fixed.model(x) - net(x)).detach().abs().max()) < 1e-6


def test_one_factor_per_channel_is_thinets() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).double()
    x = torch.randn(30, 3, 8, 8).double()
    pruned = cut(net, x)
    fixed = secateur.recover(pruned, x, dense=net, method="scale", ridge=1e-12)
    given = fixed.model[:2](x).detach()
    parts = [F.conv2d(given[:, c : c + 1], pruned.model[2].weight[:, c : c + 1]).detach() for c in range(4)]
    z = torch.stack(parts).flatten(1).T.numpy()
    target = (net(x) - pruned.model[2].bias[None, :, None, None]).detach().flatten().numpy()
    factors = np.linalg.lstsq(z, target, rcond=None)[0]
    want = pruned.model[2].weight.detach() * torch.tensor(factors)[None, :, None, None]
    assert torch.allclose(fixed.model[2].weight, want, atol=1e-6)
    assert torch.equal(fixed.model[2].bias, pruned.model[2].bias)


def test_the_bias_takes_what_removed_channels_bring_on_average() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 4))
    x = torch.randn(64, 3)
    pruned = cut(net, x)
    gone = sorted(set(range(8)) - set(pruned.plan.keep["0.weight"][0]))
    mean = torch.relu(net[0](x)).mean(0)[gone]
    want = net[2].bias + net[2].weight[:, gone] @ mean
    fixed = secateur.recover(pruned, x, dense=net, method="bias")
    assert torch.allclose(fixed.model[2].bias, want, atol=1e-5)
    assert torch.equal(fixed.model[2].weight, pruned.model[2].weight)


def test_statistics_are_those_of_the_calibration_data() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.BatchNorm2d(6))
    x = torch.randn(32, 3, 8, 8)
    fixed = secateur.recover(cut(net, x), x, dense=net, method="batch_norm").model
    seen = fixed[:4](x)
    assert torch.allclose(fixed[4].running_mean, seen.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(fixed[4].running_var, seen.transpose(0, 1).flatten(1).var(1), rtol=1e-4)


def test_training_starts_from_the_network_that_was_fitted() -> None:
    """Running statistics are what the new weights give, so train and eval mode compute the same on this data."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.BatchNorm2d(6))
    x = torch.randn(64, 3, 8, 8)
    net.train()
    for _ in range(60):
        net(x)
    pruned = cut(net, x)
    fixed = secateur.recover(pruned, x, dense=net).model
    still = fixed.eval()(x)
    assert torch.allclose(fixed.train()(x), still, atol=2e-2 * float(still.detach().abs().max()))
    assert not torch.allclose(pruned.model.train()(x), pruned.model.eval()(x), atol=1e-1)


class Kept:
    """What a network gives beside its output: keys and values for its next call."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.keys, self.values = keys, values


class GivesACache(nn.Module):
    """As language models do: scores, and an object that holds tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(4, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> dict[str, Any]:
        h = self.inner(x).relu()
        return {"scores": self.out(h), "cache": Kept(2 * x, x + 1)}


def test_a_network_that_gives_a_cache_is_repaired() -> None:
    net, x = GivesACache().eval(), torch.randn(128, 4)
    pruned = secateur.prune(net, x[:2], ratio=0.5)
    repaired = secateur.recover(pruned, x)
    want, before, after = (found(x)["scores"] for found in (net, pruned.model, repaired.model))
    assert (after - want).norm() < (before - want).norm()


class Block(nn.Module):
    """f(branch(x) + skip(x)): what f hides depends on the sum, not on the branch alone."""

    def __init__(self, after: nn.Module, *, residual: bool) -> None:
        super().__init__()
        self.skip = nn.Conv2d(3, 6, 1)
        self.one, self.two = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 6, 1)
        self.after, self.residual = after, residual

    def forward(self, x: Tensor) -> Tensor:
        skip = 2 * self.skip(x) + 1
        y = self.two(torch.tanh(2 * self.one(x)))
        return self.after(y + skip if self.residual else y)


SEEN = {"relu": nn.ReLU(), "relu6": nn.ReLU6(), "hardtanh": nn.Hardtanh(-0.5, 0.25)}


@pytest.mark.parametrize("residual", [False, True], ids=["plain", "residual"])
@pytest.mark.parametrize("after", SEEN)
def test_what_is_hidden_needs_no_fit(after: str, residual: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net = Block(SEEN[after], residual=residual).double().eval()
    net.two.weight.data *= 3
    x = torch.randn(24, 3, 5, 5).double()
    pruned = secateur.prune(net, x[:2], ratio=0.75, only="one*")
    errors = []
    for rounds in (0, 1, 2):
        monkeypatch.setattr("secateur.recovery.api.Options", partial(Options, rounds=rounds))
        fixed = secateur.recover(pruned, x, dense=net, ridge=0.0)
        with torch.no_grad():
            apart = fixed.model(x) - net(x)
        errors.append(float(apart.square().sum()))
    assert errors[1] < 0.995 * errors[0]
    assert errors[2] < 0.995 * errors[0]


@pytest.mark.parametrize("norm", [False, True])
def test_responses_get_the_variance_of_the_dense_ones(norm: bool) -> None:
    torch.manual_seed(0)
    last = [nn.Conv2d(24, 5, 1), *([nn.BatchNorm2d(5)] if norm else [])]
    net = nn.Sequential(nn.Conv2d(3, 24, 3), nn.Tanh(), *last).double()
    x = torch.randn(64, 3, 6, 6).double()
    for _ in range(20):
        net.train()(x)
    net.eval()
    pruned = secateur.prune(net, x[:2], ratio=0.75, only="0*")
    plain, wide = (secateur.recover(pruned, x, match_variance=wide).model(x).transpose(0, 1).flatten(1)
                   for wide in (False, True))  # fmt: skip
    want = net(x).transpose(0, 1).flatten(1)
    assert (plain.std(1) < 0.9 * want.std(1)).any()
    assert torch.allclose(wide.std(1), want.std(1), rtol=1e-4)
    assert torch.allclose(wide.mean(1), want.mean(1), atol=1e-4)
    assert (plain - want).norm() < (wide - want).norm()
