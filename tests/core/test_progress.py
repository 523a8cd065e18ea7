"""What long calls tell while they go: the log, a bar on a terminal, and nothing broken by Ctrl-C."""

from __future__ import annotations

import io
import logging
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import secateur
from secateur.core.progress import silent, watched, working
from secateur.train.progress import TrainProgress


class Terminal(io.StringIO):
    """What is drawn on a terminal."""

    def isatty(self) -> bool:
        return True


def terminal_of(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Called in the test itself: pytest puts its own stderr back between a fixture and the test."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("NO_COLOR", raising=False)
    found = Terminal()
    monkeypatch.setattr(sys, "stderr", found)
    return found


def all_of(items: list[str], what: str, after_s: float = 1.0) -> list[str]:
    with watched(items, what, "layers", after_s=after_s) as told:
        return list(told)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3)).eval()


def test_the_log_says_what_is_done(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="secateur")
    assert all_of(["a", "b"], "Refitting") == ["a", "b"]
    begin, *parts, end = caplog.messages
    assert begin == "Refitting: 2 layers"
    assert parts == ["Refitting: a (1 of 2)", "Refitting: b (2 of 2)"]
    assert end.startswith("Refitting: done after ")


def test_a_bar_is_drawn_on_a_terminal_and_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_of(monkeypatch)
    with watched(["[bold]layer1", "b"], "Refitting", "layers", after_s=0) as told:
        next(told)
        inner = all_of(["x", "y"], "Inner", 0)  # only the outer one is drawn
        assert inner == ["x", "y"]
    said = terminal.getvalue()
    assert "Refitting" in said
    assert "[bold]layer1" in said, "names are no markup"
    assert "Inner" not in said
    all_of(["c"], "Afterwards", 0)
    assert "Afterwards" in terminal.getvalue()


def test_nothing_is_drawn_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_of(monkeypatch)
    with silent():
        assert all_of(["a"], "Hidden", 0) == ["a"]
        with TrainProgress("hidden training", 2, 0, show=None) as bar:
            bar.step(1, 0.5, "", "")
    with silent(hidden=False):
        assert all_of(["a"], "Shown", 0) == ["a"]
    assert all_of(["a"], "Quick", 3600) == ["a"]
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert all_of(["a"], "Piped", 0) == ["a"]
    said = terminal.getvalue()
    assert "Shown" in said
    assert not any(word in said for word in ("Hidden", "hidden training", "Quick", "Piped"))


def test_a_bar_goes_when_the_work_breaks_off(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_of(monkeypatch)

    def broken() -> None:
        with watched(["a", "b"], "Broken", "parts", after_s=0) as told:
            next(told)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken()
    assert all_of(["a"], "Next", 0) == ["a"]
    assert "Next" in terminal.getvalue()


def _recovered(net: nn.Module, x: torch.Tensor) -> object:
    return secateur.recover(secateur.prune(net, x[:2], ratio=0.5), x)


CALLS: dict[str, Callable[[nn.Module, torch.Tensor], object]] = {
    "Refitting": _recovered,
    "Choosing channels": lambda net, x: secateur.prune(net, x[:2], ratio=0.5, criterion="reconstruction", data=x),
    "Probing outputs": lambda net, x: secateur.prune(net, x[:2], ratio=0.5, criterion="reconstruction", data=x),
    "Measuring sensitivity": lambda net, x: secateur.sensitivity(net, x[:2], data=x, ratios=(0.5,)),
}


@pytest.mark.parametrize("what", CALLS)
def test_ctrl_c_leaves_the_network_as_it_was(what: str, caplog: pytest.LogCaptureFixture) -> None:
    """The stop comes in the middle of the work; the network has its weights, modes and gradients."""
    net, x = network(), torch.randn(32, 8)
    net.train()
    kept = {name: value.clone() for name, value in net.state_dict().items()}
    caplog.set_level(logging.DEBUG, logger="secateur")

    class Stop(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage().startswith(what) and "(2 of" in record.getMessage():
                raise KeyboardInterrupt

    handler = Stop()
    logging.getLogger("secateur").addHandler(handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            CALLS[what](net, x)
    finally:
        logging.getLogger("secateur").removeHandler(handler)
    assert net.training
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    found: dict[str, Any] = dict(net.state_dict())
    assert all(torch.equal(kept[name], found[name]) for name in kept)
    CALLS[what](net, x)  # and the next call works


def test_a_clock_gives_way_to_what_is_drawn_within(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_of(monkeypatch)
    with working("Comparing [1]", after_s=0) as say:
        assert "Comparing [1]" in terminal.getvalue(), "words are no markup"
        say("Repairing")
        all_of(["a"], "Refitting", 0)
        assert "Refitting" in terminal.getvalue()
        with working("Tracing", after_s=0):
            pass
        terminal.truncate(0)
        say("Repaired")
    assert "Repaired" in terminal.getvalue(), "it comes back"
    terminal.truncate(0)
    with watched(["a"], "Refitting", "layers", after_s=0) as told, working("Hidden", after_s=0):
        next(told)
    with silent(), working("Hidden", after_s=0):
        pass
    with working("Hidden", after_s=3600):
        pass
    assert "Hidden" not in terminal.getvalue().split("Refitting", 1)[-1]


def test_a_clock_begins_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, timers = terminal_of(monkeypatch), []

    class Timer(threading.Timer):
        def start(self) -> None:
            timers.append(self)

    monkeypatch.setattr(threading, "Timer", Timer)
    with working("Tracing"):
        (timer,) = timers
        assert not terminal.getvalue()
        timer.function()
        assert "Tracing" in terminal.getvalue()
    terminal.truncate(0)
    timer.function()  # too late
    assert "Tracing" not in terminal.getvalue()


def test_what_took_long_is_in_the_log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level(logging.DEBUG, logger="secateur")
    clock = iter([0.0, 0.5, 10.0, 12.0])
    monkeypatch.setattr("secateur.core.progress.perf_counter", lambda: next(clock))
    for _ in range(2):
        with working("Tracing"):
            pass
    assert [(r.levelname, r.getMessage()) for r in caplog.records if "done" in r.getMessage()] == [
        ("DEBUG", "Tracing: done after 0.5 s"), ("INFO", "Tracing: done after 2.0 s")]  # fmt: skip
