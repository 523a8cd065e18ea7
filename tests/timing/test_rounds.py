from __future__ import annotations

import sys

import pytest

from secateur.core.errors import InputError
from secateur.timing.rounds import TimedCall, rounds, timed


class Clock:
    """A clock that only runs move, so that no test depends on how busy the machine is."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.log: list[tuple[str, int]] = []
        # By its module name: the package's attribute of that name is the function.
        monkeypatch.setattr(sys.modules[rounds.__module__], "perf_counter", lambda: self.now)

    def takes(self, name: str, seconds: float) -> TimedCall:
        def run(calls: int) -> float:
            self.log.append((name, calls))
            self.now += calls * seconds
            return seconds

        return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_each_round_runs_everyone_once_in_an_order_of_its_own(clock: Clock) -> None:
    runs = {"a": clock.takes("a", 0.02), "b": clock.takes("b", 0.03), "c": clock.takes("c", 0.04)}
    calls, samples = rounds(runs, budget_s=60, rounds=12, warmup=1)
    assert calls == 1
    assert samples == {"a": (20.0,) * 12, "b": (30.0,) * 12, "c": (40.0,) * 12}
    names = [name for name, _ in clock.log][3:]  # after one warm-up call each
    orders = [tuple(names[i : i + 3]) for i in range(0, len(names), 3)]
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)
    assert len(set(orders)) > 3


def test_the_seed_fixes_the_order(clock: Clock) -> None:
    def order(seed: int) -> list[tuple[str, int]]:
        clock.log.clear()
        rounds({n: clock.takes(n, 0.02) for n in "abc"}, budget_s=60, rounds=6, seed=seed)
        return list(clock.log)

    assert order(1) == order(1)
    assert order(1) != order(2)


def test_short_calls_are_made_in_a_row_after_one_that_is_not_counted(clock: Clock) -> None:
    calls, _ = rounds({"a": clock.takes("a", 0.002)}, budget_s=60, rounds=4, warmup=2)
    assert calls == 3  # 3 × 2 ms is the first multiple above 5 ms
    assert clock.log == [("a", 1), ("a", 1)] + [("a", 1), ("a", 3)] * 4


def test_the_slowest_decides_how_many_calls_everyone_makes(clock: Clock) -> None:
    calls, _ = rounds({"a": clock.takes("a", 0.0001), "b": clock.takes("b", 0.001)}, budget_s=60, rounds=3)
    assert calls == 5


def test_a_slow_warm_up_call_does_not_make_samples_short(clock: Clock) -> None:
    seconds = iter([0.5, 0.001, 0.3])  # the first call compiles, the third lost its core for a while

    def run(calls: int) -> float:
        taken = next(seconds, 0.001)
        clock.now += calls * taken
        return taken

    calls, _ = rounds({"a": run}, budget_s=60, rounds=3, warmup=3)
    assert calls == 5  # 5 × 1 ms


def test_timed_measures_the_whole_call(clock: Clock) -> None:
    def work() -> None:
        clock.now += 0.25

    assert timed(work)(4) == 0.25
    assert clock.now == 1.0


@pytest.mark.parametrize("name", ["budget_s", "rounds", "warmup"])
def test_numbers_must_be_positive(name: str) -> None:
    with pytest.raises(InputError, match=rf"rounds\({name}=…\) must be positive; got 0"):
        rounds({"a": lambda calls: 1.0}, **{"budget_s": 1.0, name: 0})  # type: ignore[arg-type]


def test_nothing_to_time_is_an_error() -> None:
    with pytest.raises(InputError, match="at least one thing to time"):
        rounds({}, budget_s=1)
