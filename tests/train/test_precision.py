"""bf16 where it pays: chosen by ``auto`` on fast devices alone, and a warning elsewhere."""

import warnings

import pytest
import torch
from torch import nn

from secateur.core.errors import SecateurWarning
from secateur.recipe.steps import fitting
from secateur.task import Task
from secateur.train import TrainConfig, fit, precision


@pytest.mark.parametrize(
    ("samples", "fast", "expected"), [(50_000, True, "bf16"), (50_000, False, "32"), (500, True, "32")]
)
def test_auto_takes_bf16_for_many_samples_on_fast_devices(
    samples: int, fast: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "fast_bf16", lambda accelerator: fast)
    assert fitting.TrainSettings().train_config(samples).precision == expected
    assert fitting.TrainSettings(precision="bf16").train_config(samples).precision == "bf16"


@pytest.mark.parametrize(("supported", "gain"), [(True, 1.8), (True, 0.5), (False, 1.8)])
def test_the_processor_is_asked_and_timed(supported: bool, gain: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported)
    monkeypatch.setattr(precision, "_gain", lambda: gain)
    assert precision.fast_bf16("cpu") is (supported and gain > 1 and torch.backends.mkldnn.is_available())
    assert not precision.fast_bf16("mps")


def test_the_gain_is_the_ratio_of_the_fastest_products(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([0.0, 4.0, 4.0, 7.0, 7.0, 9.0, 9.0, 14.0])  # float32 4 and 2, bf16 3 and 5
    monkeypatch.setattr(precision.time, "perf_counter", lambda: next(seconds))
    assert precision._gain(2, 2) == 2 / 3
    precision._gain.cache_clear()


@pytest.mark.parametrize("supported", [True, False])
def test_slow_bf16_is_warned_of(supported: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported)
    monkeypatch.setattr(precision, "_gain", lambda: 1.8)
    x = torch.randn(8, 3)
    task = Task(train=(x, x.sum(1, keepdim=True)), loss=nn.functional.mse_loss)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(nn.Linear(3, 1), task, TrainConfig(epochs=1, batch_size=4, precision="bf16", accelerator="cpu"))
    said = [
        w for w in caught if issubclass(w.category, SecateurWarning) and "gains nothing from bf16" in str(w.message)
    ]
    assert len(said) == (0 if supported and torch.backends.mkldnn.is_available() else 1)
