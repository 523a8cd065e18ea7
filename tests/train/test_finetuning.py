"""Distillation, averaged weights and mixup: formulas recomputed by hand, and what they leave alone."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.core.errors import InputError, UnknownNameError
from secateur.data import DataSet, load
from secateur.models import create
from secateur.train import Distill, Extra, TrainConfig, fit
from secateur.train.averaging import Average
from secateur.train.distill import attention, stages
from secateur.train.mixup import Mixup

CONFIG = TrainConfig(epochs=2, batch_size=64, augment=False)


@pytest.fixture
def data() -> DataSet:
    return load("digits", limit=128)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return create("resnet_digits")


# ------------------------------------------------------------------------------------------------ distillation


def by_hand(z: Tensor, t: Tensor, y: Tensor, w: float, temperature: float) -> float:
    """(w · T² · KL − w · CE), number by number."""
    total = 0.0
    for scores, wanted, label in zip(z.tolist(), t.tolist(), y.tolist(), strict=True):
        p = [math.exp(v / temperature) for v in wanted]
        q = [math.exp(v / temperature) for v in scores]
        p, q = [v / sum(p) for v in p], [v / sum(q) for v in q]
        kl = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        ce = math.log(sum(math.exp(v) for v in scores)) - scores[label]
        total += w * temperature**2 * kl - w * ce
    return total / len(z)


@pytest.mark.parametrize(("w", "temperature"), [(0.5, 4.0), (1.0, 1.0), (0.0, 2.0)])
def test_the_term_is_the_papers(w: float, temperature: float) -> None:
    torch.manual_seed(1)
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    inputs, scores, labels = torch.randn(7, 3, 2, 2), torch.randn(7, 5), torch.randint(5, (7,))
    term = Distill(teacher, weight=w, temperature=temperature).loss(nn.Identity(), inputs, scores, labels)
    assert float(term) == pytest.approx(by_hand(scores, teacher(inputs), labels, w, temperature), rel=1e-4, abs=1e-5)


def test_attention_is_the_papers_for_any_width() -> None:
    maps = torch.randn(2, 3, 4, 5)
    want = torch.zeros(2, 20)
    for n in range(2):
        for p in range(20):
            want[n, p] = sum(float(maps[n, c, p // 5, p % 5]) ** 2 for c in range(3)) / 3
        want[n] /= float(want[n].norm())
    assert torch.allclose(attention(maps), want, atol=1e-6)
    assert attention(torch.randn(2, 9, 4, 5)).shape == attention(maps).shape


def test_the_feature_term_compares_the_maps_of_this_step() -> None:
    torch.manual_seed(2)
    teacher = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 4))
    student = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(20, 4))
    distill = Distill(teacher, weight=0.0, features=3.0, layers=("1",))
    distill.start(student, 1, 1)
    for _ in range(2):  # the second step must not see the first one's maps
        inputs, labels = torch.randn(6, 3, 4, 4), torch.randint(4, (6,))
        term = distill.loss(student, inputs, student(inputs), labels)
    term.backward()  # type: ignore[no-untyped-call]
    gap = attention(student[:2](inputs)) - attention(teacher[:2](inputs))
    assert float(term.detach()) == pytest.approx(3.0 * float(gap.detach().square().sum(1).mean()), rel=1e-4)
    assert student[0].weight.grad is not None
    assert float(student[0].weight.grad.abs().sum()) > 0
    distill.finish(student)
    assert not any(m._forward_hooks for n in (student, teacher) for m in n.modules())


def test_the_teacher_stays_as_it_is(data: DataSet) -> None:
    teacher = network(1).train()
    before = {n: t.clone() for n, t in teacher.state_dict().items()}
    fit(network(), data, CONFIG, extras=[Distill(teacher, features=1.0, inputs=data.sample(2))])
    assert all(torch.equal(t, before[n]) for n, t in teacher.state_dict().items())
    assert teacher.training
    assert all(p.grad is None for p in teacher.parameters())


def test_stages_are_the_last_of_every_resolution(data: DataSet) -> None:
    names = stages(network(), data.sample(2))
    assert names == tuple(n for n in ("layer1", "layer2", "layer3") if n in dict(network().named_modules()))


def test_a_pruned_student_learns_from_the_dense_network(data: DataSet) -> None:
    dense = network()
    pruned = secateur.prune(dense, data.sample(2), ratio=0.5, scope="block", backend="module").model
    fit(pruned, data, CONFIG, extras=[Distill(dense, features=1.0, inputs=data.sample(2))])
    assert sum(p.numel() for p in pruned.parameters()) < sum(p.numel() for p in dense.parameters())


def test_what_distillation_refuses(data: DataSet) -> None:
    teacher = network()
    with pytest.raises(InputError, match="weight 2"):
        Distill(teacher, weight=2)
    with pytest.raises(InputError, match="name layers"):
        Distill(teacher, features=1.0)
    with pytest.raises(UnknownNameError, match="layer1"):
        fit(network(), data, CONFIG, extras=[Distill(teacher, features=1.0, layers=("layer11",))])
    graph = secateur.prune(teacher, data.sample(2), ratio=0.5, backend="graph").model
    with pytest.raises(InputError, match="traced graph"):
        fit(graph, data, CONFIG, extras=[Distill(teacher, features=1.0, inputs=data.sample(2))])


# ------------------------------------------------------------------------------------------- averaged weights


class Weights(Extra):
    """Keeps a copy of the trained weights after every step."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Tensor]] = []

    def weights(self, model: nn.Module) -> None:
        self.seen.append({n: t.clone() for n, t in model.state_dict().items()})


