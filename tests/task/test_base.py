"""The protocol of tasks: forms of batches, what a class of one's own overrides, and training that goes on exactly."""

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
from secateur.core.errors import InputError
from secateur.core.metric import Metric
from secateur.data import DataSet, Split
from secateur.task import Classification, Epoch, Task
from secateur.task.batch import inputs_and_target, joined
from secateur.train import TrainConfig, evaluate, fit

X = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
Y = X.sum(1, keepdim=True)


class TwoInputs(nn.Module):
    """Takes two inputs, by place or by name."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.layer(a + b)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "batches",
    [
        [((X, 0 * X), Y)],
        [[X, 0 * X, Y]],
        [{"a": X, "b": 0 * X, "labels": Y}],
        [[{"a": X, "b": 0 * X, "labels": Y}]],
    ],
)
def test_forms_of_batches(batches: list[Any]) -> None:
    task = Task(train=batches, test=batches, loss=F.mse_loss)
    network = TwoInputs()
    wanted = float(F.mse_loss(network.layer(X), Y).detach())
    assert evaluate(network, task).metrics["loss"] == pytest.approx(wanted, rel=1e-5)
    assert fit(network, task, TrainConfig(epochs=2, lr=0.01), progress=False).epochs[0].train["loss"] == pytest.approx(
        wanted, rel=1e-5
    )


def test_forms_that_are_none() -> None:
    with pytest.raises(InputError, match="A batch is a tensor, a pair"):
        inputs_and_target("text")
    task = Task(test=[5], loss=F.mse_loss)
    with pytest.raises(InputError, match="A batch is a tensor"):
        next(task.evaluation("test"))


class Halves(Task):
    """A class of one's own that overrides what batches mean."""

    def inputs(self, batch: Any) -> Tensor:
        return batch["all"][:, :4]  # type: ignore[no-any-return]

    def target(self, batch: Any) -> Tensor:
        return batch["all"][:, 4:]  # type: ignore[no-any-return]

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return (output - target).abs().mean()


def test_a_class_of_ones_own() -> None:
    batches = [{"all": torch.cat([X, Y], 1)}]
    task, network = Halves(train=batches, test=batches), nn.Linear(4, 1)
    assert task.has_loss
    assert evaluate(network, task).metrics["loss"] == pytest.approx(
        float((network(X) - Y).abs().mean().detach()), rel=1e-5
    )
    with pytest.raises(InputError, match="Batch 1 of test is a dict with other, which the task Halves cannot split"):
        evaluate(network, Halves(test=[{"other": X}]))


def test_splits_that_are_not_there() -> None:
    task = Task(train=(X, Y), loss=F.mse_loss)
    assert [task.has(split) for split in ("train", "validation", "test")] == [True, False, False]
    with pytest.raises(InputError, match=r"has no test split: give Task\(test=…\)"):
        evaluate(nn.Linear(4, 1), task)
    with pytest.raises(InputError, match="A split is one of"):
        task.has("val")
    with pytest.raises(InputError, match="has no loss"):
        Task(train=(X, Y)).loss(X, Y)
    with pytest.raises(InputError, match="label_smoothing"):
        task.training_loss(0.1)


def test_texts_of_other_lengths_are_left_out_of_examples() -> None:
    parts = [{"ids": torch.zeros(2, 5), "mask": torch.ones(2, 5)}, {"ids": torch.zeros(2, 7), "mask": torch.ones(2, 7)},
             {"ids": torch.ones(2, 5), "mask": torch.ones(2, 5)}]  # fmt: skip
    found = joined(parts, 3)
    assert {name: tuple(value.shape) for name, value in found.items()} == {"ids": (3, 5), "mask": (3, 5)}  # type: ignore[union-attr]
    assert float(found["ids"].sum()) == 5  # type: ignore[index, call-overload]


