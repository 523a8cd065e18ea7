"""Sensitivity: what is masked has the numbers of what is really cut, and every wrong argument is answered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import secateur
from secateur.core.errors import BudgetError, InputError, UnknownNameError
from secateur.data import load
from secateur.models import create
from secateur.train import evaluate
from tiny_networks import Tiny


class Mixed(nn.Module):
    """A layer norm over a cut dimension, attention, and a batch norm behind a concatenation: more than zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(6, 16), nn.LayerNorm(16)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.wide, self.other, self.bn = nn.Linear(16, 12), nn.Linear(16, 8), nn.BatchNorm1d(20)
        self.head = nn.Linear(20, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.norm(self.embed(x))
        h = (h + self.attention(h, h, h)[0]).mean(1)
        both = self.bn(torch.cat([F.gelu(self.wide(h)), F.relu(self.other(h))], 1))
        return {"scores": self.head(both), "length": both.new_tensor([3.0])}


def settled(model: nn.Module, x: Tensor) -> nn.Module:
    """With statistics of its own, in eval mode."""
    model.train()
    for _ in range(3):
        model(x)
    return model.eval()


def tensors(found: Any) -> list[Tensor]:
    return list(found.values()) if isinstance(found, dict) else [found]


NETWORKS = {"convolutions": (Tiny, (40, 1, 8, 8)), "attention": (Mixed, (40, 5, 6))}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_error_of_masked_units_is_that_of_the_real_cut(name: str) -> None:
    """Every group, two shares: cut by prune, outputs compared in double precision."""
    kind, shape = NETWORKS[name]
    x = torch.randn(shape)
    model = settled(kind(), x)
    found = secateur.sensitivity(model, x[:2], data=x, ratios=(0.25, 0.5))
    assert {c.name for c in found.curves} == {g.name for g in secateur.analyse(model, x[:2]).groups.items}
    with torch.no_grad():
        want = [y.double() for y in tensors(model(x))]
    for curve in found.curves:
        for ratio, value in zip(curve.ratios, curve.values, strict=True):
            small = secateur.prune(model, x[:2], ratio=ratio, groups=[curve.name])
            with torch.no_grad():
                got = [y.double() for y in tensors(small(x))]
            apart = sum(float((a - b).square().sum()) for a, b in zip(got, want, strict=True))
            assert value == pytest.approx(apart / sum(float(b.square().sum()) for b in want), rel=1e-4, abs=1e-12)
    assert found.samples == 40


def test_a_score_gets_networks_and_the_values_are_its_own() -> None:
    x = torch.randn(64, 1, 8, 8)
    model = settled(Tiny(), x)
    with torch.no_grad():
        labels = model(x).argmax(1)

    def accuracy(network: Any) -> float:
        with torch.no_grad():
            return 100 * float((network(x).argmax(1) == labels).float().mean())

    found = secateur.sensitivity(model, x[:2], score=accuracy, ratios=(0.5,))
    assert (found.dense, found.metric.name, found.metric.better) == (100.0, "accuracy", "higher")
    for curve in found.curves:
        small = secateur.prune(model, x[:2], ratio=0.5, groups=[curve.name])
        assert curve.values[0] == pytest.approx(accuracy(small.model), abs=100 / 64)
    assert not any("really" in note for note in found.notes)


def test_a_task_is_measured_by_its_leading_metric() -> None:
    """On validation samples, and a data set stands for its classification."""
    data = load("digits")
    model = create("resnet_digits").eval()
    found = secateur.sensitivity(model, data.sample(2), data=data, ratios=(0.5,), criterion="taylor", groups=["conv1"])
    assert found.metric.name == "top1"
    assert found.samples == min(512, len(data.validation))
    assert found.dense == evaluate(model, data, "validation", limit=512).metrics["top1"]
    labelled = list(data.labelled(512))
    small = secateur.prune(model, data.sample(2), ratio=0.5, groups=["conv1"], criterion="taylor", data=labelled)
    assert found.curves[0].values[0] == pytest.approx(
        evaluate(small.model, data, "validation").metrics["top1"], abs=0.5
    )


def test_a_task_of_ones_own_says_which_way_is_better() -> None:
    x = torch.randn(96, 6)
    y = x[:, :1] - x[:, 1:2]
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))
    mae = secateur.Metric(lambda output, target: (output - target).abs().mean(), better="lower")
    task = secateur.Task(train=(x, y), loss=F.mse_loss, metrics={"mae": mae})
    found = secateur.sensitivity(model, x[:2], data=task, ratios=(0.5,), repair=True)
    assert (found.metric.name, found.samples) == ("mae", 96), "the training split, as there is no other"
    with torch.no_grad():
        assert found.dense == pytest.approx(float((model(x) - y).abs().mean()), rel=1e-5)
    assert "mae" in str(found)


def test_a_score_that_asks_for_the_class_gets_real_cuts() -> None:
    x = torch.randn(8, 1, 8, 8)
    model = settled(Tiny(), x)
    found = secateur.sensitivity(model, x[:2], score=lambda n: n.linear.in_features, better="lower", ratios=(0.5,))
    assert found.dense == 12
    assert found.metric.name == "score"
    assert {curve.name: curve.values for curve in found.curves}["wide"] == (6.0,)
    assert any("really made" in note for note in found.notes)


