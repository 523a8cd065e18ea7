"""Several labels: loss and metrics against independent computations, and a network that goes through it."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch

import secateur
from secateur.core.errors import InputError
from secateur.data.labelled import digits_with_labels
from secateur.models import create
from secateur.recipe.load import load_recipe
from secateur.recipe.prepare import Given, make_model
from secateur.recipe.schema import HeadConfig
from secateur.task import MultiLabel, try_task
from secateur.train import TrainConfig, evaluate, fit

pytestmark = pytest.mark.skipif(find_spec("torchmetrics") is None, reason="torchmetrics is not installed")


@pytest.fixture(scope="module")
def task() -> MultiLabel:
    return MultiLabel(digits_with_labels(16, 8, 24, side=32), flip=0)


def test_loss_and_distillation_by_hand(task: MultiLabel) -> None:
    z, y = torch.randn(4, 10), torch.randint(0, 2, (4, 10))
    p = 1 / (1 + np.exp(-z.double().numpy()))
    wanted = -(np.where(y.numpy() == 1, np.log(p), np.log(1 - p))).mean()
    assert float(task.loss(z, y)) == pytest.approx(wanted, rel=1e-5)
    t = torch.randn(4, 10)
    p, q = (1 / (1 + np.exp(-v.double().numpy() / 2)) for v in (z, t))
    wanted = 4 * -(q * np.log(p) + (1 - q) * np.log(1 - p)).mean()
    assert float(task.distillation(z, t, 2.0)) == pytest.approx(wanted, rel=1e-5)


def test_metrics_against_scikit_learn(task: MultiLabel) -> None:
    from sklearn.metrics import average_precision_score, f1_score

    z, y = torch.randn(60, 10), torch.randint(0, 2, (60, 10))
    meter = task.meter()
    for part in range(0, 60, 25):
        meter.update(z[part : part + 25], y[part : part + 25], len(z[part : part + 25]))
    found = meter.compute()
    assert found["map"] == pytest.approx(average_precision_score(y, z.sigmoid(), average="macro"), abs=1e-5)
    assert found["f1"] == pytest.approx(f1_score(y, z > 0, average="macro"), abs=1e-5)


def test_a_network_trains_prunes_and_is_scored(task: MultiLabel) -> None:
    network = create("resnet20", **task.options("resnet20"))
    try_task(task, network)
    fit(network, task, TrainConfig(epochs=1, batch_size=8), progress=False)
    small = secateur.prune(network, task.sample(2), macs=0.5)
    assert small.after.macs < 0.52 * small.before.macs
    assert set(evaluate(small, task).metrics) == {"map", "f1", "loss"}
    with pytest.raises(InputError, match="one score a label"):
        try_task(task, create("resnet20", classes=3))


def test_a_network_for_other_labels_gets_a_head_for_these(task: MultiLabel) -> None:
    recipe = load_recipe("quickstart")
    recipe = replace(recipe, model=recipe.model.model_copy(update={"head": HeadConfig(hidden=12)}))
    network = create("resnet20", classes=3)
    made = make_model(recipe, task, Given(network, task))
    assert tuple(made(task.sample(2)).shape) == (2, 10)
    assert made.linear[0].out_features == 12
    assert network.linear.out_features == 3
    never = replace(recipe, model=recipe.model.model_copy(update={"head": HeadConfig(replace="never")}))
    with pytest.raises(InputError, match=r"gives 3 class scores and .* has 10 classes"):
        make_model(never, task, Given(network, task))