def test_chance_is_the_commonest_class_within_two_standard_errors() -> None:
    images = torch.zeros(100, 1, 4, 4, dtype=torch.uint8)
    labels = torch.tensor([0] * 50 + [1] * 50)
    split = Split(images, labels)
    task = Classification(DataSet("two", ("a", "b"), (1, 4, 4), split, split, split, (0.5,), (0.5,)))
    assert task.guess() == 50
    assert task.at_chance({"top1": 60.0})
    assert not task.at_chance({"top1": 60.1})
    assert not Task(test=[(torch.ones(2, 3), torch.ones(2))]).at_chance({"loss": 1.0})


def test_two_processes_share_an_epoch() -> None:
    task = Task(train=(X, Y), loss=F.mse_loss)
    parts = [torch.cat([b.inputs for b in task.training(Epoch((0,), 10, rank=r, processes=2))]) for r in range(2)]  # type: ignore[misc]
    assert [len(part) for part in parts] == [20, 20]
    assert torch.equal(torch.cat(parts).sort(0).values, X.sort(0).values)


def loaders(kind: str) -> Any:
    data = TensorDataset(X, Y)
    if kind == "shuffled":
        return DataLoader(data, 8, shuffle=True)
    if kind == "generator":
        return DataLoader(data, 8, shuffle=True, generator=torch.Generator().manual_seed(9))
    if kind == "workers":
        return DataLoader(data, 8, shuffle=True, num_workers=1)
    order = torch.Generator()  # nobody can reach it
    return lambda: ((X[i], Y[i]) for i in torch.split(torch.randperm(40, generator=order), 8))


def net() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 1))


class Killed(Exception):
    """Stands for the end of a process."""


@pytest.mark.parametrize("kind", ["shuffled", "generator", "workers"])
def test_a_killed_run_goes_on_bit_for_bit(kind: str, tmp_path: Path) -> None:
    def run(folder: Path, *, until: int | None = None) -> nn.Module:
        task = Task(train=loaders(kind), validation=(X, Y), loss=F.mse_loss, steps=5)
        network = net()

        def stop(record: Any) -> None:
            if record.epoch == until:
                raise Killed

        fit(network, task, TrainConfig(epochs=3, lr=0.01), folder=folder, on_epoch=stop, progress=False)
        return network

    whole = run(tmp_path / "whole")
    with pytest.raises(Killed):
        run(tmp_path / "killed", until=2)
    torch.rand(5)
    resumed = run(tmp_path / "killed")
    for (name, one), other in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


def test_exact_says_whether_it_can() -> None:
    for kind, exact in (("shuffled", True), ("generator", True), ("hidden", False)):
        assert Task(train=loaders(kind), loss=F.mse_loss, steps=5).exact == exact, kind


def test_from_a_users_loader_to_a_pruned_network() -> None:
    def off(output: Tensor, target: Tensor) -> Tensor:
        return (output - target).abs().mean()

    task = Task(train=loaders("shuffled"), validation=(X, Y), test=(X, Y), loss=F.mse_loss,
                metrics={"off": Metric(off, "lower")})  # fmt: skip
    network = net()
    history = fit(network, task, TrainConfig(epochs=2, lr=0.01, keep="best"), progress=False)
    assert history.best is not None
    assert history.best.validation["off"] == min(e.validation["off"] for e in history.epochs)
    small = secateur.prune(network, task.sample(4), ratio=0.5, data=task, criterion="taylor")
    assert small.model[0].out_features == 4  # type: ignore[index, union-attr]
    assert set(evaluate(small, task).metrics) == {"off", "loss"}


def test_one_shot_generators_end_in_the_second_epoch() -> None:
    def made() -> Iterator[Any]:
        yield X, Y

    task = Task(train=made(), loss=F.mse_loss, steps=1)
    with pytest.raises(secateur.SecateurError, match=r"ends at once|gave no batch"):
        fit(nn.Linear(4, 1), task, TrainConfig(epochs=2), progress=False)
