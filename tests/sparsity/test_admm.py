"""ADMM against its closed form in float64, its projection against a search over all choices, and in real training."""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.core.errors import InputError, SecateurWarning, UnknownNameError
from secateur.data import load
from secateur.models import create
from secateur.sparsity import ADMM, sparsify
from secateur.sparsity.admm import structured_masks
from secateur.train import TrainConfig, fit
from secateur.train.loop import TrainingError


class Bowl(nn.Module):
    """½ Σ h (w − w*)²: a training step of ADMM has the solution W = (h W* + ρ (Z − U)) / (h + ρ)."""

    def __init__(self, target: Tensor, curvature: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(target.clone())
        self.target, self.curvature = target, curvature

    def forward(self) -> Tensor:
        return 0.5 * (self.curvature * (self.weight - self.target).square()).sum()


def best_columns(matrix: Tensor, keep: int) -> Tensor:
    """The nearest matrix with so many columns, by trying all choices."""
    choices = itertools.combinations(range(matrix.shape[1]), keep)
    kept = max(choices, key=lambda c: float(matrix[:, list(c)].square().sum()))
    found = torch.zeros_like(matrix)
    found[:, list(kept)] = matrix[:, list(kept)]
    return found


@pytest.mark.parametrize(("filters", "columns"), [(0.5, 0.0), (0.0, 0.5), (0.25, 0.34)])
def test_the_projection_is_the_nearest_of_all_choices(filters: float, columns: float) -> None:
    weight = torch.randn(4, 3, 2, 1).double()
    matrix = best_columns(weight.flatten(1).T, round(4 * (1 - filters))).T
    matrix = best_columns(matrix, round(6 * (1 - columns)))
    masks = structured_masks({"w": weight}, {"w": filters}, {"w": columns})
    assert torch.equal((weight * masks["w"]).flatten(1), matrix)


def test_the_patterns_filter_and_column_are_those_of_sparsify() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 2))
    rows = sparsify(net, ratio=0.5, pattern="filter", criterion=lambda _, w: w.square())
    assert sorted(rows.masks["0.weight"].flatten(1).float().mean(1).tolist()) == [0, 0, 1, 1]
    both = sparsify(rows, ratio=0.25, pattern="column", criterion=lambda _, w: w.square())
    weight = net[0].weight.detach()
    expected = structured_masks({"0.weight": weight}, {"0.weight": 0.5}, {"0.weight": 0.25})["0.weight"]
    assert torch.equal(both.masks["0.weight"], expected)


def test_every_iteration_equals_boyds_updates_in_the_scaled_form() -> None:
    target, curvature = torch.randn(4, 3, 1, 2).double(), torch.rand(4, 3, 1, 2).double() + 0.5
    model = Bowl(target, curvature)
    admm = ADMM(0.25, 0.5, rho=0.1, growth=4, stages=2, iterations=6)
    admm.start(model, 300, 6)
    z, u, rho = admm.project({"weight": target})["weight"], torch.zeros_like(target), 0.1
    for iteration in range(6):
        new = 0.1 * 4 ** (iteration // 3)
        u, rho = u * rho / new, new  # λ = −ρU goes on, so U changes with ρ (Boyd et al. 2011, §3.4.1)
        assert admm.strength == pytest.approx(rho)
        for _ in range(300):
            model.weight.grad = None
            model().backward()
            admm.gradients(model)
            with torch.no_grad():
                model.weight -= 0.5 * model.weight.grad
            admm.weights(model)
        w = (curvature * target + rho * (z - u)) / (curvature + rho)
        torch.testing.assert_close(model.weight.detach(), w, atol=1e-9, rtol=1e-9)
        before, z = z, admm.project({"weight": w + u})["weight"]
        u = u + w - z
        torch.testing.assert_close(admm.compressed["weight"], z, atol=1e-9, rtol=1e-9)
        torch.testing.assert_close(-admm.multipliers["weight"] / rho, u, atol=1e-9, rtol=1e-9)
        record = admm.epoch(model, iteration + 1)
        assert record["admm_distance"] == pytest.approx(float((w - z).norm() / w.norm()), abs=1e-9)
        assert record["admm_moved"] == pytest.approx(float((z - before).norm() / z.norm()), abs=1e-9)
    admm.finish(model)
    matrix = model.weight.detach().flatten(1)
    assert int((matrix != 0).any(1).sum()) == 3
    assert int((matrix != 0).any(0).sum()) == 3


OPTIONS: dict[str, Any] = {"filters": 0.25, "columns": 0.5, "iterations": 3, "rho": 0.1, "ignore": ["conv1"]}


def trained(folder: Path | None = None, epochs: int = 3, **options: float) -> tuple[nn.Module, ADMM, list[Any]]:
    torch.manual_seed(0)
    model, admm = create("resnet_digits"), ADMM(**{**OPTIONS, **options})
    config = TrainConfig(epochs=epochs, batch_size=32)
    history = fit(model, load("digits", limit=128), config, folder=folder, extras=[admm])
    return model, admm, [dict(record.extra) for record in history.epochs]


@pytest.mark.filterwarnings("ignore::secateur.core.errors.SecateurWarning")
def test_training_ends_with_whole_filters_and_columns_of_zeros_and_resumes_exactly(tmp_path: Path) -> None:
    model, admm, seen = trained()
    assert [row["admm_rho"] for row in seen] == pytest.approx([0.3, 0.9, 0.9])
    for name, weight in model.named_parameters():
        if weight.ndim != 4 or name.startswith("conv1"):
            assert (weight != 0).all() or weight.ndim < 2
            continue
        matrix = weight.detach().flatten(1) != 0
        assert int(matrix.any(1).sum()) == weight.shape[0] - int(0.25 * weight.shape[0] + 0.5), name
        assert int(matrix.any(0).sum()) == matrix.shape[1] - int(0.5 * matrix.shape[1] + 0.5), name
        assert torch.equal(weight != 0, admm.masks[name])
    done = 0

    def stop(record: object) -> None:
        nonlocal done
        done += 1
        if done == 2:
            raise KeyboardInterrupt

    torch.manual_seed(0)
    config, data = TrainConfig(epochs=3, batch_size=32), load("digits", limit=128)
    with pytest.raises(KeyboardInterrupt):
        fit(create("resnet_digits"), data, config, folder=tmp_path, extras=[ADMM(**OPTIONS)], on_epoch=stop)
    again, _, _ = trained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), model.state_dict().values(), strict=True))


