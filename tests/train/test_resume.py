"""Exact resume: killed between epochs and in them, the end is bit for bit the same."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from secateur.core.errors import InputError, SecateurError, WeightsError
from secateur.data import DataSet, load
from secateur.train import EpochRecord, History, TrainConfig, checkpoint, fit, loop

from .test_fit import figures, net, same, weights

CONFIG = TrainConfig(epochs=4, batch_size=40, lr=0.1, keep="best")


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.fixture(scope="module")
def data() -> DataSet:
    return load("digits", limit=200)


def run(data: DataSet, folder: Path | None, config: TrainConfig = CONFIG) -> tuple[dict[str, Tensor], History]:
    model = net()
    history = fit(model, data, config, folder=folder, seed=1)
    return weights(model), history


@pytest.fixture(scope="module")
def whole(data: DataSet) -> tuple[dict[str, Tensor], History]:
    torch.set_num_threads(1)
    return run(data, None)


def check(found: tuple[dict[str, Tensor], History], whole: tuple[dict[str, Tensor], History]) -> None:
    assert same(found[0], whole[0])
    assert [figures(r) for r in found[1].epochs] == [figures(r) for r in whole[1].epochs]
    assert found[1].kept == whole[1].kept


def die_at(monkeypatch: pytest.MonkeyPatch, target: str, attribute: str, call: int) -> None:
    """Makes the ``call``-th call of a function the last thing that happens."""
    module = {"loop": loop, "checkpoint": checkpoint, "os": os}[target]
    real, calls = getattr(module, attribute), [0]

    def wrapped(*args: object, **kwargs: object) -> object:
        calls[0] += 1
        if calls[0] == call:
            raise Killed
        return real(*args, **kwargs)

    monkeypatch.setattr(module, attribute, wrapped)


@pytest.mark.parametrize(
    ("target", "attribute", "call"),
    [
        ("loop", "_step", 3),  # in the first epoch
        ("loop", "_step", 8),  # in the second
        ("loop", "_step", 19),  # in the fourth
        ("checkpoint", "write", 1),  # before the first checkpoint
        ("checkpoint", "write", 2),  # between best and last
        ("checkpoint", "write", 5),
        ("os", "fsync", 4),  # while a checkpoint is written
    ],
)
def test_a_killed_run_ends_the_same(
    data: DataSet,
    whole: tuple[dict[str, Tensor], History],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    target: str,
    attribute: str,
    call: int,
) -> None:
    with monkeypatch.context() as patch:
        die_at(patch, target, attribute, call)
        with pytest.raises(Killed):
            run(data, tmp_path)
    check(run(data, tmp_path), whole)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best.pt", "last.pt"]


def test_adamw_in_bf16_resumes_exactly(data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainConfig(epochs=3, batch_size=40, lr=0.01, optimizer="adamw", precision="bf16", schedule="cosine")
    straight = run(data, None, config)
    with monkeypatch.context() as patch:
        die_at(patch, "loop", "_step", 12)
        with pytest.raises(Killed):
            run(data, tmp_path, config)
    check(run(data, tmp_path, config), straight)


def test_a_finished_run_is_not_trained_again(
    data: DataSet, whole: tuple[dict[str, Tensor], History], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(data, tmp_path)
    monkeypatch.setattr(loop, "_step", None)
    seen: list[EpochRecord] = []
    model = net()
    history = fit(model, data, CONFIG, folder=tmp_path, seed=1, on_epoch=seen.append)
    check((weights(model), history), whole)
    assert not seen


SCRIPT = """
import itertools, os, signal, sys, torch
torch.set_num_threads(1)
from secateur.data import load
from secateur.models import create
from secateur.train import TrainConfig, fit, loop
limit, step, count = int(sys.argv[3]), loop._step, itertools.count(1)

def counted(*given, **named):
    if next(count) > limit:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(*given, **named)

loop._step = counted
torch.manual_seed(5)
model = create("resnet_digits")
fit(model, load("digits"), TrainConfig(epochs=6, batch_size=64), folder=sys.argv[1])
torch.save(model.state_dict(), sys.argv[2])
"""


@pytest.mark.slow
def test_processes_killed_at_any_moment(tmp_path: Path) -> None:
    """Real kills after a number of steps, within an epoch and at its end: progress decides, not seconds."""
    command = [sys.executable, "-c", SCRIPT]
    subprocess.run([*command, str(tmp_path / "a"), str(tmp_path / "a.pt"), str(10**9)], check=True)
    kills = []
    for limit in (1, 9, 23, 40, 31, 10**9):  # an epoch has 22 steps; each attempt goes on from the last whole one
        done = subprocess.run([*command, str(tmp_path / "b"), str(tmp_path / "b.pt"), str(limit)], check=False)
        kills.append(done.returncode == -signal.SIGKILL)
    assert kills == [True] * 5 + [False]
    first, second = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in "ab")
    assert same(first, second)


def test_other_settings_are_refused_by_name(data: DataSet, tmp_path: Path) -> None:
    run(data, tmp_path, CONFIG.model_copy(update={"epochs": 1}))
    with pytest.raises(InputError, match=r"epochs was 1 and is now 4"):
        run(data, tmp_path)
    with pytest.raises(InputError, match=r"seed was 1 and is now 2"):
        fit(net(), data, CONFIG.model_copy(update={"epochs": 1}), folder=tmp_path, seed=2)


def test_another_network_is_refused(data: DataSet, tmp_path: Path) -> None:
    run(data, tmp_path, CONFIG)
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(WeightsError, match="another network"):
        fit(other, data, CONFIG, folder=tmp_path, seed=1)


def test_a_checkpoint_with_another_weight_is_refused(data: DataSet, tmp_path: Path) -> None:
    run(data, tmp_path)
    content = torch.load(tmp_path / "last.pt", weights_only=True)
    next(iter(content["model"].values())).view(-1)[0] += 1
    torch.save(content, tmp_path / "last.pt")
    with pytest.raises(WeightsError, match=r"last\.pt was changed after it was written"):
        run(data, tmp_path)


@pytest.mark.parametrize("damage", ["cut", "noise", "code"])
def test_damaged_checkpoints_say_what_to_do(data: DataSet, tmp_path: Path, damage: str) -> None:
    run(data, tmp_path)
    path = tmp_path / "last.pt"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:2000])
    elif damage == "noise":
        path.write_bytes(b"noise" * 100)
    else:
        torch.save({"format": 1, "model": Path("x")}, path)
    with pytest.raises(WeightsError, match="Remove it to train anew"):
        run(data, tmp_path)


def test_a_full_disk_is_told_and_leaves_no_half_file(
    data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SecateurError, match="disk is full"):
        run(data, tmp_path)
    assert not list(tmp_path.iterdir())


def test_checkpoints_hold_nothing_but_state(data: DataSet, tmp_path: Path) -> None:
    run(data, tmp_path)
    content = torch.load(tmp_path / "last.pt", weights_only=True)
    assert set(content) == {"digest", "format", "settings", "model", "optimizer", "records"}
    assert len(content["records"]) == 4
