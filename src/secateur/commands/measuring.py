"""`secateur measure`: several networks side by side, timed in turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from secateur.commands.networks import Opened, open_network, open_run
from secateur.commands.show import console, integer, ratio, say, size, table
from secateur.errors import InputError
from secateur.measure import Timing, latency, machine, measurement, size_on_disk, speedups
from secateur.measure.counts import count

__all__ = ["measure"]


def measure(
    sources: Sequence[str],
    *,
    weights: str | None,
    shape: tuple[int, ...] | None,
    batches: tuple[int, ...],
    threads: int,
    rounds: int,
    budget_s: float,
    backward: bool,
) -> None:
    """Measures what ``sources`` name and prints it; the first one is what the others are compared with."""
    files = [source for source in sources if source.endswith(".onnx")]
    networks = _open(sources, weights, shape)
    inputs = networks[0].inputs if networks else _inputs_of(shape)
    _check(networks, files, inputs)
    options: dict[str, Any] = {"batches": batches, "threads": threads, "rounds": rounds, "budget_s": budget_s}
    show = console()
    contenders: dict[str, nn.Module | Path] = {n.name: n.model for n in networks}
    timings = latency(contenders | {file: Path(file) for file in files}, inputs, backward=backward, **options)
    # latency() calls a file by its name without the suffix, so that runtimes can be set side by side.
    first = networks[0].name if networks and sources[0] not in files else files[0].removesuffix(".onnx")
    show.print(_sizes(networks, files))
    show.print()
    show.print(_times(timings, first))
    show.print()
    here = machine()
    say(
        f"Median and quartiles of interleaved rounds, {threads} thread{'s' * (threads > 1)}, on {here.cpu} "
        f"({here.cores} cores), torch {here.versions.get('torch')}."
    )


def _open(sources: Sequence[str], weights: str | None, shape: tuple[int, ...] | None) -> list[Opened]:
    """Opens all but the ONNX files; a run's folder alone stands for its dense and its pruned network."""
    if len(sources) == 1 and (Path(sources[0]) / "recipe.yaml").is_file():
        return open_run(Path(sources[0]))
    names = [source for source in sources if not source.endswith(".onnx")]
    return [open_network(n, weights=None if Path(n).is_dir() else weights, shape=shape) for n in names]


def _inputs_of(shape: tuple[int, ...] | None) -> Tensor:
    import torch

    if shape is None:
        raise InputError("--input-shape is needed to run an ONNX file alone: the shape of one sample, like 3,32,32.")
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))


def _check(networks: Sequence[Opened], files: Sequence[str], inputs: Tensor) -> None:
    names = [*(network.name for network in networks), *files]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{name} is given twice.")
    for network in networks:
        if network.inputs.shape != inputs.shape:
            first, other = (tuple(t.shape[1:]) for t in (inputs, network.inputs))
            raise InputError(
                f"{network.name} takes samples of shape {other} and {networks[0].name} of {first}; "
                "to compare them give both the same with --input-shape."
            )


def _sizes(networks: Sequence[Opened], files: Sequence[str]) -> Any:
    rows = []
    for network in networks:
        numbers = measurement(network.model, network.inputs, count(network.model, network.inputs))
        rows.append(
            [
                network.name,
                integer(numbers.params),
                integer(numbers.macs),
                size(numbers.weight_bytes),
                size(numbers.peak_memory_bytes),
            ]
        )
    rows += [[file, "–", "–", size(size_on_disk(file)), "–"] for file in files]
    return table(["Network", "Parameters", "MACs per sample", "On disk", "Peak memory"], rows)


def _times(timings: Sequence[Timing], reference: str) -> Any:
    ratios: Mapping[Any, Any] = {
        (s.model, s.runtime, s.direction, s.batch): s.ratio
        for s in (speedups(timings, reference) if any(t.model == reference for t in timings) else ())
    }
    rows = []
    for t in timings:
        spread, factor = t.spread_ms, ratios.get((t.model, t.runtime, t.direction, t.batch))
        rows.append(
            [
                t.model,
                t.runtime,
                t.direction,
                str(t.batch),
                f"{spread.median:.3f}",
                f"{spread.q25:.3f}–{spread.q75:.3f}",
                "–" if factor is None else f"{ratio(factor.median)} ({factor.q25:.2f}–{factor.q75:.2f})",
            ]
        )
    columns = ["Network", "Runtime", "Pass", "Batch", "ms per\ncall", "Quartiles", f"Speed-up\nover {reference}"]
    return table(columns, rows, words=(0, 1, 2))
