"""Regression: statistics and metrics against independent computations, rows and series through the whole chain."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.core.errors import DataError, InputError
from secateur.data.rows import diabetes, rows_of
from secateur.data.series import SeriesSet, synthetic_series
from secateur.models import create
from secateur.task import Regression, Series, Task, try_task
from secateur.task.regression import Errors
from secateur.train import TrainConfig, evaluate, fit


def test_metrics_against_numpy() -> None:
    from sklearn.metrics import mean_absolute_error, r2_score

    rng = np.random.default_rng(0)
    wanted, given = rng.normal(size=(50, 2)), rng.normal(size=(50, 2))
    std = np.array([3.0, 0.5])
    errors = Errors(torch.from_numpy(std))
    for start in range(0, 50, 20):
        part = slice(start, start + 20)
        errors.update(torch.from_numpy(given[part]), torch.from_numpy(wanted[part]), 0)
    found = errors.compute()
    assert found["rmse"] == pytest.approx(math.sqrt((((given - wanted) * std) ** 2).mean()))
    assert found["mae"] == pytest.approx(mean_absolute_error(wanted * std, given * std))
    assert found["r2"] == pytest.approx(r2_score(wanted * std + 7, given * std + 7))
    assert found["loss"] == pytest.approx(((given - wanted) ** 2).mean())


@pytest.mark.parametrize(("given", "r2"), [(2.0, 1.0), (3.0, 0.0)])
def test_a_constant_target_as_scikit_learn_has_it(given: float, r2: float) -> None:
    errors = Errors(torch.ones(1).double())
    errors.update(torch.full((4, 1), given), torch.full((4, 1), 2.0), 4)
    assert errors.compute()["r2"] == r2


def test_a_linear_layer_finds_least_squares() -> None:
    """The task's loss, statistics and units together: what it is scored with is what lstsq gives."""
    data = diabetes(validation=0.0)
    task, layer = Regression(data), nn.Linear(10, 1)
    x, y = (v.double().numpy() for v in task.made("train", torch.arange(task.count("train"))))
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(x.std(0), 1, atol=1e-6)
    assert abs(y.std() - 1) < 1e-6
    weights = np.linalg.lstsq(np.c_[x, np.ones(len(x))], y, rcond=None)[0]
    layer.weight.data, layer.bias.data = torch.from_numpy(weights[:10].T).float(), torch.from_numpy(weights[10]).float()
    raw, target = (np.asarray(v) for v in (data.train.inputs, data.train.targets))
    fitted = np.linalg.lstsq(np.c_[raw, np.ones(len(raw))], target, rcond=None)[0]
    wanted = np.c_[np.asarray(data.test.inputs), np.ones(len(data.test))] @ fitted - np.asarray(data.test.targets)
    assert evaluate(layer, task).metrics["rmse"] == pytest.approx(math.sqrt((wanted**2).mean()), rel=1e-4)
    shown = task.predictions(layer(task.made("test", torch.tensor([0]))[0])).detach()
    assert float(shown - data.test.targets[0]) == pytest.approx(wanted[0, 0], rel=1e-3)


def test_rows_train_prune_and_are_scored() -> None:
    task = Regression(diabetes())
    network = create("mlp", **task.options("mlp"))
    try_task(task, network)
    fit(network, task, TrainConfig(epochs=2, batch_size=32), progress=False)
    small = secateur.prune(network, task.sample(64), macs=0.5, data=task, criterion="taylor")
    assert small.after.macs < 0.55 * small.before.macs
    assert small.verification is not None
    assert small.verification.max_relative_error < 1e-9
    assert set(evaluate(small, task).metrics) == {"rmse", "mae", "r2", "loss"}


def test_windows_do_not_reach_into_the_next_part() -> None:
    values = torch.arange(100, dtype=torch.float64)[:, None] * torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    task = Series(SeriesSet("line", ("a", "b"), values[:60], values[60:80], values[80:]), window=5, horizon=2)
    mean, std = values[:60].mean(0), values[:60].std(0, correction=0)
    for split, first, last in (("train", 0, 60), ("validation", 60, 80), ("test", 80, 100)):
        assert task.count(split) == last - first - 6
        inputs, target = task.made(split, torch.tensor([0, task.count(split) - 1]))
        wanted = ((values[first : first + 5] - mean) / std).T.float()
        torch.testing.assert_close(inputs[0], wanted)
        shown = task.predictions(target).double()
        torch.testing.assert_close(shown[1], values[last - 2 : last].flatten(), atol=1e-3, rtol=1e-5)


def test_series_train_prune_and_are_scored() -> None:
    task = Series(synthetic_series(300, validation=0.25), window=12, horizon=2)
    network = create("conv_series", **task.options("conv_series"), width=8)
    try_task(task, network)
    history = fit(network, task, TrainConfig(epochs=1, batch_size=32), progress=False)
    assert set(history.epochs[0].validation) == {"rmse", "mae", "r2", "loss"}
    small = secateur.prune(network, task.sample(8), macs=0.5)
    assert small.after.macs < 0.55 * small.before.macs
    assert evaluate(small, task).samples == task.count("test")


class Flat(nn.Module):
    """One number a sample, (B,): nothing may be stretched over (B, 1)."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0]


def test_what_does_not_fit_is_named() -> None:
    task = Regression(diabetes())
    assert evaluate(Flat(), task).metrics["rmse"] > 0
    with pytest.raises(InputError, match="one number a target"):
        try_task(task, nn.Linear(10, 2), train=False)
    with pytest.raises(DataError, match="y0 is 3 in all training rows"):
        Regression(rows_of(torch.randn(20, 2), torch.full((20,), 3)))
    with pytest.raises(InputError, match="smaller window"):
        Series(synthetic_series(100), window=30)
    with pytest.raises(InputError, match="at least 1"):
        Series(synthetic_series(100), window=0)
    with pytest.raises(InputError, match="A split is one of"):
        task.samples("val")
    empty = Regression(diabetes(validation=0.0))
    assert not empty.has("validation")
    with pytest.raises(InputError, match="no rows in its validation split"):
        next(empty.evaluation("validation"))


def test_a_constant_column_is_left_alone() -> None:
    x = torch.cat([torch.randn(30, 1), torch.full((30, 1), 1e6 + 0.1)], 1)
    inputs, _ = Regression(rows_of(x, torch.randn(30))).made("test", torch.arange(6))
    assert torch.equal(inputs[:, 1], torch.zeros(6))


def test_the_tasks_are_tasks() -> None:
    assert isinstance(Regression(diabetes()), Task)
    assert Regression(diabetes()).exact
    assert Regression(diabetes()).fingerprint("test") == Regression(diabetes(seed=1)).fingerprint("test")
    assert Regression(diabetes()).fingerprint("train") != Regression(diabetes(seed=1)).fingerprint("train")
