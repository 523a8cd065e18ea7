"""Latency of several networks, measured in turn so that they can be compared."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from time import perf_counter

import torch
from torch import nn

from secateur.core import arguments
from secateur.core.batches import resize
from secateur.core.checks import check_inputs, check_kind, run
from secateur.core.errors import InputError
from secateur.core.modes import evaluating, no_gc, switchable
from secateur.core.types import ExampleInputs
from secateur.timing.calls import backward_calls, copies, forward_calls
from secateur.timing.children import ModuleFiles, children
from secateur.timing.entrants import Entrant, as_entrants
from secateur.timing.load import Load
from secateur.timing.rounds import rounds as run_rounds
from secateur.timing.rounds import thread_count
from secateur.timing.timings import Timing, doubt

__all__ = ["latency"]

_Samples = dict[str, tuple[float, ...]]


@arguments.checked
def latency(
    models: Mapping[str, nn.Module | str | PathLike[str]] | Iterable[Entrant],
    inputs: ExampleInputs,
    *,
    batches: Sequence[int] = (1, 32),
    backward: bool = True,
    runtimes: Sequence[str] = ("pytorch",),
    threads: int = 1,
    rounds: int = 30,
    warmup: int = 3,
    budget_s: float = 10.0,
    seed: int = 0,
    processes: int = 0,
    trust: bool = False,
) -> tuple[Timing, ...]:
    """Times networks (forward in any runtime, backward in PyTorch), interleaved in shuffled rounds.

    In every round each network of a setting (runtime, direction, batch size) runs once, in an order that is
    shuffled anew, so that a machine that slows down slows all of them. A sample is the mean of as many calls as
    take 5 ms. Modules are copied first: modes, gradients and running statistics of the given ones stay untouched.

    With ``processes``, every network of a forward setting lives in a fresh process of its own that is asked for
    one sample at a time, so that threads, caches and memory of one runtime do not disturb another's. With 2 or
    more the whole is repeated in new processes, a part of the rounds in each: where the pieces of a network land
    in memory changes its speed by some per cent and is fixed for the life of a process (Mytkowicz et al. 2009,
    "Producing wrong data without doing anything obviously wrong!"). Modules go there as ``.pt2`` files; a setting
    in which one cannot be exported is measured in this process, and its timings say so.

    Args:
        models: Networks by name (modules, and paths of network files), or :class:`Entrant` objects, which also
            say the runtime. A file is run by the runtime of its suffix and its name is cut to the stem:
            ``dense.onnx`` is reported as ``dense`` in ``onnxruntime``.
        inputs: Example inputs; repeated or cut to each batch size.
        batches: Batch sizes: 1 for latency, a larger one for throughput.
        backward: Whether to time the backward pass of modules too (in PyTorch, in this process).
        runtimes: Where modules are timed: ``pytorch``, ``compiled``.
        threads: Threads inside an operator (PyTorch's setting is restored afterwards).
        rounds: Rounds at most.
        warmup: Calls that are not counted, per network and setting.
        budget_s: Seconds for all rounds, shared between the settings; only the least of three rounds and one
            warm-up call per setting may exceed it, and the start of processes is not counted.
        seed: Seed of the order within the rounds.
        processes: 0 to measure in this process, else how many fresh ones per network and setting; up to three times
            as many, beyond the budget, where a network that takes part twice (:attr:`Entrant.again`) strays from
            itself on a free machine.
        trust: Whether ``.pt2`` files are opened, which can run any code.

    Returns:
        One :class:`Timing` per network, runtime, direction and batch size.

    Raises:
        InputError: When there is nothing to measure, a number is not positive, a runtime is missing, or it
            refuses a file or the inputs.
        SecateurError: A process died or hung.

    >>> import torch
    >>> timings = latency({"dense": nn.Linear(4, 4)}, torch.zeros(1, 4), batches=(1,), rounds=3)
    >>> [(timing.direction, len(timing.samples_ms)) for timing in timings]
    [('forward', 3), ('backward', 3)]
    """
    entered = tuple(replace(e, trust=e.trust or trust) for e in as_entrants(models, runtimes))
    _check(
        entered, batches=batches, processes=processes, warmup=warmup, threads=threads, rounds=rounds, budget_s=budget_s
    )
    check_inputs(inputs, "inputs")
    modules = {e.label: e.network for e in entered if isinstance(e.network, nn.Module)}
    for model in modules.values():
        check_kind(model)
    # Asked of the originals: a copy of a traced network forgets that it cannot be switched.
    train = all(switchable(model) for model in modules.values())
    copied = copies(modules)
    entered = tuple(replace(e, network=copied[e.label]) if isinstance(e.network, nn.Module) else e for e in entered)
    entered += tuple(_second(e) for e in entered if e.again)
    settings = _settings(entered, batches, backward=backward)
    plan = _Plan(threads, rounds, warmup, seed, train)
    try:
        return _timed(settings, inputs, plan, budget_s, processes)
    except (RuntimeError, TypeError, ValueError):
        for model in modules.values():  # a network that does not run says so in one sentence
            with evaluating(model), torch.no_grad():
                run(model, resize(inputs, batches[0]), "inputs")
        raise


def _timed(
    settings: Sequence[_Setting], inputs: ExampleInputs, plan: _Plan, budget_s: float, processes: int
) -> tuple[Timing, ...]:
    """Times one setting after the other, each with its share of the time that is left."""
    found: list[Timing] = []
    left = budget_s
    with thread_count(plan.threads), no_gc(), ModuleFiles() as files:
        for index, setting in enumerate(settings):
            given = resize(inputs, setting.batch)
            share_s = left / (len(settings) - index)
            apart = files.of(setting.entrants, given) if processes and setting.forward else None
            load = Load()
            timings, seconds = (
                _apart(replace(setting, entrants=apart), given, plan, share_s, load, processes=processes)
                if apart
                else _here(setting, given, plan, share_s, load)
            )
            found += _with_control(timings, load)
            left -= seconds
    return tuple(found)


_AGAIN = "\N{ZERO WIDTH SPACE}again"
"""What tells the second copy's name from the first one's; nobody calls a network so."""


def _second(entrant: Entrant) -> Entrant:
    """The same network again: a copy of a module, since two runs of one would share its memory."""
    network = entrant.network
    copied = copies({"": network})[""] if isinstance(network, nn.Module) else network
    return replace(entrant, name=entrant.name + _AGAIN, network=copied, again=False)


def _with_control(timings: Sequence[Timing], load: Load) -> list[Timing]:
    """The timings of the networks that were asked for, with the second copy's samples and what else went on."""
    second = {t.model.replace(_AGAIN, ""): t.samples_ms for t in timings if _AGAIN in t.model}
    return [
        replace(t, again_ms=second.get(t.model, ()), others=load.others(t.threads), crowded=load.crowded(t.threads))
        for t in timings
        if _AGAIN not in t.model
    ]


@dataclass(frozen=True)
class _Setting:
    """What is compared with each other: one runtime, direction and batch size."""

    runtime: str
    direction: str
    batch: int
    entrants: tuple[Entrant, ...]

    @property
    def forward(self) -> bool:
        return self.direction == "forward"

    def timings(self, threads: int, mode: str, calls: int, samples: _Samples, processes: int) -> list[Timing]:
        shared = (self.runtime, self.direction, self.batch, threads, mode, calls)
        return [Timing(name, *shared, found, processes) for name, found in samples.items()]


@dataclass(frozen=True)
class _Plan:
    threads: int
    rounds: int
    warmup: int
    seed: int
    train: bool


def _settings(entrants: Sequence[Entrant], batches: Sequence[int], *, backward: bool) -> list[_Setting]:
    found = []
    for batch in batches:
        for runtime in dict.fromkeys(e.runtime for e in entrants):
            here = tuple(e for e in entrants if e.runtime == runtime and e.batch in (None, batch))
            modules = tuple(e for e in here if isinstance(e.network, nn.Module))
            if here:
                found.append(_Setting(runtime, "forward", batch, here))
            if modules and backward and runtime == "pytorch":
                found.append(_Setting(runtime, "backward", batch, modules))
    return found


def _here(
    setting: _Setting, inputs: ExampleInputs, plan: _Plan, share_s: float, load: Load
) -> tuple[list[Timing], float]:
    """Measures a setting in this process; returns the seconds that it took too."""
    start, mode = perf_counter(), "eval"
    if setting.forward:
        runs = forward_calls(setting.entrants, inputs, plan.threads)
    else:
        models = {e.label: e.network for e in setting.entrants if isinstance(e.network, nn.Module)}
        mode, runs = backward_calls(models, inputs, train=plan.train)
    share_s -= perf_counter() - start
    with load.watch():
        calls, samples = run_rounds(
            runs, budget_s=max(share_s, 1e-9), rounds=plan.rounds, warmup=plan.warmup, seed=plan.seed
        )
    return setting.timings(plan.threads, mode, calls, samples, 0), perf_counter() - start


def _apart(
    setting: _Setting, inputs: ExampleInputs, plan: _Plan, share_s: float, load: Load, *, processes: int
) -> tuple[list[Timing], float]:
    """Measures a setting in fresh processes, ``processes`` times anew; the seconds are those of the rounds.

    Where a network strays from its own second copy though the machine was free, the pieces of the two landed in memory
    so that one is faster for the life of its process: more processes are asked then, and all samples count.
    """
    samples: _Samples = {e.label: () for e in setting.entrants}
    seconds, calls, repeat = 0.0, 0, 0
    timings: list[Timing] = []
    while repeat < processes or (repeat < _TRIES * processes and _strays(_with_control(timings, load))):
        with children(setting.entrants, inputs, plan.threads) as runs:
            start = perf_counter()
            with load.watch():  # the start of the processes is our own work
                calls, new = run_rounds(
                    runs,
                    budget_s=max(share_s, 1e-9) / processes,
                    rounds=math.ceil(plan.rounds / processes),
                    warmup=plan.warmup,
                    seed=plan.seed + repeat,
                )
            samples = {name: samples[name] + new[name] for name in samples}
            seconds += perf_counter() - start
        repeat += 1
        timings = setting.timings(plan.threads, "eval", calls, samples, repeat)
    return timings, seconds


_TRIES = 3
"""How many times the processes that were asked for are started at most, where a network strays from itself."""


def _strays(timings: Sequence[Timing]) -> bool:
    """Whether a network came out unlike its own second copy, and nothing else kept the machine busy."""
    return any(doubt(timing) and not timing.crowded for timing in timings)


def _check(entrants: Sequence[Entrant], batches: Sequence[int], processes: int, warmup: int, **numbers: float) -> None:
    if not entrants or not batches:
        raise InputError("latency() needs at least one network (models, and runtimes for them) and one of batches.")
    if min(batches) < 1:
        raise InputError(f"latency(batches=…) are sizes of at least 1; got {min(batches)}.")
    for name, value in numbers.items():
        if not value > 0:
            raise InputError(f"latency({name}=…) must be positive; got {value!r}.")
    if warmup < 0:
        raise InputError(f"latency(warmup=…) is how many calls are not counted, 0 or more; got {warmup!r}.")
    if processes < 0:
        raise InputError(f"latency(processes=…) is 0 (this process) or how many fresh ones; got {processes!r}.")
