"""Interleaved rounds: the one way in which times that shall be compared are taken."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter

import torch

from secateur.core.errors import InputError

__all__ = ["TimedCall", "rounds", "thread_count", "timed"]

TimedCall = Callable[[int], float]
"""Makes that many calls in a row and returns the mean seconds of one (of its timed part)."""

_MIN_ROUNDS = 3
_SAMPLE_S = 0.005  # a sample this long is not drowned by the clock and the interpreter
_MAX_CALLS = 50


def rounds(
    runs: Mapping[str, TimedCall], *, budget_s: float, rounds: int = 30, warmup: int = 3, seed: int = 0
) -> tuple[int, dict[str, tuple[float, ...]]]:
    """Times everything once per round, in an order that is shuffled anew in each round.

    A machine that slows down for a while slows all of a round's, so ratios within a round hold where
    times from different minutes do not. A sample is the mean of as many calls as take 5 ms (50 at most); where a
    call takes less than 20 ms, one more call comes before it that is not counted, because whoever ran before has
    emptied the caches.

    Args:
        runs: What is timed, by name.
        budget_s: Seconds for everything; the least of three rounds and one warm-up call each may exceed it.
        rounds: Rounds at most.
        warmup: Calls that are not counted, per name.
        seed: Seed of the order within the rounds.

    Returns:
        Calls per sample (the same for all), and per name its milliseconds per call, one entry per round.

    Raises:
        InputError: There is nothing to time, or a number is not positive.

    >>> calls, samples = rounds({"a": lambda calls: 0.02, "b": lambda calls: 0.01}, budget_s=1, rounds=4)
    >>> calls, samples["b"]
    (1, (10.0, 10.0, 10.0, 10.0))
    """
    _check(runs, budget_s=budget_s, rounds=rounds, warmup=warmup)
    end = perf_counter() + budget_s
    slowest = max(_warm_up(run, warmup, budget_s / 4 / len(runs)) for run in runs.values())
    calls = min(_MAX_CALLS, max(1, math.ceil(_SAMPLE_S / slowest)))
    samples: dict[str, list[float]] = {name: [] for name in runs}
    order, shuffler = list(runs), random.Random(seed)
    for done in range(rounds):
        if done >= _MIN_ROUNDS and perf_counter() > end:
            break
        shuffler.shuffle(order)
        for name in order:
            if slowest < 4 * _SAMPLE_S:
                runs[name](1)
            samples[name].append(1e3 * runs[name](calls))
    return calls, {name: tuple(values) for name, values in samples.items()}


def timed(call: Callable[[], object]) -> TimedCall:
    """Times something that is called without arguments; all of the call is timed.

    >>> timed(lambda: sum(range(100)))(3) > 0
    True
    """

    def run(calls: int) -> float:
        start = perf_counter()
        for _ in range(calls):
            call()
        return (perf_counter() - start) / calls

    return run


@contextmanager
def thread_count(count: int) -> Iterator[None]:
    """Sets the number of threads inside an operator of PyTorch for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _warm_up(run: TimedCall, calls: int, limit_s: float) -> float:
    """Makes the calls that are not counted; returns the seconds of the fastest one.

    The others held the first call's work, or a moment in which another process had the core: with their time a
    sample would be taken for long enough when it is not.
    """
    end, found = perf_counter() + limit_s, [run(1)]
    for _ in range(calls - 1):
        if perf_counter() > end:
            break
        found.append(run(1))
    return max(min(found), 1e-9)


def _check(runs: Mapping[str, TimedCall], *, budget_s: float, rounds: int, warmup: int) -> None:
    if not runs:
        raise InputError("rounds() needs at least one thing to time; got none.")
    for name, value in (("budget_s", budget_s), ("rounds", rounds), ("warmup", warmup)):
        if not value > 0:
            raise InputError(f"rounds({name}=…) must be positive; got {value!r}.")
