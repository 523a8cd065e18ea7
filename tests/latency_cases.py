"""A runtime whose times are arithmetic: tests of latency targets need no clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from secateur.core.types import call
from secateur.runtimes import RUNTIMES, Program, Runtime
from zoo import Lambda, conv, pooled, settle

Seconds = Callable[[nn.Module, Any], float]


def seconds_by_macs(model: nn.Module, inputs: Any) -> float:
    """A hundred million multiply-accumulates a second and nothing else."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        call(model, inputs)
    return counter.get_total_flops() / 2 / 1e8


@pytest.fixture
def arithmetic(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Callable[..., str]:
    """Registers a runtime that takes as long as a function says, with widths in steps of 2 and a cache of its own."""
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path / "cache"))
    for module in ("table", "whole"):
        monkeypatch.setattr(f"secateur.budget.latency.{module}.timed", lambda run: lambda calls: run())

    def register(seconds: Seconds = seconds_by_macs, *, name: str = "arithmetic", step: int = 2) -> str:
        class Arithmetic(Runtime):
            def from_module(self, module: nn.Module, threads: int) -> Program:
                return Program(lambda inputs: seconds(module, inputs) / threads, lambda found: found, lambda found: [])

        Arithmetic.name, Arithmetic.step = name, step
        monkeypatch.setitem(RUNTIMES._items, name, Arithmetic())
        return name

    return register


def chain(*widths: int, side: int = 8) -> tuple[nn.Module, Tensor]:
    """Convolutions of these widths, one after the other, and a classifier."""
    parts = [conv(a, b) for a, b in zip((3, *widths), widths, strict=False)]
    net = nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 4))
    return settle(net), torch.randn(2, 3, side, side)


def residual() -> tuple[nn.Module, Tensor]:
    """A residual stream, and a branch inside it."""
    model = Lambda(lambda m, x: m.fc(pooled(m.stem(x) + m.down(m.up(m.stem(x))))), stem=conv(3, 64), up=conv(64, 64),
                   down=conv(64, 64), fc=nn.Linear(64, 5))  # fmt: skip
    return settle(model), torch.randn(2, 3, 8, 8)


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Keys of the layers that are measured meanwhile."""
    from secateur.budget.latency.table import Table

    keys: list[str] = []
    original = Table._measure

    def noted(self: Table, layer: Any, points: Any, budget_s: float) -> None:
        keys.append(layer.key)
        original(self, layer, points, budget_s)

    with monkeypatch.context() as patch:
        patch.setattr(Table, "_measure", noted)
        yield keys