def test_the_average_is_the_recursion(data: DataSet) -> None:
    model, seen = network(), Weights()
    start = {n: t.clone() for n, t in model.state_dict().items()}
    fit(model, data, CONFIG.model_copy(update={"average": 0.5}), extras=[seen])
    name = "conv1.weight" if "conv1.weight" in start else next(iter(start))
    want = start[name]
    for t, weights in enumerate(seen.seen, start=1):
        d = min(0.5, (1 + t) / (10 + t))
        want = d * want + (1 - d) * weights[name]
    assert torch.allclose(model.state_dict()[name], want, atol=1e-6)
    assert not torch.allclose(seen.seen[-1][name], want, atol=1e-6)


def test_an_interrupted_average_ends_the_same(data: DataSet, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"average": 0.9, "mixup": 0.2, "epochs": 3, "keep": "best"})
    whole = network()
    fit(whole, data, config)

    class Killed(RuntimeError):
        pass

    def stop(record: object) -> None:
        if record.epoch == 2:  # type: ignore[attr-defined]
            raise Killed

    with pytest.raises(Killed):
        fit(network(), data, config, folder=tmp_path, on_epoch=stop)
    again = network()
    fit(again, data, config, folder=tmp_path)
    assert all(torch.equal(t, again.state_dict()[n]) for n, t in whole.state_dict().items())


def test_swapping_twice_changes_nothing() -> None:
    model, average = network(), Average(0.9)
    average.start(model, 1, 1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)
    average.weights(model)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    average.swap(model)
    assert any(not torch.equal(t, before[n]) for n, t in model.state_dict().items())
    average.swap(model)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


# ------------------------------------------------------------------------------------------------------ mixup


def test_blends_keep_their_sums() -> None:
    torch.manual_seed(0)
    inputs, labels = torch.randn(8, 1, 2, 2), torch.arange(8) % 3
    blended, targets = Mixup(1.0, 3).batch(inputs, labels)
    assert torch.allclose(targets.sum(1), torch.ones(8))
    assert torch.allclose(blended.sum(0), inputs.sum(0), atol=1e-5)  # every image goes in once as each partner
    share = float(targets[0, labels[0]])
    partner = next(
        j for j in range(8) if torch.allclose(blended[0], torch.lerp(inputs[j], inputs[0], share), atol=1e-4)
    )
    assert targets[0, labels[partner]] == pytest.approx(1 - share if labels[partner] != labels[0] else 1.0, abs=1e-5)


def test_mixup_trains_and_refuses(data: DataSet) -> None:
    history = fit(network(), data, CONFIG.model_copy(update={"mixup": 0.4, "epochs": 3}))
    assert history.epochs[-1].train_loss < history.epochs[0].train_loss
    with pytest.raises(InputError, match="alpha"):
        Mixup(0.0, 3)


# ----------------------------------------------------------------------------------------------- compiled steps


def test_compiled_steps_train_the_same_network(data: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dynamo's graph run as it is (no C++ compiler needed): wiring, names, extras and result."""
    compiled: list[nn.Module] = []

    real = torch.compile

    def through_dynamo(model: nn.Module, **options: Any) -> Any:
        compiled.append(model)
        return real(model, **{**options, "backend": "eager"})

    monkeypatch.setattr(torch, "compile", through_dynamo)
    plain, fast = network(), network()
    names = list(fast.state_dict())
    for model, config in ((plain, CONFIG), (fast, CONFIG.model_copy(update={"compile": True, "average": 0.5}))):
        seen = Weights()
        history = fit(
            model, data, config, extras=[seen, Distill(network(1), features=1.0, inputs=torch.zeros(2, 1, 8, 8))]
        )
        assert len(seen.seen) == 2 * -(-len(data.train) // 64)
        assert len(history.epochs) == 2
    assert compiled  # Fabric compiles what it has wrapped once more
    assert all(model is fast for model in compiled)
    assert list(fast.state_dict()) == names
    fit(
        again := network(),
        data,
        CONFIG.model_copy(update={"average": 0.5}),
        extras=[Distill(network(1), features=1.0, inputs=torch.zeros(2, 1, 8, 8))],
    )
    for name, tensor in again.state_dict().items():
        assert torch.allclose(tensor, fast.state_dict()[name], atol=1e-5), name
