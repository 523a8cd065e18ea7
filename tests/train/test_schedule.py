"""Learning rates: PyTorch's own schedulers, starts, peaks and ends."""

from __future__ import annotations

import pytest
import torch

from secateur.train import TrainConfig
from secateur.train.schedule import learning_rate


def rates(steps: int, **settings: object) -> list[float]:
    config = TrainConfig(lr=0.1, **settings)  # type: ignore[arg-type]
    return [learning_rate(config, step, steps) for step in range(steps)]


def torchs(steps: int, make: object) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1)
    scheduler = make(optimizer)  # type: ignore[operator]
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_cosine_is_torchs() -> None:
    wanted = torchs(50, lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 50))
    assert rates(50, schedule="cosine") == pytest.approx(wanted, abs=1e-9)


def test_warm_restarts_are_torchs() -> None:
    wanted = torchs(60, lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 20))
    assert rates(60, schedule="warm_restarts", restarts=3) == pytest.approx(wanted, abs=1e-9)


def test_steps_are_torchs() -> None:
    wanted = torchs(40, lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [20, 30]))
    assert rates(40, schedule="step") == pytest.approx(wanted, abs=1e-9)


def test_one_cycle_rises_from_a_25th_to_the_top_and_falls_to_nothing() -> None:
    found = rates(100, schedule="onecycle")
    assert found[0] == pytest.approx(0.1 / 25)
    assert max(found) == found[30] == pytest.approx(0.1)
    assert found[-1] == pytest.approx(0.1 / 250_000)
    assert found[:31] == sorted(found[:31])
    assert found[30:] == sorted(found[30:], reverse=True)


@pytest.mark.parametrize("schedule", ["cosine", "step", "constant", "warm_restarts"])
def test_warmup_rises_linearly_to_the_curve(schedule: str) -> None:
    found = rates(50, schedule=schedule, warmup=0.2)
    assert found[:10] == pytest.approx([0.1 * (i + 1) / 11 for i in range(10)])
    assert found[10] == pytest.approx(0.1)


@pytest.mark.parametrize("schedule", ["onecycle", "cosine", "step", "constant", "warm_restarts"])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_very_short_runs_have_positive_rates(schedule: str, steps: int) -> None:
    assert all(0 < rate <= 0.1 for rate in rates(steps, schedule=schedule))
