"""Settings: refused when impossible, and unchangeable."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from secateur.train import TrainConfig


@pytest.mark.parametrize(
    "settings",
    [
        {"epochs": -1},
        {"batch_size": 0},
        {"lr": 0},
        {"optimizer": "lion"},
        {"schedule": "cosin"},
        {"precision": "16"},
        {"label_smoothing": 1.0},
        {"gradient_clip": 0},
        {"learning_rate": 0.1},
    ],
)
def test_impossible_settings(settings: dict[str, object]) -> None:
    (name,) = settings
    with pytest.raises(ValidationError, match=name):
        TrainConfig(**settings)  # type: ignore[arg-type]


def test_settings_are_frozen_and_survive_json() -> None:
    config = TrainConfig(epochs=7, milestones=(0.3,), schedule="step")
    with pytest.raises(ValidationError, match="frozen"):
        config.epochs = 8  # type: ignore[misc]
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config
