"""Training: it learns, it is exact, and it leaves everything else alone."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from secateur.core.errors import InputError
from secateur.data import DataSet, StreamedSplit, load
from secateur.models import create
from secateur.train import EpochRecord, TrainConfig, TrainingError, evaluate, fit


@pytest.fixture(scope="module")
def data() -> DataSet:
    return load("digits", limit=300)


def net() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(512, 10)
    )


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first | second)


def figures(record: EpochRecord) -> tuple[object, ...]:
    return (record.epoch, record.train_loss, record.train_top1, record.val_loss, record.val_top1, record.lr)


def test_it_learns_the_digits() -> None:
    data, model = load("digits"), create("resnet_digits")
    history = fit(model, data, TrainConfig(epochs=4, batch_size=64, lr=0.1))
    assert evaluate(model, data).top1 > 93
    assert history.epochs[-1].train_loss < history.epochs[0].train_loss / 3
    assert history.kept == 4


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"optimizer": "adamw", "lr": 0.01, "gradient_clip": 1.0, "label_smoothing": 0.1},
        {"precision": "bf16", "channels_last": False},
        {"augment": False, "nesterov": False, "schedule": "cosine", "warmup": 0.2},
    ],
)
def test_the_same_seed_gives_the_same_weights(data: DataSet, settings: dict[str, object]) -> None:
    config = TrainConfig(epochs=2, batch_size=50, **settings)  # type: ignore[arg-type]
    found = []
    for noise in (1, 2):
        model = net()
        torch.manual_seed(noise)  # has no say
        history = fit(model, data, config, seed=3)
        found.append((weights(model), [figures(record) for record in history.epochs]))
    assert same(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]
    other = net()
    fit(other, data, config, seed=4)
    assert not same(found[0][0], weights(other))


def test_nothing_else_changes(data: DataSet) -> None:
    model = net().eval()
    state = torch.get_rng_state()
    fit(model, data, TrainConfig(epochs=1))
    assert torch.equal(state, torch.get_rng_state())
    assert not any(module.training for module in model.modules())
    assert all(p.grad is None and p.is_contiguous() for p in model.parameters())


def test_zero_epochs_change_nothing(data: DataSet) -> None:
    model = net()
    before = weights(model)
    history = fit(model, data, TrainConfig(epochs=0))
    assert (history.epochs, history.kept, history.best) == ((), 0, None)
    assert same(before, weights(model))


def test_frozen_parameters_stay(data: DataSet) -> None:
    model = net()
    model[0].requires_grad_(False)
    before = weights(model)
    fit(model, data, TrainConfig(epochs=1))
    assert torch.equal(before["0.weight"], model[0].weight)
    assert not torch.equal(before["5.weight"], model[5].weight)
    with pytest.raises(InputError, match="nothing to train"):
        fit(net().requires_grad_(False), data, TrainConfig(epochs=1))


def test_one_step_is_sgd_by_hand(data: DataSet) -> None:
    model, copy = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), nn.Linear(64, 10)
    copy.load_state_dict({k.removeprefix("1."): v for k, v in model.state_dict().items()})
    few = dataclasses.replace(data, train=data.train.subset(torch.arange(20)))
    settings = TrainConfig(epochs=1, batch_size=20, lr=0.1, schedule="constant", weight_decay=0.01, augment=False)
    fit(model, few, settings)
    images, labels = next(few.train.batches(20))
    loss = nn.functional.cross_entropy(copy(few.normalise(images).flatten(1)), labels)
    (gradient,) = torch.autograd.grad(loss, [copy.weight])
    gradient = gradient + 0.01 * copy.weight.detach()
    wanted = copy.weight.detach() - 0.1 * (gradient + 0.9 * gradient)  # Nesterov's first step
    torch.testing.assert_close(model[1].weight.detach(), wanted)


def test_the_record_of_an_epoch(data: DataSet) -> None:
    model, seen = net(), []
    history = fit(model, data, TrainConfig(epochs=2, schedule="step", milestones=(0.5,)), on_epoch=seen.append)
    assert tuple(seen) == history.epochs
    last = history.epochs[-1]
    found = evaluate(model, data, data.validation)
    assert last.val_top1 == pytest.approx(found.top1)
    assert last.val_loss == pytest.approx(found.loss, rel=1e-5)
    assert [record.lr for record in history.epochs] == pytest.approx([0.05, 0.005])
    assert last.samples_per_second > 0
    assert last.seconds > 0


def test_without_validation_images() -> None:
    data = load("digits", limit=100, validation=0)
    history = fit(net(), data, TrainConfig(epochs=2, keep="best", early_stop=1))
    assert [record.val_top1 for record in history.epochs] == [None, None]
    assert history.kept == 2


def rising_and_falling(monkeypatch: pytest.MonkeyPatch, tops: list[float]) -> None:
    left = iter(tops)
    monkeypatch.setattr("secateur.train.run.Run._validate", lambda _: {"loss": 1.0, "top1": next(left)})


@pytest.mark.parametrize("folder", [False, True])
def test_the_best_epoch_is_kept(
    data: DataSet, monkeypatch: pytest.MonkeyPatch, folder: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rising_and_falling(monkeypatch, [50.0, 80.0, 80.0, 70.0])
    where = tmp_path_factory.mktemp("run") if folder else None
    model, states = net(), []
    config = TrainConfig(epochs=4, keep="best", schedule="constant")
    history = fit(model, data, config, folder=where, on_epoch=lambda _: states.append(weights(model)))
    assert history.kept == 2
    assert same(weights(model), states[1])
    assert not same(weights(model), states[3])


def test_early_stop(data: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    rising_and_falling(monkeypatch, [50.0, 60.0, 55.0, 60.0, 99.0])
    history = fit(net(), data, TrainConfig(epochs=5, early_stop=2))
    assert [record.val_top1 for record in history.epochs] == [50.0, 60.0, 55.0, 60.0]
    assert history.kept == 4


def test_a_loss_that_is_no_number_stops_the_run(data: DataSet) -> None:
    model = net()
    with pytest.raises(TrainingError, match=r"epoch 1.*lower learning rate"):
        fit(model, data, TrainConfig(epochs=1, lr=1e30, schedule="constant", batch_size=10))
    with torch.no_grad():
        model[5].bias.fill_(math.nan)
    with pytest.raises(TrainingError, match="nan"):
        fit(model, data, TrainConfig(epochs=1))


def test_networks_that_do_not_fit(data: DataSet) -> None:
    with pytest.raises(InputError, match=r"replace_head\(model, 10\)"):
        fit(create("resnet_digits", classes=4), data)
    with pytest.raises(InputError, match=r"\(1, 8, 8\)"):
        fit(create("resnet20"), data)
    empty = dataclasses.replace(data, train=data.train.subset(torch.arange(0)))
    with pytest.raises(InputError, match="no images to train on"):
        fit(net(), empty)


def test_a_network_that_needs_the_contiguous_layout(data: DataSet) -> None:
    class Viewing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2, self.fc = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(64, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.conv2(self.conv1(x)).view(-1, 64))

    for augment in (True, False):
        assert fit(Viewing(), data, TrainConfig(epochs=1, augment=augment)).kept == 1


def test_side_outputs_are_ignored(data: DataSet) -> None:
    class Twofold(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.main = nn.Linear(64, 10)

        def forward(self, x: Tensor) -> object:
            scores = self.main(x.flatten(1))
            return (scores, scores * 2) if self.training else scores

    assert fit(Twofold(), data, TrainConfig(epochs=1)).kept == 1


def test_no_output_off_a_terminal(data: DataSet, capfd: pytest.CaptureFixture[str]) -> None:
    fit(net(), data, TrainConfig(epochs=1, precision="bf16"))
    assert capfd.readouterr() == ("", "")


def test_the_progress_bar_shows_the_figures(data: DataSet, capfd: pytest.CaptureFixture[str]) -> None:
    fit(net(), data, TrainConfig(epochs=2), name="adapt", progress=True)
    text = capfd.readouterr().err
    assert "adapt 2/2" in text
    assert "loss" in text
    assert "images/s" in text


@pytest.mark.slow
def test_two_processes_train_like_one() -> None:
    data = load("digits", limit=300)
    model, alone = create("lenet300", inputs=64), create("lenet300", inputs=64)
    model.load_state_dict(alone.state_dict())
    seen: list[EpochRecord] = []
    config = TrainConfig(epochs=2, batch_size=54, accelerator="cpu")
    double = fit(model, data, config.model_copy(update={"devices": 2}), on_epoch=seen.append, progress=False)
    single = fit(alone, data, config)
    assert tuple(seen) == double.epochs
    for name, value in model.state_dict().items():  # no batch norm: the mean gradient is the same
        torch.testing.assert_close(value, alone.state_dict()[name], rtol=1e-4, atol=1e-5)
    assert double.epochs[-1].val_top1 == single.epochs[-1].val_top1
    assert double.epochs[-1].train_loss == pytest.approx(single.epochs[-1].train_loss, rel=1e-4)


def test_streamed_images_train_too(tmp_path_factory: pytest.TempPathFactory) -> None:
    from PIL import Image

    root = tmp_path_factory.mktemp("images")
    for label in range(2):
        for i in range(8):
            Image.new("RGB", (16, 16), (200 * label, 5 * i, 90)).save(root / f"{label}{i}.png")
    files = tuple(sorted(root.iterdir()))
    split = StreamedSplit(files, torch.arange(16) // 8, (3, 8, 8), workers=0)
    data = DataSet("files", ("dark", "light"), (3, 8, 8), split, split, split, (0.5,) * 3, (0.5,) * 3, flip=True)
    found = []
    for _ in range(2):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
        fit(model, data, TrainConfig(epochs=8, batch_size=8))
        found.append(weights(model))
    assert same(*found)
    assert evaluate(model, data, split).top1 == 100
