"""Extras: what takes part in training besides the loss on the labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.core.errors import InputError
from secateur.data import DataSet, load
from secateur.models import create
from secateur.train import Extra, TrainConfig, fit

CONFIG = TrainConfig(epochs=2, batch_size=64)


class Calls(Extra):
    """Writes down what was called; remembers a count between epochs."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.steps = 0

    def start(self, model: nn.Module, steps_per_epoch: int, epochs: int) -> None:
        self.seen.append(f"start {steps_per_epoch} {epochs}")

    def loss(self, model: nn.Module, inputs: Tensor, scores: Tensor, labels: Tensor) -> Tensor | None:
        assert inputs.shape[0] == scores.shape[0] == labels.shape[0]
        self.seen.append("loss")
        return None

    def gradients(self, model: nn.Module) -> None:
        assert all(p.grad is not None for p in model.parameters())
        self.seen.append("gradients")

    def weights(self, model: nn.Module) -> None:
        self.seen.append("weights")
        self.steps += 1

    def epoch(self, model: nn.Module, epoch: int) -> Mapping[str, Any]:
        return {"steps": self.steps}

    def finish(self, model: nn.Module) -> None:
        self.seen.append("finish")

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps = state["steps"]


class Pull(Extra):
    """A penalty whose gradient is known: the sum of all weights."""

    def loss(self, model: nn.Module, inputs: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
        return sum((p.sum() for p in model.parameters()), torch.zeros(()))


class Difference(Extra):
    """Keeps the gradients of the first step."""

    def __init__(self) -> None:
        self.found: dict[str, Tensor] = {}

    def gradients(self, model: nn.Module) -> None:
        self.found = self.found or {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.fixture
def data() -> DataSet:
    return load("digits", limit=128)


def network() -> nn.Module:
    torch.manual_seed(0)
    return create("resnet_digits")


def test_every_moment_of_a_step_in_order(data: DataSet) -> None:
    calls = Calls()
    history = fit(network(), data, CONFIG, extras=[calls])
    steps = -(-len(data.train) // 64)
    assert calls.seen == [f"start {steps} 2", *["loss", "gradients", "weights"] * (2 * steps), "finish"]
    assert [record.extra for record in history.epochs] == [{"steps": steps}, {"steps": 2 * steps}]


def test_a_penalty_adds_its_gradient(data: DataSet) -> None:
    plain, pulled = Difference(), Difference()
    fit(network(), data, CONFIG.model_copy(update={"epochs": 1}), extras=[plain])
    fit(network(), data, CONFIG.model_copy(update={"epochs": 1}), extras=[Pull(), pulled])
    assert plain.found.keys() == pulled.found.keys()
    for name, gradient in plain.found.items():
        assert torch.allclose(pulled.found[name] - gradient, torch.ones_like(gradient), atol=1e-4), name


def test_an_extra_goes_on_where_a_killed_run_stopped(data: DataSet, tmp_path: Path) -> None:
    class Killed(RuntimeError):
        pass

    def stop(record: Any) -> None:
        if record.epoch == 2:
            raise Killed

    with pytest.raises(Killed):
        fit(network(), data, CONFIG, folder=tmp_path, extras=[Calls()], on_epoch=stop)
    again = Calls()
    fit(network(), data, CONFIG, folder=tmp_path, extras=[again])
    whole = Calls()
    fit(network(), data, CONFIG, extras=[whole])
    assert again.steps == whole.steps
    assert len(again.seen) < len(whole.seen)


def test_other_extras_are_another_run(data: DataSet, tmp_path: Path) -> None:
    fit(network(), data, CONFIG, folder=tmp_path, extras=[Calls()])
    with pytest.raises(InputError, match="extras was"):
        fit(network(), data, CONFIG, folder=tmp_path, extras=[Pull()])
