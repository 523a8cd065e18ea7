"""Latency of several networks, measured in turn so that they can be compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from time import perf_counter

from torch import nn

from secateur.batches import resize
from secateur.errors import InputError
from secateur.measure.contenders import (
    backward_contenders,
    copies,
    forward_contenders,
    onnx_contenders,
)
from secateur.measure.modes import switchable
from secateur.measure.rounds import Contender, no_gc, rounds, thread_count
from secateur.measure.timings import Timing
from secateur.types import ExampleInputs

__all__ = ["latency"]


@dataclass(frozen=True)
class _Limits:
    rounds: int
    warmup: int
    seed: int
    train: bool


def latency(
    models: Mapping[str, nn.Module | str | PathLike[str]],
    inputs: ExampleInputs,
    *,
    batches: Sequence[int] = (1, 32),
    backward: bool = True,
    threads: int = 1,
    rounds: int = 30,
    warmup: int = 3,
    budget_s: float = 10.0,
    seed: int = 0,
) -> tuple[Timing, ...]:
    """Times PyTorch modules (forward, backward) and ONNX files (forward), interleaved in shuffled rounds.

    In every round each network runs once, in an order that is shuffled anew, so that a machine that slows
    down slows all of them. A sample is the mean of as many calls as take 5 ms. Networks are copied first:
    modes, gradients and running statistics of the given ones stay untouched.

    Args:
        models: Networks by name: modules, and paths of ``.onnx`` files. The same name for a module and a
            file cannot be given in one mapping; add a suffix such as ``dense.onnx``, which is cut off
            (``dense.onnx`` is reported as ``dense`` in ``onnxruntime``).
        inputs: Example inputs; repeated or cut to each batch size.
        batches: Batch sizes: 1 for latency, a larger one for throughput.
        backward: Whether to time the backward pass of modules too.
        threads: Threads inside an operator, for PyTorch (restored afterwards) and ONNX Runtime.
        rounds: Rounds at most.
        warmup: Calls that are not counted, per network and setting.
        budget_s: Seconds for everything, shared between the settings; only the least of three rounds
            and one warm-up call per setting may exceed it.
        seed: Seed of the order within the rounds.

    Returns:
        One :class:`Timing` per network, runtime, direction and batch size.

    Raises:
        InputError: When there is nothing to measure, a number is not positive, onnxruntime is missing, or
            an ONNX file is missing, damaged or does not take the inputs.

    >>> timings = latency({"dense": nn.Linear(4, 4)}, torch.zeros(1, 4), batches=(1,), rounds=3)
    >>> [(timing.direction, len(timing.samples_ms)) for timing in timings]
    [('forward', 3), ('backward', 3)]
    """
    _check(models, batches=batches, threads=threads, rounds=rounds, budget_s=budget_s)
    modules = copies({name: model for name, model in models.items() if isinstance(model, nn.Module)})
    files = {_stem(name): model for name, model in models.items() if not isinstance(model, nn.Module)}
    settings: list[Callable[[float], list[Timing]]] = []
    # Asked of the originals: a copy of a traced network forgets that it cannot be switched.
    train = all(switchable(model) for model in models.values() if isinstance(model, nn.Module))
    limits = _Limits(rounds, warmup, seed, train)
    for batch in batches:
        arguments = (resize(inputs, batch), batch, threads, limits)
        if modules:
            settings.append(_pytorch(modules, "forward", *arguments))
        if modules and backward:
            settings.append(_pytorch(modules, "backward", *arguments))
        if files:
            settings.append(_onnxruntime(files, *arguments))
    with thread_count(threads), no_gc():
        return tuple(_spend(settings, budget_s))


def _spend(settings: Sequence[Callable[[float], list[Timing]]], budget_s: float) -> Iterator[Timing]:
    """Gives each setting an equal share of the time that is left."""
    end = perf_counter() + budget_s
    for index, setting in enumerate(settings):
        yield from setting((end - perf_counter()) / (len(settings) - index))


def _pytorch(
    models: Mapping[str, nn.Module],
    direction: str,
    inputs: ExampleInputs,
    batch: int,
    threads: int,
    limits: _Limits,
) -> Callable[[float], list[Timing]]:
    def measure(share_s: float) -> list[Timing]:
        mode = "eval"
        if direction == "forward":
            contenders = forward_contenders(models, inputs)
        else:
            mode, contenders = backward_contenders(models, inputs, train=limits.train)
        calls, samples = _rounds(contenders, share_s, limits)
        return [Timing(n, "pytorch", direction, batch, threads, mode, calls, s) for n, s in samples.items()]

    return measure


def _onnxruntime(
    files: Mapping[str, str | PathLike[str]], inputs: ExampleInputs, batch: int, threads: int, limits: _Limits
) -> Callable[[float], list[Timing]]:
    def measure(share_s: float) -> list[Timing]:
        calls, samples = _rounds(onnx_contenders(files, inputs, threads), share_s, limits)
        return [Timing(n, "onnxruntime", "forward", batch, threads, "eval", calls, s) for n, s in samples.items()]

    return measure


def _rounds(
    contenders: Mapping[str, Contender], share_s: float, limits: _Limits
) -> tuple[int, dict[str, tuple[float, ...]]]:
    return rounds(contenders, budget_s=share_s, rounds=limits.rounds, warmup=limits.warmup, seed=limits.seed)


def _check(models: Mapping[str, object], *, batches: Sequence[int], threads: int, rounds: int, budget_s: float) -> None:
    if not models or not batches:
        raise InputError("latency() needs at least one network and one batch size.")
    for name, value in (("threads", threads), ("rounds", rounds), ("budget_s", budget_s)):
        if not value > 0:
            raise InputError(f"latency({name}=…) must be positive; got {value!r}.")


def _stem(name: str) -> str:
    return name.removesuffix(".onnx")