def test_repair_makes_the_error_smaller() -> None:
    x = torch.randn(128, 1, 8, 8)
    model = settled(Tiny(), x)
    plain = secateur.sensitivity(model, x[:2], data=x, ratios=(0.5,))
    fixed = secateur.sensitivity(model, x[:2], data=x, ratios=(0.5,), repair=True)
    assert fixed.repaired
    for before, after in zip(plain.curves, fixed.curves, strict=True):
        assert after.values[0] < before.values[0]
    cut = secateur.recover(secateur.prune(model, x[:2], ratio=0.5, groups=["wide"]), x)
    with torch.no_grad():
        error = ((cut(x) - model(x)).double().square().sum() / model(x).double().square().sum()).item()
    assert {c.name: c.values for c in fixed.curves}["wide"] == (pytest.approx(error, rel=1e-3),)


def test_the_network_and_the_random_state_are_left_alone() -> None:
    x = torch.randn(8, 1, 8, 8)
    model = settled(Tiny(), x).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    one = secateur.sensitivity(model, x[:2], data=(part for part in x.split(4)))
    assert torch.equal(state, torch.random.get_rng_state())
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for curve, other in zip(one.curves, secateur.sensitivity(model, x[:2], data=x).curves, strict=True):
        assert curve.removed == other.removed
        assert curve.values == pytest.approx(other.values, rel=1e-4), "a generator is gone through once"


def test_small_groups_have_fewer_shares_and_selections_are_kept_to() -> None:
    x = torch.randn(8, 1, 8, 8)
    model = settled(Tiny(), x)
    found = secateur.sensitivity(model, x, ratios=(0.05, 0.1, 0.5))
    assert {c.name: c.removed for c in found.curves}["stem"] == (1, 3)
    assert [c.name for c in secateur.sensitivity(model, x, groups=["wide"]).curves] == ["wide"]
    assert [c.name for c in secateur.sensitivity(model, x, only=[model.wide]).curves] == ["wide"]
    assert "wide" not in {c.name for c in secateur.sensitivity(model, x, ignore="wide").curves}
    small = secateur.prune(model, x, ratio=0.5)
    assert {c.units for c in secateur.sensitivity(small).curves} == {3, 4, 6}


def test_a_criterion_may_look_at_data_and_labels() -> None:
    x, labels = torch.randn(16, 1, 8, 8), torch.randint(0, 10, (16,))
    model = settled(Tiny(), x)
    found = secateur.sensitivity(model, x[:2], data=[(x, labels)], criterion="taylor", ratios=(0.5,))
    small = secateur.prune(model, x[:2], criterion="taylor", data=[(x, labels)], groups=["wide"], ratio=0.5)
    with torch.no_grad():
        error = ((small(x) - model(x)).double().square().sum() / model(x).double().square().sum()).item()
    assert {c.name: c.values for c in found.curves}["wide"] == (pytest.approx(error, rel=1e-4),)


def test_half_of_the_work_is_kept_where_it_hurts() -> None:
    """A layer whose units repeat one another can spare them; the ratios find it."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))
    with torch.no_grad():
        model[0].weight[4:] *= 1e-4
        model[0].bias[4:] *= 1e-4
    x = torch.randn(64, 6)
    ratios = secateur.sensitivity(model, x[:2], data=x).ratios(macs=0.5)
    assert ratios["0"] > 0.4
    assert ratios["2"] < 0.1


def test_the_code_of_its_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[2] / "docs/sensitivity.md").read_text()
    names: dict[str, Any] = {}
    for block in page.split("```python\n")[1:]:
        exec(compile(block.partition("```")[0], "docs/sensitivity.md", "exec"), names)
    assert names["small"].after.macs <= 0.505 * names["small"].before.macs
    read = secateur.Sensitivity.read("sensitivity.json")
    assert read.ratios() == names["found"].ratios(macs=0.5)
    assert read.on(names["model"], names["x"]).ratios(params=0.3)


X = torch.randn(4, 1, 8, 8)


@pytest.mark.parametrize(("options", "kind", "words"), [
    ({"ratios": ()}, InputError, "got none"), ({"ratios": (0.5, 1.0)}, InputError, "got 1.0"),
    ({"ratios": (0.0,)}, InputError, "got 0.0"), ({"ratios": 0.5}, InputError, "ratios"),
    ({"better": "highr"}, InputError, "higher"), ({"groups": ["wyde"]}, UnknownNameError, "'wide'"),
    ({"groups": []}, BudgetError, "groups is empty"), ({"criterion": "l22"}, UnknownNameError, "l2"),
    ({"only": "wyde"}, UnknownNameError, "wide"), ({"repair": True}, InputError, "needs|give data"),
    ({"data": torch.randn(4, 3, 8, 8)}, InputError, "shape"), ({"data": []}, InputError, "no batch"),
    ({"score": lambda n: float("nan")}, InputError, "finite"), ({"score": lambda n: "good"}, InputError, "one number"),
    ({"score": lambda n: torch.ones(2)}, InputError, "one number"), ({"score": 3}, InputError, "score"),
    ({"ignore": "*"}, BudgetError, "Nothing can be pruned"), ({"rations": (0.5,)}, InputError, "ratios"),
])  # fmt: skip
def test_wrong_arguments_are_answered(options: dict[str, Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        secateur.sensitivity(Tiny().eval(), X, **options)


def test_networks_without_an_output_to_compare_are_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    with torch.no_grad():
        model[2].weight.zero_()
        model[2].bias.zero_()
    with pytest.raises(InputError, match="nothing but zeros"):
        secateur.sensitivity(model, torch.randn(2, 4))
    with pytest.raises(InputError, match="example_inputs is missing"):
        secateur.sensitivity(model)
