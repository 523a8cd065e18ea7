"""ThiNet and LASSO pruning layer by layer: what is fitted, to which network, in which order; by NumPy on the way."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import secateur
from secateur.core.errors import InputError, UnknownNameError
from secateur.criteria import CRITERIA
from secateur.criteria.lasso import lasso_order
from secateur.criteria.statistics import Collecting, Dense, collect
from secateur.graph.views import labelled


def chain() -> nn.Sequential:
    """Three convolutions and a classifier, without batch normalisation, in double precision."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 5, 3),
              nn.ReLU(), nn.Flatten(), nn.Linear(20, 3)]  # fmt: skip
    return nn.Sequential(*layers).double().eval()


X = torch.randn(60, 2, 4, 4, generator=torch.Generator().manual_seed(1)).double()


def same(one: nn.Module, other: nn.Module, *layers: int) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return all(torch.equal(a[f"{k}.{n}"], b[f"{k}.{n}"]) for k in layers for n in ("weight", "bias"))


def parts(layer: nn.Module, given: Tensor) -> np.ndarray[Any, Any]:
    """What every input channel alone adds to the response, (numbers, channels)."""
    every = []
    for c in range(given.shape[1]):
        alone = torch.zeros_like(given)
        alone[:, c] = given[:, c]
        every.append(F.conv2d(alone, layer.weight, padding=layer.padding).detach().flatten())  # type: ignore[arg-type]
    return torch.stack(every, 1).numpy()


def wanted(dense: nn.Sequential, stop: int) -> Tensor:
    """The response of layer ``stop`` without its bias."""
    return dense[: stop + 1](X).detach() - dense[stop].bias.detach()[:, None, None]  # type: ignore[union-attr]


def thinet(network: Any, layer: str) -> tuple[secateur.Pruned, secateur.Pruned]:
    cut = secateur.prune(network, X[:2], criterion="thinet", ratio=0.5, only=[layer], data=X)
    options: Any = {"method": "scale", "fit_to": "before", "layers": "next", "ridge": 0.0}
    return cut, secateur.recover(cut, X, **options)


def test_thinet_scales_the_next_layer_alone_towards_the_response_just_before_the_cut() -> None:
    dense = chain()
    _, first = thinet(dense, "0")
    with torch.no_grad():  # a training between the cuts: what is fitted then is the trained network's response
        for p in first.model.parameters():
            p.mul_(1.1)
    trained = first.model
    cut, second = thinet(first, "2")
    model: Any = second.model
    assert same(model, cut.model, 0, 2, 7), "neither the cut layer nor what is behind the next one"
    z = parts(cut.model[4], cut.model[:4](X).detach())  # type: ignore[index]
    target = wanted(trained, 4).flatten().numpy()  # type: ignore[arg-type]
    factors = np.linalg.lstsq(z, target, rcond=None)[0]
    expected = cut.model[4].weight.detach() * torch.tensor(factors)[None, :, None, None]  # type: ignore[index]
    torch.testing.assert_close(model[4].weight, expected, rtol=1e-8, atol=1e-10)
    assert torch.equal(model[4].bias, cut.model[4].bias)  # type: ignore[index]
    assert second.dense is dense
    assert [*second.plan.parts[1].keep] == [*cut.plan.parts[1].keep]
    old = secateur.recover(cut, X, method="scale", layers="next", ridge=0.0)
    assert not torch.allclose(old.model[4].weight, expected, rtol=1e-3), "the first dense network gave something else"  # type: ignore[index]


def test_a_channel_that_brings_nothing_keeps_its_weights() -> None:
    dense = chain()
    with torch.no_grad():
        dense[0].bias[0] = -1e3  # always zero behind its ReLU
    cut = secateur.prune(dense, X[:2], ratio=0.5, only=["0"], criterion=lambda view: -torch.arange(6.0))
    fixed: Any = secateur.recover(cut, X, method="scale", layers="next", ridge=0.0).model
    assert torch.equal(fixed[2].weight[:, 0], cut.model[2].weight[:, 0])  # type: ignore[index]
    assert not torch.equal(fixed[2].weight[:, 1], cut.model[2].weight[:, 1])  # type: ignore[index]


