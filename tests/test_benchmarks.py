"""A few rows of the coverage benchmark, as CI runs them; published methods against their formulas."""

from __future__ import annotations

import importlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import secateur

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks/coverage.py"


@pytest.mark.parametrize(
    "name", ["timm:test_vit", "timm:test_nfnet", "timm:test_efficientnet", "torchvision:shufflenet_v2_x0_5"]
)
def test_networks_come_out_exact(name: str) -> None:
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--one", "secateur", name], capture_output=True, text=True, check=True
    )
    row = json.loads(done.stdout.splitlines()[-1])
    assert row["outcome"] == "exact", row.get("error")
    assert row["difference"] <= 1e-5
    assert row["params_left"] <= 0.6


@pytest.fixture
def field(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    return importlib.import_module("field")


def doubled(*, norm: bool) -> tuple[nn.Sequential, torch.Tensor]:
    """A network whose hidden channels come in pairs of one and the same."""
    torch.manual_seed(0)
    first, last = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 5, 3)
    net = nn.Sequential(first, *([nn.BatchNorm2d(16)] if norm else []), nn.ReLU(), last).double()
    x = torch.randn(32, 3, 8, 8).double()
    with torch.no_grad():
        for tensor in (first.weight, first.bias):
            tensor[8:] = tensor[:8]
        net.train()(x)
    return net.eval(), x


@pytest.mark.parametrize("norm", [False, True])
def test_folding_joins_channels_that_are_the_same(field: Any, norm: bool) -> None:
    net, x = doubled(norm=norm)
    cut = secateur.prune(net, x[:2], ratio=0.5, only="0*")
    assert torch.allclose(field.fold(net, cut)(x), net(x), atol=1e-10)


@pytest.mark.parametrize("affine", [False, True])
def test_grails_map_is_a_ridge_regression(field: Any, affine: bool) -> None:
    hidden = np.random.default_rng(0).normal(size=(50, 6)) + 1
    rows = np.concatenate([hidden, np.ones((50, 1))], 1) if affine else hidden
    kept = [0, 2, 5]
    found = field.hidden_map(torch.from_numpy(rows.T @ rows), torch.tensor(kept), affine=affine, ridge=0.1)
    some = rows[:, [*kept, 6]] if affine else rows[:, kept]
    pull = np.diag([0.1 * (hidden[:, kept] ** 2).sum() / 3] * 3 + [0] * affine)
    wanted = np.linalg.solve(some.T @ some + pull, some.T @ hidden).T
    np.testing.assert_allclose(found, wanted, atol=1e-9)


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("last", [nn.Conv2d(12, 5, 3), nn.Conv2d(12, 5, 3, bias=False)], ids=["bias", "norm"])
def test_grail_makes_good_channels_that_are_combinations(field: Any, last: nn.Conv2d, affine: bool) -> None:
    torch.manual_seed(0)
    first = nn.Conv2d(3, 12, 1, bias=affine)
    net = nn.Sequential(first, last, *([] if last.bias is not None else [nn.BatchNorm2d(5)])).double().eval()
    x = torch.randn(16, 3, 6, 6).double()
    cut = secateur.prune(net, x[:2], ratio=0.5, only="0*")
    assert torch.allclose(field.grail(net, cut, x, affine=affine, ridge=1e-12)(x), net(x), atol=1e-6)


@pytest.mark.parametrize("affine", [False, True])
def test_grail_makes_good_neurons_of_linear_layers(field: Any, affine: bool) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 12, bias=affine), nn.Linear(12, 5)).double().eval()
    x = torch.randn(64, 3).double()
    found = field.grail(net, secateur.prune(net, x[:2], ratio=0.5, only="0*"), x, affine=affine, ridge=1e-12)
    assert torch.allclose(found(x), net(x), atol=1e-6)


