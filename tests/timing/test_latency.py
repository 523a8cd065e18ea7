from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from secateur.core.errors import InputError
from secateur.timing import latency, speedups
from secateur.timing.entrants import Entrant, as_entrants, compared_with
from secateur.timing.load import Load
from secateur.timing.timings import doubt


class Clock:
    """A clock that only networks move, so that no test depends on how busy the machine is."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in ("latency", "rounds", "calls"):
        # By its module name: the package's attribute of that name is the function.
        monkeypatch.setattr(sys.modules[f"secateur.timing.{module}"], "perf_counter", clock)
    return clock


class Sleeper(nn.Module):
    """Takes as long as it is told, and notes in which order the networks ran."""

    def __init__(self, name: str, seconds: float, clock: Clock) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.name, self.seconds, self.clock = name, seconds, clock

    def __deepcopy__(self, memo: object) -> Sleeper:
        return Sleeper(self.name, self.seconds, self.clock)

    def forward(self, x: Tensor) -> Tensor:
        self.clock.log.append(self.name)
        self.clock.now += self.seconds
        return x * self.weight


def network() -> nn.Sequential:
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)]
    return nn.Sequential(*layers)


def test_rounds_are_interleaved_and_shuffled(clock: Clock) -> None:
    models = {"dense": Sleeper("dense", 0.02, clock), "pruned": Sleeper("pruned", 0.021, clock)}
    latency(models, torch.zeros(1, 3), batches=(1,), backward=False, rounds=8, warmup=1)
    rounds = [clock.log[i : i + 2] for i in range(2, len(clock.log), 2)]  # after one warm-up call each
    assert len(rounds) == 8
    assert all(sorted(entry) == ["dense", "pruned"] for entry in rounds)
    assert len({tuple(entry) for entry in rounds}) == 2  # both orders occur


def test_samples_and_speedup_are_exact(clock: Clock) -> None:
    models = {"dense": Sleeper("dense", 0.03, clock), "pruned": Sleeper("pruned", 0.01, clock)}
    timings = latency(models, torch.zeros(1, 3), batches=(1,), backward=False, rounds=5)
    assert [t.samples_ms for t in timings] == [pytest.approx((30.0,) * 5), pytest.approx((10.0,) * 5)]
    assert speedups(timings)[0].ratio.median == pytest.approx(3)


def test_short_calls_are_repeated(clock: Clock) -> None:
    sleeper = Sleeper("dense", 0.002, clock)
    timing, *_ = latency({"dense": sleeper}, torch.zeros(1, 3), batches=(1,), backward=False, rounds=4)
    assert timing.calls == 3  # 3 × 2 ms is the first multiple above 5 ms
    assert timing.samples_ms == pytest.approx((2.0,) * 4)
    assert len(clock.log) == 3 + 4 * (1 + 3)  # warm-up; per round one call to fill the caches


def test_budget_bounds_the_rounds(clock: Clock) -> None:
    def rounds(budget_s: float) -> int:
        models = {"dense": Sleeper("dense", 0.1, clock)}
        timings = latency(models, torch.zeros(1, 3), batches=(1,), backward=False, budget_s=budget_s)
        return len(timings[0].samples_ms)

    assert rounds(0.001) == 3  # the least
    assert rounds(2.05) == 18  # after 3 warm-up calls
    assert rounds(60) == 30  # the most


def test_settings_share_the_budget(clock: Clock) -> None:
    models = {"dense": Sleeper("dense", 0.1, clock)}
    timings = latency(models, torch.zeros(1, 3), batches=(1, 2), backward=False, budget_s=2)
    assert all(6 <= len(t.samples_ms) <= 8 for t in timings)
    assert clock.now <= 2 + 0.1  # overrun by the last round at most


def test_settings_and_originals_are_as_given() -> None:
    net = network().train()
    threads = torch.get_num_threads()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    timings = latency({"dense": net}, torch.zeros(2, 3, 8, 8), batches=(1, 4), rounds=3)
    assert [(t.direction, t.batch) for t in timings] == [
        ("forward", 1),
        ("backward", 1),
        ("forward", 4),
        ("backward", 4),
    ]
    assert [t.mode for t in timings] == ["eval", "train", "eval", "train"]
    assert all(t.threads == 1 and len(t.samples_ms) == 3 and min(t.samples_ms) > 0 for t in timings)
    assert net.training
    assert torch.get_num_threads() == threads
    assert all(parameter.grad is None for parameter in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_backward_falls_back_to_evaluation_mode() -> None:
    # One value per channel: batch norm refuses it in training mode.
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    timings = latency({"dense": net}, torch.zeros(1, 3), batches=(1, 2), rounds=3)
    assert [(t.batch, t.mode) for t in timings if t.direction == "backward"] == [(1, "eval"), (2, "train")]


def test_traced_networks_that_cannot_be_switched_stay_in_evaluation_mode() -> None:
    traced = torch.export.export(network().eval(), (torch.zeros(2, 3, 8, 8),)).module()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        models = {"dense": network(), "pruned": traced}
        timings = latency(models, torch.zeros(2, 3, 8, 8), batches=(2,), rounds=3)
    assert [(t.direction, t.mode) for t in timings if t.model == "dense"] == [
        ("forward", "eval"),
        ("backward", "eval"),
    ]


def test_onnx_files_are_timed_beside_modules(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from secateur.exports import export

    net, inputs = network().eval(), torch.zeros(2, 3, 8, 8)
    export(net, inputs, tmp_path / "a.onnx")
    models: dict[str, nn.Module | str | Path] = {
        "dense": net,
        "dense.onnx": tmp_path / "a.onnx",
        "pruned.onnx": str(tmp_path / "a.onnx"),
    }
    timings = latency(models, inputs, batches=(3,), backward=False, rounds=3)
    assert [(t.model, t.runtime) for t in timings] == [
        ("dense", "pytorch"),
        ("dense", "onnxruntime"),
        ("pruned", "onnxruntime"),
    ]


def test_bad_input_is_named(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(b"not a model")
    inputs = torch.zeros(1, 3)
    with pytest.raises(InputError, match="at least one network"):
        latency({}, inputs)
    with pytest.raises(InputError, match=r"threads=…. must be positive; got 0"):
        latency({"a": nn.Linear(3, 3)}, inputs, threads=0)
    with pytest.raises(InputError, match=r"no file '.*missing.onnx'"):
        latency({"a": tmp_path / "missing.onnx"}, inputs)
    with pytest.raises(InputError, match=r"cannot open '.*damaged.onnx'"):
        latency({"a": damaged}, inputs)
    with pytest.raises(InputError, match="no output of the network needs a gradient"):
        latency({"a": nn.ReLU()}, inputs)


def test_the_reference_takes_part_a_second_time(clock: Clock) -> None:
    """Its second copy is timed in the same rounds, and is no network of the results."""
    models = {"dense": Sleeper("dense", 0.02, clock), "pruned": Sleeper("pruned", 0.01, clock)}
    entrants = compared_with("dense", as_entrants(models, ["pytorch"]))
    dense, pruned = latency(entrants, torch.zeros(1, 3), batches=(1,), backward=False, rounds=4, warmup=1)
    assert (dense.model, pruned.model) == ("dense", "pruned")
    assert dense.again_ms == pytest.approx(dense.samples_ms)
    assert len(dense.again_ms) == len(dense.samples_ms) == 4
    assert pruned.again_ms == ()
    assert clock.log.count("dense") == 2 * clock.log.count("pruned")


def test_the_second_copy_of_a_file_and_of_the_backward_pass(tmp_path: Path) -> None:
    model, x = network().eval(), torch.randn(1, 3, 8, 8)
    entrants = compared_with("dense", as_entrants({"dense": model, "other": network()}, ["pytorch"]))
    found = latency(entrants, x, batches=(1,), rounds=3, processes=1)
    for timing in found:  # more rounds where the machine made the network stray from itself
        assert len(timing.samples_ms) >= 3
        assert len(timing.again_ms) == (len(timing.samples_ms) if timing.model == "dense" else 0)
    assert len(found) == 4


def _always(seconds: float, _calls: int) -> float:
    return seconds


@pytest.mark.parametrize(("slow", "asked", "crowded"), [(0, 1, False), (1, 3, False), (3, 3, False), (3, 1, True)])
def test_a_network_that_strays_from_itself_is_measured_in_more_processes(
    slow: int, asked: int, crowded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the first ``slow`` processes the second copy landed badly; a busy machine is not asked again."""
    started: list[int] = []

    @contextmanager
    def processes(entrants: Sequence[Entrant], *_: object) -> Iterator[dict[str, Callable[[int], float]]]:
        index = len(started)
        started.append(index)
        labels = [e.label for e in entrants]  # dense, pruned, dense again
        seconds = dict(zip(labels, (0.02, 0.01, 0.04 if index < slow else 0.02), strict=True))
        yield {label: partial(_always, each) for label, each in seconds.items()}

    monkeypatch.setattr(sys.modules["secateur.timing.latency"], "children", processes)
    monkeypatch.setattr(Load, "crowded", lambda *_: crowded)
    entrants = compared_with("dense", as_entrants({"dense": network(), "pruned": network()}, ["pytorch"]))
    x = torch.randn(1, 3, 8, 8)
    dense, pruned = latency(entrants, x, batches=(1,), backward=False, rounds=4, processes=1)
    assert len(started) == dense.processes == asked
    assert len(dense.samples_ms) == len(dense.again_ms) == len(pruned.samples_ms) == 4 * asked
    assert bool(doubt(dense)) == (slow == 3)