def test_after_one_cut_the_network_before_is_the_dense_one() -> None:
    cut = secateur.prune(chain(), X[:2], ratio=0.5)
    one, two = (secateur.recover(cut, X, fit_to=way).model for way in ("dense", "before"))
    assert same(one, two, 0, 2, 4, 7)


def lasso(network: Any, layer: str, ratio: float = 0.5) -> tuple[secateur.Pruned, secateur.Pruned]:
    cut = secateur.prune(network, X[:2], criterion="lasso", ratio=ratio, only=[layer], data=X)
    return cut, secateur.recover(cut, X, layers="next", ridge=0.0)


def assert_statistics(
    network: secateur.Pruned, group: str, x: Tensor, z: np.ndarray[Any, Any], y: np.ndarray[Any, Any]
) -> None:
    """What the LASSO of a group is solved from is ZᵀZ and Zᵀy over Σ z², and y is not what the channels give now."""
    groups = secateur.analyse(network.model, x[:2]).groups
    dense = network.dense
    assert dense is not None
    setting = Collecting(groups, dense=Dense(network.plan, lambda: labelled(dense, x[:2])[0]))
    found, _ = collect(CRITERIA["lasso"], setting, x)
    gram, right = found[[g.name for g in groups.items].index(group)]["dense_responses"]
    scale = np.square(z).sum()
    np.testing.assert_allclose(gram, z.T @ z / scale, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(right, z.T @ y / scale, rtol=1e-9, atol=1e-12)
    assert abs(right - gram.sum(1)).max() > 0.01 * abs(right).max()


def test_lasso_goes_on_with_what_is_left_towards_the_dense_responses() -> None:
    """The second choice: Z of the network as it is, y of the dense network; the refit towards the same y."""
    dense = chain()
    first, _ = lasso(dense, "0", 0.8)  # not refitted, so that much is left to make good
    cut, second = lasso(first, "2")
    given = first.model[:4](X).detach()  # type: ignore[index]
    z, y = parts(first.model[4], given), wanted(dense, 4).flatten().numpy()  # type: ignore[index]
    order = lasso_order(z.T @ z, z.T @ y)  # 2×2 positions, 5 outputs: all are looked at
    assert_statistics(first, "2", X, z, y)
    assert cut.plan.parts[1].keep["2.weight"][0] == tuple(sorted(order[3:]))
    assert same(second.model, first.model, 0)
    assert same(second.model, cut.model, 2, 7)
    patches = F.unfold(cut.model[:4](X).detach(), 3).transpose(1, 2).reshape(-1, 27)  # type: ignore[index]
    matrix = np.concatenate([patches.numpy(), np.ones((len(patches), 1))], 1)
    target = dense[:5](X).detach().flatten(2).transpose(1, 2).reshape(-1, 5).numpy()
    want = np.linalg.lstsq(matrix, target, rcond=None)[0]
    got: Any = second.model[4]  # type: ignore[index]
    assert np.allclose(got.weight.detach().flatten(1).numpy(), want[:-1].T, atol=1e-7)
    assert np.allclose(got.bias.detach().numpy(), want[-1], atol=1e-7)


@pytest.mark.parametrize("seed", range(3))
def test_the_path_towards_another_response_is_that_of_least_angle_regression(seed: int) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(seed)
    z, y = rng.normal(size=(80, 20)), rng.normal(size=80)
    _, _, coefficients = linear_model.lars_path_gram(z.T @ y, z.T @ z, n_samples=80, method="lasso")
    entered = (np.abs(coefficients) > 1e-12).argmax(1)
    assert lasso_order(z.T @ z, z.T @ y) == np.argsort(-entered, kind="stable").tolist()


class Residual(nn.Module):
    """Two residual branches: the second one is to make good what the first one lost, too."""

    def __init__(self, norm: bool) -> None:
        super().__init__()
        after = lambda: nn.BatchNorm2d(4) if norm else nn.Identity()  # noqa: E731
        self.a = nn.Sequential(nn.Conv2d(4, 6, 1), nn.ReLU(), nn.Conv2d(6, 4, 1), after())
        self.b = nn.Sequential(nn.Conv2d(4, 6, 1), nn.ReLU(), nn.Conv2d(6, 4, 1), after())
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.a(x)
        return self.head((x + self.b(x)).mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("norm", [False, True])
def test_behind_a_branch_the_shortcuts_error_is_made_good(norm: bool) -> None:
    """He et al. §3.3: the target is Y1 − Y1' + Y2, of the output that is added to the shortcut."""
    torch.manual_seed(0)
    dense, x = Residual(norm).double().eval(), torch.randn(40, 4, 2, 2).double()
    for module in dense.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2.0)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.running_mean, -1.0, 1.0)
    first: Any = secateur.prune(dense, x[:2], criterion="lasso", ratio=0.8, only=["a.0"], data=x)
    cut = secateur.prune(first, criterion="lasso", ratio=0.5, only=["b.0"], data=x)
    before, now = (x + net.a(x) for net in (dense, first.model))
    last = first.model.b[2]
    scale = torch.ones(4).double()
    if norm:
        bn = first.model.b[3]
        scale = (bn.weight / (bn.running_var + bn.eps).sqrt()).detach()
    z = parts(last, first.model.b[:2](now).detach()).reshape(40, 4, 4, 6) * scale.numpy()[None, :, None, None]
    brought = (before - now).detach()
    y = (dense.b[:3](before).detach() - last.bias.detach()[:, None, None]) * scale[:, None, None] + brought
    rows, target = z.reshape(-1, 6), y.flatten().numpy()
    order = lasso_order(rows.T @ rows, rows.T @ target)
    assert_statistics(first, "b.0", x, rows, target)
    assert abs(rows.T @ brought.flatten().numpy()).max() > 0.01 * abs(rows.T @ target).max(), "the shortcut counts"
    assert cut.plan.parts[1].keep["b.0.weight"][0] == tuple(sorted(order[3:]))


