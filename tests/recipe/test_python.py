"""Recipes from Python: networks and tasks that are handed over, and what goes wrong with them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import secateur
from secateur.core.errors import InputError, WeightsError
from secateur.recipe.sameness import differences, numbers
from secateur.train import TrainConfig

RECIPE = """
name: small
model: {name: resnet_digits}
data: {name: digits, limit: 20}
steps:
  - adapt: {epochs: 2, batch_size: 16, lr: 0.05}
  - prune: {criterion: taylor, ratio: 0.5, calibration: 32}
  - recover: {images: 64}
  - finetune: {epochs: 2, batch_size: 16, keep: best, distill: {weight: 0.3}}
  - score
  - measure: {runtimes: [pytorch], rounds: 1, backward: false, batches: [1]}
  - report
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(RECIPE)
    return path


def sums(count: int, seed: int) -> TensorDataset:
    """A sum of sines of four numbers."""
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(x, x.sin().sum(1, keepdim=True))


def mae(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).abs().mean()


def task(**changes: Any) -> secateur.Task:
    train = DataLoader(sums(96, 0), batch_size=16, shuffle=True)
    given = {"train": train, "validation": DataLoader(sums(32, 1), 16), "test": DataLoader(sums(32, 2), 16)}
    metrics = {"mae": secateur.Metric(mae, better="lower", title="Mean absolute error")}
    return secateur.Task(**{**given, "loss": F.mse_loss, "metrics": metrics, "name": "sines", "unit": "row", **changes})


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1))


def test_a_run_with_a_network_and_loaders_of_ones_own(recipe: Path, tmp_path: Path) -> None:
    dense = network()
    before = {name: value.clone() for name, value in dense.state_dict().items()}
    result = secateur.run(recipe, tmp_path / "run", model=dense, task=task())
    assert all(torch.equal(before[name], value) for name, value in dense.state_dict().items())
    assert result.state.pruned is not None
    assert result.state.pruned.model[0].out_features == 8
    networks = {n["role"]: n["measurement"] for n in result.results["networks"]}
    assert set(networks["pruned"]["quality"]) == {"mae", "loss"}
    now = secateur.evaluate(result.state.pruned.model, task())
    assert networks["pruned"]["quality"]["mae"] == pytest.approx(now.mae)
    assert networks["pruned"]["netscore"] is None, "an error is no share of anything"
    epochs = result.results["curves"][0]["points"]
    assert set(epochs[0]["validation"]) == {"mae", "loss"}
    page = (result.folder / "report.html").read_text()
    assert "Mean absolute error" in page
    assert "Top-1" not in page
    assert "MACs per sample" in page
    assert "with a network or task handed over" in result.results["command"]


def test_the_best_epoch_is_that_of_the_lowest_error(tmp_path: Path) -> None:
    history = secateur.fit(network(), task(), TrainConfig(batch_size=16, epochs=4, keep="best", lr=0.2))
    errors = [record.val_mae for record in history.epochs]
    assert history.kept == 1 + min(range(4), key=lambda i: errors[i])


def test_a_stopped_run_goes_on_the_same(recipe: Path, tmp_path: Path) -> None:
    whole = secateur.run(recipe, tmp_path / "whole", model=network(), task=task())

    class Stop(Exception):
        pass

    def stop(event: Any) -> None:
        if event.what == "begin" and event.index == 4:
            raise Stop

    with pytest.raises(Stop):
        secateur.run(recipe, tmp_path / "stopped", model=network(), task=task(), on_event=stop)
    with pytest.raises(InputError, match=r"handed over from Python: go on there, with secateur.resume\(folder, task="):
        secateur.resume(tmp_path / "stopped")
    with pytest.raises(InputError, match=r"secateur.resume\(folder, model="):
        secateur.resume(tmp_path / "stopped", task=task())
    other = network()
    with torch.no_grad():
        other[0].weight += 1
    with pytest.raises(WeightsError, match="other weights than when the run"):
        secateur.resume(tmp_path / "stopped", model=other, task=task())
    secateur.resume(tmp_path / "stopped", model=network(), task=task())
    assert differences(numbers(whole.folder), numbers(tmp_path / "stopped")) == []


def test_a_comparison_stays_in_this_process(recipe: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(RECIPE.replace("name: small", "name: other").replace("taylor", "l2"))
    result = secateur.compare([recipe, other], tmp_path / "c", model=network(), task=task(), seed=3)
    assert not result.failed
    assert [row.name for row in result.rows] == ["dense", "small", "other"]
    assert all(row.now["mae"] is not None for row in result.rows)
    table = (tmp_path / "c/comparison.csv").read_text().splitlines()[0]
    assert table.startswith("name,failed,mae_before,loss_before,mae,loss,params")
    assert "Best Mean absolute error" in (tmp_path / "c/comparison.html").read_text()
    with pytest.raises(InputError, match="one after the other; got jobs=2"):
        secateur.compare([recipe, other], tmp_path / "d", model=network(), task=task(), jobs=2)
    with pytest.raises(InputError, match="wants one of ratios, params and macs"):
        secateur.sweep(recipe, tmp_path / "e", model=network(), task=task())
    swept = secateur.sweep(recipe, tmp_path / "e", ratios=[0.25], model=network(), task=task())
    assert [row.name for row in swept.rows] == ["dense", "small-ratio-0.25"]


def endless() -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        yield torch.randn(8, 4), torch.randn(8, 1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"test": None}, "sines has no test split: give Task\\(test=…"),
        ({"loss": None}, "sines has no loss"),
        ({"loss": lambda output, target: (output - target).square()}, "one number, a scalar tensor"),
        ({"loss": lambda output, target: torch.tensor(1.0)}, "does not depend on the network's weights"),
        ({"metrics": {"mae": secateur.Metric(lambda o, t: float("nan"), better="lower")}}, "metric mae is nan"),
        ({"metrics": {"mae": secateur.Metric(lambda o, t: o - t, better="lower")}}, r"tensor of shape \(16, 1\)"),
        ({"train": []}, "train loader ends at once"),
        ({"train": endless}, "may go on for ever: give Task\\(steps=…\\)"),
        ({"train": DataLoader(TensorDataset(torch.randn(8, 5), torch.randn(8, 1)), 4)}, "does not take the batches of"),
        ({"train": DataLoader(TensorDataset(torch.randn(8, 4), torch.randn(8)), 4)}, "Using a target size"),
    ],
    ids=["no test", "no loss", "loss of a batch", "loss of nothing", "nan", "no number", "empty", "endless", "misfit",
         "stretched"],
)  # fmt: skip
def test_misfits_are_told_before_anything_is_written(
    changes: dict[str, Any], said: str, recipe: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=said):
        secateur.run(recipe, tmp_path / "run", model=network(), task=task(**changes))
    assert not (tmp_path / "run").exists()


def test_metrics_say_which_way_is_better() -> None:
    with pytest.raises(InputError, match="nothing says which way is better"):
        task(metrics={"mae": mae})
    with pytest.raises(InputError, match="a word like mae"):
        task(metrics={"loss": secateur.Metric(mae, better="lower")})


def test_a_loader_that_cannot_be_seeded_is_told(recipe: Path, tmp_path: Path) -> None:
    private = torch.Generator().manual_seed(5)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(3):
            x = torch.randn(16, 4, generator=private)
            yield x, x.sum(1, keepdim=True)

    own = task(train=batches)
    own._sources["train"] = type(own._sources["train"])("train", batches, 3)
    with pytest.warns(UserWarning, match="gives other batches for the same seed"):
        secateur.run(recipe, tmp_path / "run", model=network(), task=own)