def test_divergence_is_said_while_it_trains() -> None:
    target = torch.randn(4, 3, 1, 1)
    model, admm = Bowl(target, torch.ones_like(target)), ADMM(0.5, rho=0.1, growth=1, stages=1, iterations=30)
    admm.start(model, 1, 30)
    admm.epoch(model, 1)

    def ignored() -> None:
        for number in range(2, 30):  # weights that do not follow, so that U adds up
            admm.weights(model)
            with torch.no_grad():
                model.weight.mul_(0.9)
            admm.epoch(model, number)

    with pytest.warns(SecateurWarning, match=r"ADMM is diverging: by epoch \d+ .* lower learning rate"):
        ignored()
    with torch.no_grad():
        model.weight.fill_(float("inf"))
    with pytest.raises(TrainingError, match="ADMM diverged in epoch 30"):
        admm.epoch(model, 30)


def test_weights_far_from_their_projection_are_said_in_the_end() -> None:
    with pytest.warns(SecateurWarning, match="ADMM has not converged: in the end the weights were"):
        trained(epochs=1, rho=1e-6, filters=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error", SecateurWarning)
        model = Bowl(torch.ones(2, 2, 1, 1), torch.ones(2, 2, 1, 1))
        near = ADMM(0.5, iterations=3)
        near.start(model, 1, 1)
        with torch.no_grad():
            model.weight[1] = 0
        near.finish(model)


BAD = [
    ({}, "the share of one of them"),
    ({"filters": 1.0}, r"filters is the share of filters to remove, in \[0, 1\); got 1.0"),
    ({"columns": {"conv1": -0.1}}, "columns is the share .* for 'conv1'"),
    ({"filters": 0.5, "rho": 0.0}, "rho above 0"),
    ({"filters": 0.5, "stages": 4, "iterations": 3}, "as many iterations as stages"),
]


@pytest.mark.parametrize(("bad", "words"), BAD)
def test_values_out_of_range_are_refused(bad: dict[str, float], words: str) -> None:
    with pytest.raises(InputError, match=words):
        ADMM(**bad)  # type: ignore[arg-type]


def test_what_a_network_cannot_lose_is_refused_before_training() -> None:
    net = nn.Sequential(nn.Conv2d(2, 2, 1), nn.Conv2d(2, 4, 1, groups=2), nn.Flatten(), nn.Linear(4, 3))
    with pytest.raises(InputError, match=r"all 2 filters of '0\.weight'"):
        ADMM(0.9).start(net, 1, 1)
    with pytest.raises(UnknownNameError, match="convv"):
        ADMM({"convv": 0.5}).start(net, 1, 1)
    with pytest.raises(InputError, match="there is none"):
        ADMM(0.5).start(nn.Linear(2, 2), 1, 1)
    columns = ADMM(columns=0.5)
    columns.start(net, 1, 1)
    assert list(columns.masks) == ["0.weight"], "a grouped convolution has no columns, a linear layer is not asked for"
