from __future__ import annotations

from pathlib import Path

import pytest

from secateur.timing import load
from secateur.timing.load import Load


def stat(user: int, idle: int, processors: int = 2) -> str:
    line = f"cpu  {user} 0 0 {idle} 0 0 0 0 0 0\n"
    return line + "".join(f"cpu{n} 0 0 0 0 0 0 0 0 0 0\n" for n in range(processors)) + "intr 5\n"


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "stat"
    monkeypatch.setattr(load, "_STAT", path)
    monkeypatch.setattr(load.os, "sysconf", lambda name: 100)
    times = iter((10.0, 14.0, 20.0, 24.0))
    monkeypatch.setattr(load, "perf_counter", lambda: next(times))
    return path


def test_processors_that_others_kept_busy(proc: Path) -> None:
    proc.write_text(stat(1000, 5000))
    found = Load()
    with found.watch():
        proc.write_text(stat(1700, 5100))
    assert (found.busy, found.processors) == (1.75, 2)
    assert found.others(1) == 0.75
    assert found.crowded(1)
    assert not found.crowded(2), "both are ours"


@pytest.mark.parametrize("text", ["", "cpu  a b c", "nothing of the kind\n"])
def test_a_system_that_does_not_say_is_not_called_busy(proc: Path, text: str) -> None:
    proc.write_text(text)
    found = Load()
    with found.watch():
        pass
    assert found.busy is None
    assert found.others(1) is None
    assert not found.crowded(1)


def test_others_on_a_large_machine_are_no_crowd() -> None:
    assert not Load(1.0, 20.0, processors=64).crowded(1)
    assert not Load(1.0, 1.0, processors=1).crowded(1), "we are alone"


def test_it_looks_several_times(proc: Path) -> None:
    """Each network's rounds in new processes: what happens between them is our own work."""
    found = Load()
    proc.write_text(stat(0, 0))
    with found.watch():
        proc.write_text(stat(400, 0))
    proc.write_text(stat(2000, 0))
    with found.watch():
        proc.write_text(stat(2600, 0))
    assert found.seconds == 8
    assert found.busy == 10 / 8
