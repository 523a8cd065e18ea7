"""Evaluation against scores computed by hand, and that it leaves no trace."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from secateur.core.errors import InputError
from secateur.data import DataSet, Split, load
from secateur.models import create
from secateur.train import evaluate, fit


@pytest.fixture(scope="module")
def data() -> DataSet:
    return load("digits", limit=200)


def test_figures_by_hand(data: DataSet) -> None:
    model = create("resnet_digits").eval()
    assert isinstance(data.test, Split)
    found = evaluate(model, data, batch_size=33)
    scores = model(data.normalise(data.test.images))
    order = scores.argsort(1, descending=True)
    hits = order == data.test.labels[:, None]
    assert found.samples == 200
    assert found.top1 == pytest.approx(100 * hits[:, 0].float().mean().item(), abs=1e-4)
    assert found.top5 == pytest.approx(100 * hits[:, :5].any(1).float().mean().item(), abs=1e-4)
    assert found.loss == pytest.approx(F.cross_entropy(scores, data.test.labels).item(), rel=1e-5)
    assert found.seconds_per_sample > 0


def test_modes_weights_and_random_state_stay(data: DataSet) -> None:
    model = create("resnet_digits").train()
    model.bn1.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    first, second = (evaluate(model, data) for _ in range(2))
    assert first.loss == second.loss
    assert [m.training for m in (model, model.bn1, model.layer1)] == [True, False, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())


def test_a_graph_module(data: DataSet) -> None:
    model = create("resnet_digits").eval()
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(model, (data.sample(3),), dynamic_shapes=({0: batch},))
    found = evaluate(program.module(), data)
    assert found.loss == pytest.approx(evaluate(model, data).loss, rel=1e-5)
    with pytest.raises(InputError, match="no training mode"):
        fit(program.module(), data)


def test_bf16_is_close(data: DataSet) -> None:
    model = create("resnet_digits").eval()
    half = evaluate(model, data, precision="bf16")
    full = evaluate(model, data)
    assert half.loss != full.loss
    assert half.loss == pytest.approx(full.loss, rel=0.05)


def test_few_classes_have_a_full_top5() -> None:
    images = torch.randint(0, 256, (20, 1, 4, 4), dtype=torch.uint8)
    split = Split(images, torch.arange(20) % 3)
    few = DataSet("few", ("a", "b", "c"), (1, 4, 4), split, split, split, (0.5,), (0.5,))
    found = evaluate(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), few, split)
    assert found.top5 == 100


def test_networks_and_splits_that_do_not_fit(data: DataSet) -> None:
    with pytest.raises(InputError, match=r"shape \(2, 7\).*classes=10"):
        evaluate(create("resnet_digits", classes=7), data)
    with pytest.raises(InputError, match=r"\(1, 8, 8\)"):
        evaluate(create("resnet20"), data)
    with pytest.raises(InputError, match="no images"):
        evaluate(create("resnet_digits"), data, data.test.subset(torch.arange(0)))
    with pytest.raises(InputError, match="returns dict"):
        evaluate(Odd(), data)


class Odd(nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"something": x}