def test_osscars_channels_are_those_that_no_exchange_betters(field: Any) -> None:
    random = np.random.default_rng(3)
    for _ in range(10):
        rows = random.normal(size=(80, 12)) @ random.normal(size=(12, 12))
        weight = random.normal(size=(12, 3))

        def error(channels: set[int], rows: Any = rows, weight: Any = weight) -> float:
            own = rows[:, [2 * c + k for c in sorted(channels) for k in (0, 1)]]
            return float(np.linalg.norm(rows @ weight - own @ np.linalg.lstsq(own, rows @ weight)[0]))

        gram = torch.from_numpy(rows.T @ rows)
        stays, solved = field.local_search(gram, torch.from_numpy(weight), 3, 2, 1e-12)
        own = rows[:, [2 * c + k for c in stays for k in (0, 1)]]
        np.testing.assert_allclose(solved, np.linalg.lstsq(own, rows @ weight)[0], atol=1e-6)
        rest = set(range(6)) - set(stays)
        assert all(error({*stays, r} - {k}) >= error(set(stays)) * (1 - 1e-9) for r in rest for k in stays)


def test_osscar_solves_on_the_patches_of_a_convolution(field: Any) -> None:
    torch.manual_seed(0)
    # As many channels as before it: of fewer, the twelve would be dependent and the ridge would decide.
    first, last = nn.Conv2d(12, 12, 1), nn.Conv2d(12, 5, 3, stride=2, padding=1)
    net = nn.Sequential(first, last).double().eval()
    x = torch.randn(16, 12, 7, 7).double()
    stays, weight = field.osscar(net, secateur.prune(net, x[:2], ratio=0.5, only="0*"), x)["1"]
    patches = nn.functional.unfold(first(x), 3, padding=1, stride=2).mT.flatten(0, 1).reshape(-1, 12, 9)
    some, wanted = patches[:, stays].flatten(1), patches.flatten(1) @ last.weight.flatten(1).T
    best = torch.linalg.lstsq(some, wanted).solution
    assert torch.allclose(some @ weight.flatten(1).T, some @ best, atol=1e-3 * float(wanted.detach().abs().max()))


def test_corps_map_of_logits_is_a_ridge_regression(field: Any) -> None:
    random = np.random.default_rng(0)
    qs, qp, ks, kp = (random.normal(size=(3, 7, width)) for width in (3, 2, 3, 2))
    system, target = field.logit_sums(*(tuple(map(torch.from_numpy, pair)) for pair in ((qs, qp), (ks, kp))))
    rows = np.concatenate([np.einsum("ti,uk->tuik", q, k).reshape(49, 9) for q, k in zip(qs, ks, strict=True)])
    wanted = np.concatenate([(q @ k.T).reshape(49) for q, k in zip(qp, kp, strict=True)])
    pull = 0.1 * (rows**2).sum(0).mean() * np.eye(9)
    mapped = np.linalg.solve(rows.T @ rows + pull, rows.T @ wanted).reshape(3, 3)
    np.testing.assert_allclose(field.logit_map(system, target, 0.1), mapped + np.eye(3), atol=1e-9)


class Heads(nn.Module):
    """Attention of three heads of four channels, of which two are the others once more, smaller."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(12, 12) for _ in range(3))
        with torch.no_grad():
            for layer in (self.query, self.key):
                for tensor in (layer.weight, layer.bias):
                    heads = tensor.unflatten(0, (3, 2, 2))
                    heads[:, 1] = 0.2 * heads[:, 0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            layer(x).unflatten(2, (3, layer.out_features // 3)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        mixed: torch.Tensor = nn.functional.scaled_dot_product_attention(q, k, v, scale=0.5)
        return mixed.transpose(1, 2).flatten(2)


def test_corp_makes_good_channels_of_heads_that_are_copies(field: Any) -> None:
    torch.manual_seed(0)
    net, x = Heads().double().eval(), torch.randn(4, 6, 12).double()
    cut = secateur.prune(net, x[:1], ratio=0.5, only=["query", "key"], granularity="within")
    assert not torch.allclose(cut(x), net(x), atol=1e-3)
    found = field.corp(net, cut, [{"x": x[:2]}, {"x": x[2:]}], [("query", "key")], 4, ridge=1e-12)
    torch.testing.assert_close(found(x), net(x), atol=1e-5, rtol=0)
