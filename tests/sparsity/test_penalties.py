"""The L1 penalty on batch-norm scales, and what every penalty writes down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.core.errors import InputError, UnknownNameError
from secateur.data import DataSet, load
from secateur.models import create
from secateur.sparsity import penalties
from secateur.sparsity.penalties import PENALTIES, BatchNormL1, Penalty, distribution
from secateur.train import Extra, TrainConfig, fit

CONFIG = TrainConfig(epochs=2, batch_size=64, lr=0.02)


@pytest.fixture(scope="module")
def data() -> DataSet:
    return load("digits", limit=128)


def network() -> nn.Module:
    torch.manual_seed(0)
    return create("resnet_digits")


class Gradients(Extra):
    """Keeps the gradients of the first step."""

    def __init__(self) -> None:
        self.found: dict[str, Tensor] = {}

    def gradients(self, model: nn.Module) -> None:
        self.found = self.found or {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def first_gradients(data: DataSet, *extras: Extra) -> dict[str, Tensor]:
    last = Gradients()
    fit(network(), data, CONFIG.model_copy(update={"epochs": 1}), extras=[*extras, last])
    return last.found


def test_the_gradient_is_that_of_the_formula_and_of_scales_alone(data: DataSet) -> None:
    plain, pushed = first_gradients(data), first_gradients(data, BatchNormL1(0.5))
    model = network()
    gammas = {n: p for n, p in model.named_parameters() if "bn" in n and n.endswith("weight")}
    assert len(gammas) == 13
    (0.5 * sum(gamma.abs().sum() for gamma in gammas.values())).backward()  # type: ignore[union-attr]
    for name, gradient in plain.items():
        wanted = gammas[name].grad if name in gammas else torch.zeros_like(gradient)
        assert torch.allclose(pushed[name] - gradient, wanted, atol=1e-6), name


def test_nothing_is_added_at_zero() -> None:
    norm = nn.BatchNorm2d(3)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.0, 2.0, -3.0]))
    norm.weight.grad = torch.ones(3)
    BatchNormL1(0.25).gradients(norm)
    assert norm.weight.grad.tolist() == [1.0, 1.25, 0.75]


def test_scales_shrink_and_every_epoch_says_how_far(data: DataSet) -> None:
    plain, pushed = network(), network()
    fit(plain, data, CONFIG)
    history = fit(pushed, data, CONFIG, extras=[BatchNormL1(2.0)])  # strong: there are four steps
    penalty = BatchNormL1()
    assert penalty.sizes(pushed).mean() < 0.9 * penalty.sizes(plain).mean()
    records = [record.extra["bn_l1"] for record in history.epochs]
    assert records[0]["before"]["quantiles"] == [1.0] * 7, "batch norm starts at one"
    assert "before" not in records[1]
    assert records[1]["sum"] < records[0]["sum"] < records[0]["before"]["sum"] == records[0]["count"]
    assert records[1] == distribution(penalty.sizes(pushed))


def test_a_distribution_by_hand() -> None:
    found = distribution(torch.tensor([0.0, 0.005, 0.5, 1.0, 2.0]))
    assert (found["count"], found["small"], found["high"]) == (5, 0.4, 2.0)
    assert found["quantiles"] == pytest.approx([0, 0.001, 0.005, 0.5, 1.0, 1.8, 2.0])
    counts = [0] * penalties.BINS
    for value in (0.0, 0.005, 0.5, 1.0):
        counts[int(value / 2.0 * penalties.BINS)] += 1
    counts[-1] += 1
    assert found["counts"] == counts


def test_a_network_without_any_weight_left_has_a_distribution_too() -> None:
    assert distribution(torch.zeros(3))["counts"][0] == 3


def test_scales_start_where_asked_and_only_once(data: DataSet, tmp_path: Path) -> None:
    class Killed(RuntimeError):
        pass

    def stop(record: Any) -> None:
        if record.epoch == 2:
            raise Killed

    def penalty() -> BatchNormL1:
        return BatchNormL1(0.05, init=0.5)

    stopped, whole = network(), network()
    with pytest.raises(Killed):
        fit(stopped, data, CONFIG, folder=tmp_path, extras=[penalty()], on_epoch=stop)
    again = fit(stopped, data, CONFIG, folder=tmp_path, extras=[penalty()])
    history = fit(whole, data, CONFIG, extras=[penalty()])
    assert history.epochs[0].extra["bn_l1"]["before"]["quantiles"] == [0.5] * 7
    assert [r.extra for r in again.epochs] == [r.extra for r in history.epochs]
    assert all(torch.equal(a, b) for a, b in zip(stopped.parameters(), whole.parameters(), strict=True))


def test_which_scales(data: DataSet) -> None:
    model, images = network(), data.sample(2)
    inner = {f"layer{stage}.{block}.bn1.weight" for stage in (1, 2, 3) for block in (0, 1)}
    counts = {}
    for scales in ("all", "prunable", "inside"):
        penalty = BatchNormL1(scales=scales).bind(model, images)  # type: ignore[arg-type]
        counts[scales] = len(penalty.sizes(model))
        if scales == "inside":
            pushed = {id(gamma) for gamma, _ in penalty.subgradients(model)}
            assert {n for n, p in model.named_parameters() if id(p) in pushed} == inner
    widths = {1: 16, 2: 32, 3: 64}
    assert counts["inside"] == sum(2 * w for w in widths.values())
    assert counts["all"] == counts["prunable"] == 16 + sum(4 * w for w in widths.values())


@pytest.mark.parametrize("scales", ["prunable", "inside"])
def test_a_choice_of_scales_needs_the_label_flow(scales: Any) -> None:
    with pytest.raises(InputError, match="bind"):
        BatchNormL1(scales=scales).sizes(network())


def test_no_batch_norm_is_an_error(data: DataSet) -> None:
    bare = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(InputError, match="no learned batch-norm scale"):
        fit(bare, data, CONFIG, extras=[BatchNormL1()])
    frozen = network().requires_grad_(False)
    frozen.linear.requires_grad_(True)
    with pytest.raises(InputError, match="meets no parameter"):
        fit(frozen, data, CONFIG, extras=[BatchNormL1()])
    with pytest.raises(InputError, match="of a channel inside a block"):
        BatchNormL1(scales="inside").bind(bare, torch.zeros(2, 1, 8, 8))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"weight": -1e-4}, "at least 0"),
        ({"weight": float("nan")}, "weight is a finite number"),
        ({"scales": "insid"}, "inside"),
        ({"init": 0.0}, "positive"),
    ],
)
def test_bad_settings(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        BatchNormL1(**options)


def test_a_new_penalty_is_one_decorated_class(data: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PENALTIES, "_items", dict(PENALTIES._items))

    @PENALTIES.register("bias_l1")
    class BiasL1(Penalty):
        name = "bias_l1"

        def sizes(self, model: nn.Module) -> Tensor:
            return model.linear.bias.detach().abs()

        def subgradients(self, model: nn.Module) -> Any:
            yield model.linear.bias, model.linear.bias.detach().sign()

    model = network()
    history = fit(model, data, CONFIG, extras=[PENALTIES["bias_l1"](10.0)])
    assert history.epochs[-1].extra["bias_l1"]["count"] == 10
    with pytest.raises(UnknownNameError, match="bias_l1"):
        PENALTIES["bias_l2"]
