"""Unusual networks: an exact outcome, or a clear error that names the module."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import secateur
from secateur.core.errors import InputError, SecateurError
from zoo import Lambda, conv, pooled, settle

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(5))


def mlp(**options: Any) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8, **options), nn.ReLU(), nn.Linear(8, 2, **options))


def exact(model: nn.Module, x: Any) -> secateur.Pruned:
    pruned = secateur.prune(settle(model), x, ratio=0.5)
    assert pruned.verification is not None
    assert pruned.verification.max_relative_error <= 1e-5
    assert pruned.after.params < pruned.before.params
    return pruned


def test_writing_into_slices() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.a(x).clone()
        x[:, 0] = 0
        x[:, 2:5].mul_(2)
        return m.fc(pooled(m.b(x)))

    exact(Lambda(run, a=conv(3, 8), b=conv(8, 8), fc=nn.Linear(8, 4)), X)


def test_filling_an_empty_tensor() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        y = torch.zeros(x.shape[0], 8, 8, 8)
        y[:, :4], y[:, 4:] = m.a(x), m.b(x)
        return m.fc(pooled(m.c(y)))

    exact(Lambda(run, a=conv(3, 4), b=conv(3, 4), c=conv(8, 8), fc=nn.Linear(8, 4)), X)


class Changing(nn.Module):
    """Counts its calls, keeps a running mean and clips its own weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        with torch.no_grad():
            self.a.weight.clamp_(-0.1, 0.1)
        y = torch.relu(self.a(x))
        self.mean.mul_(0.9).add_(y.mean((0, 2, 3)), alpha=0.1)
        return self.fc(pooled(y) + self.mean)


def test_a_module_that_changes_itself_is_exact_and_left_alone() -> None:
    model = settle(Changing())
    before = {n: t.clone() for n, t in model.state_dict().items()}
    pruned = secateur.prune(model, X, ratio=0.5)
    assert pruned.verification is not None
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.complex64, torch.float64, torch.bfloat16])
def test_other_types(dtype: torch.dtype) -> None:
    class Modulus(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 8, dtype=dtype), nn.Linear(8, 2, dtype=dtype))

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x).abs()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pruned = exact(Modulus(), torch.randn(2, 4).to(dtype))
    assert pruned.model.get_parameter("net.0.weight").dtype == dtype


def test_integer_weights() -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randint(-3, 3, (8, 4)), requires_grad=False)
            self.between, self.last = nn.Linear(8, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.between(F.linear(x, self.weight.float())).relu())

    pruned = exact(Whole(), torch.randn(2, 4))
    assert pruned.model.get_parameter("weight").dtype == torch.int64
    assert "weight" not in pruned.plan.keep  # whole numbers are not cut as if they were weights
    assert pruned.plan.keep["between.weight"].keys() == {0}


def test_frozen_networks_stay_frozen() -> None:
    pruned = exact(mlp().requires_grad_(False), torch.randn(2, 4))
    assert not any(p.requires_grad for p in pruned.model.parameters())


def test_old_weight_norm() -> None:
    model = nn.Sequential(conv(3, 8), conv(8, 8), nn.Flatten(), nn.Linear(8 * 64, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nn.utils.weight_norm(model[0][0])  # type: ignore[index]
    exact(model, X)


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile])
def test_wrapped_networks(wrap: Any) -> None:
    exact(wrap(mlp()), torch.randn(2, 4))


def quantised() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(mlp(), {nn.Linear}, dtype=torch.qint8)


@pytest.mark.parametrize(
    ("make", "x", "words"),
    [
        (quantised, torch.zeros(2, 4), r"module '0' is quantised"),
        (lambda: torch.jit.script(mlp()), torch.zeros(2, 4), "scripted"),
        (lambda: nn.Sequential(nn.LazyLinear(8), nn.Linear(8, 2)), torch.zeros(2, 4), r"'0\.weight' has no shape yet"),
        (mlp, torch.zeros(2, 4, device="meta"), r"inputs.* are on 'meta', the weights .* on 'cpu'"),
        (lambda: 3, torch.zeros(2, 4), "torch.nn.Module or a Pruned; got 3"),
    ],
)
def test_what_cannot_be_pruned_is_named(make: Any, x: Tensor, words: str) -> None:
    with pytest.raises(InputError, match=words):
        secateur.prune(make(), x, ratio=0.5)


def test_a_network_without_parameters() -> None:
    with pytest.raises(SecateurError, match="Nothing can be pruned"):
        secateur.prune(nn.ReLU(), torch.randn(2, 4), ratio=0.5)
