"""Criteria of responses against brute force on real responses, and against scikit-learn's LASSO."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import secateur
from criteria_cases import CASES, Case
from secateur.core.errors import InputError
from secateur.criteria.lasso import lasso_order
from secateur.criteria.responses import greedy_order
from secateur.criteria.splitting import splitter
from secateur.cut.analysis import analyse
from zoo import settle


def parts(case: Case, group: str, images: Tensor) -> dict[str, Tensor]:
    """By consumer: its response without bias from every channel alone, (everything, channels), by running it."""
    found = {}
    for name, given in case.seen(case.consumers[group], images, inputs=True).items():
        layer, units = case.model.get_submodule(name), case.units[group]
        columns = []
        for unit in range(units):
            alone = torch.zeros_like(given).reshape(len(given), units, -1)
            alone[:, unit] = given.reshape(len(given), units, -1)[:, unit]
            bias = layer.bias
            layer.bias = None
            with torch.no_grad():
                columns.append(layer(alone.reshape(given.shape)).flatten().double())
            layer.bias = bias
        found[name] = torch.stack(columns, 1)
    return found


# Maps of at most 10 positions and layers of at most 8 outputs are seen whole; larger ones are sampled.
SMALL: dict[str, Callable[[], Case]] = {
    "one consumer, flattened": lambda: Case(
        nn.Sequential(nn.Conv2d(3, 7, 3), nn.ReLU(), nn.Conv2d(7, 6, 2), nn.ReLU(), nn.Flatten(), nn.Linear(24, 5)),
        (3, 5, 5), relus={}, consumers={"0": ["2"], "2": ["5"]}, units={"0": 7, "2": 6},
    ),
    "residual": CASES["residual"],
    "depthwise": CASES["depthwise"],
}  # fmt: skip


@pytest.mark.parametrize("name", SMALL)
def test_thinet_removes_what_adds_least_to_the_error(name: str) -> None:
    case = SMALL[name]()
    images = case.images()
    scores = case.scores("thinet", images)
    for group in case.consumers:
        rows = [z / z.square().sum().sqrt() for z in parts(case, group, images).values()]
        gone: list[int] = []
        while len(gone) < case.units[group]:
            errors = {
                c: sum(float(z[:, [*gone, c]].sum(1).square().sum()) for z in rows)
                for c in range(case.units[group])
                if c not in gone
            }
            gone.append(min(errors, key=errors.__getitem__))
        assert scores[group].argsort().tolist() == gone
        assert float(scores[group].max()) == 1.0


@pytest.mark.parametrize("name", SMALL)
def test_lasso_drops_channels_as_scikit_learn_does(name: str) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    case = SMALL[name]()
    images = case.images()
    scores = case.scores("lasso", images)
    for group in case.consumers:
        z = torch.cat([z / z.square().sum().sqrt() for z in parts(case, group, images).values()]).numpy()
        y, units = z.sum(1), case.units[group]
        alive_at = {}
        for alpha in np.geomspace(1e-4, 1, 400) * np.abs(z.T @ y).max() / len(y):
            fitted = linear_model.Lasso(alpha=alpha, fit_intercept=False, max_iter=100_000, tol=1e-12).fit(z, y)
            alive_at[int(np.count_nonzero(fitted.coef_))] = {*np.flatnonzero(fitted.coef_).tolist()}
        checked = 0
        for count, alive in alive_at.items():
            if 0 < count < units:
                assert {*scores[group].topk(count).indices.tolist()} == alive
                checked += 1
        assert checked >= units // 2


@pytest.mark.parametrize("seed", range(4))
def test_the_path_is_that_of_least_angle_regression(seed: int) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(seed)
    z = np.maximum(rng.normal(size=(80, 25)) @ (np.eye(25) + 0.4 * rng.normal(size=(25, 25))), 0)
    _, _, coefficients = linear_model.lars_path_gram(z.T @ z.sum(1), z.T @ z, n_samples=80, method="lasso")
    entered = (np.abs(coefficients) > 1e-12).argmax(1)  # the step at which a channel first takes part
    assert lasso_order(z.T @ z) == np.argsort(-entered, kind="stable").tolist()


def test_channels_that_others_stand_for_go_first() -> None:
    z = np.random.default_rng(0).normal(size=(40, 6))
    z[:, 2] = 0.5 * z[:, 4]
    z[:, 1] = 0.0
    assert lasso_order(z.T @ z)[:2] == [1, 2]


def test_a_channel_that_says_nothing_goes_first() -> None:
    gram = np.diag([3.0, 0.0, 1.0])
    assert greedy_order(gram)[0] == lasso_order(gram)[0] == 1


LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "padded": (nn.Conv2d(4, 6, 3, padding=1), (4, 5, 6)),
    "strided and dilated": (nn.Conv2d(4, 6, 3, stride=2, dilation=2, padding=(2, 1)), (4, 9, 8)),
    "grouped": (nn.Conv2d(4, 6, 3, groups=2), (4, 5, 5)),
    "same": (nn.Conv2d(4, 6, 4, padding="same"), (4, 5, 5)),
    "valid": (nn.Conv2d(4, 6, 2, padding="valid"), (4, 3, 3)),
    "one dimension": (nn.Conv1d(4, 6, 3, stride=2, padding=1), (4, 9)),
    "three dimensions": (nn.Conv3d(4, 6, 2, padding=(0, 1, 0)), (4, 3, 3, 3)),
    "linear": (nn.Linear(4, 6), (4,)),
    "tokens": (nn.Linear(4, 6), (3, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_parts_add_up_to_the_response(name: str) -> None:
    layer, shape = LAYERS[name]
    traced = analyse(layer, torch.randn(2, *shape)).groups.flow
    node = next(n for n in traced.macs)
    split = splitter(traced, node)
    assert split is not None
    x = torch.randn(3, *shape)
    channel = x.ndim - 1 if isinstance(layer, nn.Linear) else 1
    with torch.no_grad():
        bias = torch.zeros(6) if layer.bias is None else layer.bias  # type: ignore[union-attr]
        response = layer(x).movedim(channel, -1).reshape(-1, 6) - bias
        rows = split.rows(x, np.random.default_rng(0), 10**6, 10**6)
        assert rows.shape == (response.numel(), 4)
        torch.testing.assert_close(rows.sum(1).view_as(response), response, rtol=1e-4, atol=1e-5)
        alone = x * (torch.arange(4) == 2).float().view([-1 if d == channel else 1 for d in range(x.ndim)])
        only = layer(alone).movedim(channel, -1).reshape(-1, 6) - bias
        torch.testing.assert_close(rows[:, 2].reshape(only.shape), only, rtol=1e-4, atol=1e-5)


def test_samples_are_fixed_in_number_and_follow_the_seed() -> None:
    layer = nn.Conv2d(4, 20, 3, padding=1)
    traced = analyse(layer, torch.randn(2, 4, 8, 8)).groups.flow
    split = splitter(traced, next(iter(traced.macs)))
    assert split is not None
    x = torch.randn(6, 4, 8, 8)
    whole, again, other = (split.rows(x, np.random.default_rng(s), 10, 8) for s in (1, 1, 2))
    assert whole.shape == (6 * 10 * 8, 4)
    assert torch.equal(whole, again)
    assert not torch.equal(whole, other)
    sampler = np.random.default_rng(1)
    assert torch.equal(whole, torch.cat([split.rows(part, sampler, 10, 8) for part in x.split(2)]))


@pytest.mark.parametrize("criterion", ["thinet", "lasso"])
def test_groups_without_a_consumer_that_can_be_split_stay_whole(criterion: str) -> None:
    model = settle(nn.Sequential(nn.Conv2d(3, 6, 1), nn.ConvTranspose2d(6, 4, 2), nn.ReLU(), nn.Conv2d(4, 2, 1)))
    images = torch.randn(8, 3, 4, 4)
    pruned = secateur.prune(model, images[:2], ratio=0.5, criterion=criterion, data=images)
    assert [c.kept for c in pruned.groups] == [6, 2]
    assert any("'0' enter no convolution or linear layer" in note for note in pruned.notes)
    with pytest.raises(InputError, match=f"'{criterion}' has nothing to score"):
        secateur.prune(model[:2], images[:2], ratio=0.5, criterion=criterion, data=images)  # type: ignore[index]


def test_greedy_selection_beats_magnitude_on_its_own_objective() -> None:
    case: Any = SMALL["one consumer, flattened"]()
    images = case.images(40)
    z = parts(case, "0", images)["2"]
    errors = {}
    for criterion in ("thinet", "l1"):
        gone = case.scores(criterion, images)["0"].argsort()[:3]
        errors[criterion] = float(z[:, gone].sum(1).square().sum())
    assert errors["thinet"] <= errors["l1"]
