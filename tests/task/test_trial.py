"""What does not fit is told before anything is trained: loader, network, loss, metric."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.core.errors import InputError
from secateur.core.metric import Metric
from secateur.task import Task, try_task

X, Y = torch.randn(32, 4), torch.randn(32, 1)


def nan(output: Tensor, target: Tensor) -> float:
    return float("nan")


def fits(**given: Any) -> Task:
    return Task(**{"train": (X, Y), "test": (X, Y), "loss": F.mse_loss, **given})


def test_what_fits_leaves_the_network_as_it_was() -> None:
    network = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 1))
    network[1].eval()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    try_task(fits(validation=[(X[:4], Y[:4])]), network)
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
    assert network.training
    assert not network[1].training


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"train": []}, "The train loader ends at once"),
        ({"test": []}, "The test loader ends at once"),
        ({"train": [(torch.randn(8, 5), torch.randn(8, 1))]}, "does not take the batches of train"),
        ({"test": [(torch.randn(8, 5), torch.randn(8, 1))]}, "does not take the batches of test"),
        ({"train": (X, Y[:, 0])}, "The loss does not take an output of shape (16, 1) and a target of shape (16,)"),
        ({"loss": lambda o, t: (o - t).square()}, "The loss of a batch is one number"),
        ({"loss": lambda o, t: 1.0}, "The loss of a batch is one number"),
        ({"loss": lambda o, t: (o - t).mean().detach()}, "does not depend on the network's weights"),
        ({"loss": lambda o, t: o.mean() * float("nan")}, "The loss is nan on the first training batch"),
        ({"loss": lambda o, t: F.cross_entropy(o, t.long())}, "The loss does not take"),
        ({"metrics": {"odd": Metric(nan, "lower")}}, "The metric odd is nan on the samples of test"),
        ({"metrics": {"odd": Metric(lambda o, t: o @ t, "lower")}}, "The metric odd does not take"),
        ({"train": lambda: iter([(X, Y)])}, "does not say how many batches it has"),
        ({"train": None}, "has no train split"),
        ({"loss": None}, "has no loss"),
    ],
)
def test_misfits(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        try_task(fits(**given), nn.Linear(4, 1))
    assert said in str(caught.value)


def test_without_training_neither_loss_nor_training_samples_are_wanted() -> None:
    task = Task(test=(X, Y), metrics={"off": Metric(lambda o, t: (o - t).abs().mean(), "lower")})
    try_task(task, nn.Linear(4, 1), train=False)


def test_a_used_up_iterator_is_told() -> None:
    batches = iter([(X, Y)])
    next(batches)
    with pytest.raises(InputError, match="An iterator that was used up is empty"):
        try_task(fits(test=batches), nn.Linear(4, 1))