def test_without_the_dense_network_lasso_says_what_it_fits() -> None:
    first = secateur.prune(chain(), X[:2], ratio=0.5, only=["0"])
    cut = secateur.prune(first.model, X[:2], criterion="lasso", ratio=0.5, only=["2"], data=X)
    assert any("lasso fits what the network gives now" in note for note in cut.notes)
    again = secateur.prune(first, criterion="lasso", ratio=0.5, only=["2"], data=X)
    assert not any("lasso fits" in note for note in again.notes)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"layers": "next", "method": "batch_norm"}, "layers='next' is for the methods least_squares, scale, bias"),
        ({"layers": "next", "method": "merge"}, "this one is 'merge'"),
        ({"layers": "nxt"}, "Did you mean 'next'"),
        ({"fit_to": "befor"}, "Did you mean 'before'"),
    ],
)
def test_bad_choices_are_refused(options: dict[str, Any], said: str) -> None:
    cut = secateur.prune(chain(), X[:2], ratio=0.5)
    with pytest.raises((InputError, UnknownNameError), match=said):
        secateur.recover(cut, X, **options)


def test_what_needs_data_or_the_network_before_says_so() -> None:
    cut = secateur.prune(secateur.prune(chain(), X[:2], ratio=0.25), ratio=0.25)
    with pytest.raises(InputError, match="layers='next' needs calibration data"):
        secateur.recover(cut, method="bias", layers="next")
    with pytest.raises(InputError, match="network before the last cut is not known"):
        secateur.recover(copy.deepcopy(cut), X, dense=chain(), fit_to="before")
