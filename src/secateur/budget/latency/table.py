"""The latency table: a network's own layers, measured in the target runtime over a grid of widths."""

from __future__ import annotations

import math
import tempfile
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from secateur.budget.latency.layers import Layer
from secateur.budget.latency.module import SideBySide
from secateur.budget.latency.onnxfile import ONNX, write_layer
from secateur.budget.latency.store import Setting, Times
from secateur.core.modes import no_gc, switch
from secateur.core.progress import watched
from secateur.core.types import ExampleInputs
from secateur.graph.calling import preserved_rng
from secateur.runtimes import Program
from secateur.runtimes.writing import open_written
from secateur.timing.calls import copies
from secateur.timing.rounds import rounds, thread_count, timed

__all__ = [
    "QUANTILE",
    "REFERENCE",
    "Table",
    "axis",
    "open_in_runtime",
    "open_layer",
    "parts",
    "reference_call",
]  # fmt: skip

REFERENCE = Layer("conv", (28, 28), (3, 3), (1, 1), (1, 1), (1, 1))
"""The layer that all others are timed beside, 64 channels wide."""

QUANTILE = 0.25
"""Which of a layer's times counts: whatever else runs on the machine only ever makes a call longer."""

_REFERENCE_WIDTH = 64
_COPIES, _ALONE = 3, 4_000_000  # layers side by side, up to so many weights of one
_SHARES = (0.25, 0.5, 0.75)


def parts(step: int) -> tuple[int, ...]:
    """Widths below one step that are worth a look where a whole network is not much wider: a half, a quarter.

    >>> parts(16), parts(1)
    ((8, 4), ())
    """
    return tuple(step // share for share in (2, 4) if step % share == 0)


def axis(full: int, least: int, step: int) -> tuple[int, ...]:
    """Widths at which a dimension is measured: its ends, multiples of the step near quarters of it, parts of a step.

    Args:
        full: Width in the dense network.
        least: The smallest width that it can be cut to.
        step: Widths in multiples of this run at full speed.

    >>> axis(512, 16, 16), axis(24, 4, 16), axis(3, 3, 16)
    ((16, 128, 256, 384, 512), (4, 8, 16, 24), (3,))
    """
    between = {max(step, round(full * share / step) * step) for share in _SHARES} | {*parts(step)}
    return tuple(sorted({least, full, *(width for width in between if least < width < full)}))


class Table:
    """Times of layers at any width, from those measured on a grid and kept on disk.

    A layer does not run alone in a network: what it reads is there in the runtime's own layout, and so is what it
    gives. So several are timed side by side, and what a call costs once (its overhead, the input and the output
    brought into that layout) is shared among them. Layers timed alone made early layers, which have large feature
    maps, look dearer than they are (docs/latency-targets.md).

    Between the grid's widths times are interpolated linearly in both widths (that is, bilinearly: positions ×
    kernel × in × out and its lower terms). A width that is no multiple of the runtime's step takes as long as the
    next multiple does (below one step: as the next width that was measured).
    """

    def __init__(self, setting: Setting, folder: str | Path | None = None) -> None:
        """Opens the file of times for ``setting`` below ``folder`` (by default the cache folder)."""
        self.setting, self.step = setting, setting.program.step
        self.times = Times.open(setting, folder)
        self.notes: list[str] = [self.times.note] if self.times.note else []
        self._axes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
        self._known: dict[tuple[str, int, int], float] = {}

    def measure(self, wanted: Mapping[Layer, tuple[Sequence[int], Sequence[int]]], *, budget_s: float = 1.0) -> int:
        """Measures what the file does not hold.

        Args:
            wanted: Layers, each with the widths of its output and its contracted dimension that span its grid.
            budget_s: Seconds per layer.

        Returns:
            How many layers had to be measured.
        """
        self._known.clear()
        missing: dict[Layer, list[tuple[int, int]]] = {}
        for layer, (outer, inner) in wanted.items():
            self._axes[layer.key] = tuple(outer), tuple(inner)
            missing[layer] = [(o, i) for o in outer for i in inner if self.times.get(layer.key, o, i) is None]
        new = [layer for layer, points in missing.items() if points]
        try:
            with watched(new, f"Timing in {self.setting.runtime}", "layers", lambda layer: layer.key) as told:
                for layer in told:
                    self._measure(layer, missing[layer], budget_s)
        finally:  # what was measured is kept, whatever stops the rest
            if self.times.reference_ms and new and (note := self.times.save()):
                self.notes.append(note)
        return len(new)

    def _measure(self, layer: Layer, points: Sequence[tuple[int, int]], budget_s: float) -> None:
        """Times one layer at several widths, in rounds with the reference layer."""
        with tempfile.TemporaryDirectory() as folder, thread_count(self.setting.threads), no_gc():
            many = {(o, i): copies_of(layer, o, i) for o, i in points}
            runs = {
                f"{o}x{i}": timed(open_layer(self.setting, layer, o, i, Path(folder), n)) for (o, i), n in many.items()
            }
            reference = timed(reference_call(self.setting))
            _, samples = rounds({"": reference, **runs}, budget_s=budget_s, rounds=15, warmup=2)
        low = {name: float(np.quantile(values, QUANTILE)) for name, values in samples.items()}
        self.times.reference_ms = self.times.reference_ms or low[""]
        for (o, i), n in many.items():
            self.times.put(layer.key, o, i, low[f"{o}x{i}"] / n / low[""])

    def __call__(self, layer: Layer, outer: int, inner: int) -> float:
        """Milliseconds of a layer at these widths of its weight's output and contracted dimension."""
        key = (layer.key, outer, inner)
        if key not in self._known:
            self._known[key] = self._interpolated(layer, outer, inner)
        return self._known[key]

    def _interpolated(self, layer: Layer, outer: int, inner: int) -> float:
        rows, columns = self._axes[layer.key]
        total = 0.0
        for o, share_o in _between(rows, self._stepped(rows, outer)):
            for i, share_i in _between(columns, self._stepped(columns, inner)):
                measured = self.times.get(layer.key, o, i)
                assert measured is not None  # measure() has filled the grid
                total += share_o * share_i * measured
        return total

    def _stepped(self, grid: Sequence[int], width: int) -> int:
        """The width that takes as long: the next multiple of the step, or the next of the grid below one."""
        if width in grid or width > grid[-1]:
            return min(width, grid[-1])
        if width < self.step:
            return grid[bisect_left(grid, width)]
        return min(-(-width // self.step) * self.step, grid[-1])


def _between(grid: Sequence[int], width: int) -> list[tuple[int, float]]:
    """The grid's widths around ``width``, with their shares in it."""
    place = bisect_left(grid, width)
    if place == len(grid) or width <= grid[0]:
        return [(grid[min(place, len(grid) - 1)], 1.0)]
    low, high = grid[place - 1], grid[place]
    share = (width - low) / (high - low)
    return [(high, 1.0)] if share == 1 else [(low, 1 - share), (high, share)]


def reference_call(setting: Setting) -> Callable[[], object]:
    """What runs the reference layer once."""
    with tempfile.TemporaryDirectory() as folder:
        return open_layer(setting, REFERENCE, _REFERENCE_WIDTH, _REFERENCE_WIDTH, Path(folder))


def copies_of(layer: Layer, outer: int, inner: int) -> int:
    """How many layers are timed side by side: of large ones just one, whose call costs little beside it.

    >>> copies_of(REFERENCE, 64, 64), copies_of(Layer("linear", ()), 4096, 25088)
    (3, 1)
    """
    return _COPIES if outer * inner * math.prod(layer.kernel) <= _ALONE else 1


def open_layer(
    setting: Setting, layer: Layer, outer: int, inner: int, folder: Path, copies: int = 1
) -> Callable[[], object]:
    """Opens one layer in the runtime, or several side by side; returns what runs them once.

    Raises:
        InputError: The runtime is not installed.
        ExportError: The runtime's format cannot hold the layer.
    """
    runtime = setting.program
    channels = layer.channels_in(inner, outer)
    shape = (channels, *layer.space) if layer.kind == "conv" else (*layer.space, channels)
    inputs = torch.rand((setting.batch, *shape), generator=torch.Generator().manual_seed(0))
    if ONNX in runtime.suffixes:  # such files take a millisecond to write
        path = folder / f"{layer.kind}-{outer}-{inner}{ONNX}"
        write_layer(layer, outer, inner, shape=inputs.shape, path=path, copies=copies)
        program = runtime.open(path, setting.threads)
    else:
        with preserved_rng():
            program = open_in_runtime(setting, SideBySide(layer, outer, inner, copies), inputs)
    prepared = program.prepare(inputs)
    return lambda: program.run(prepared)


def open_in_runtime(setting: Setting, model: nn.Module, inputs: ExampleInputs) -> Program:
    """Opens a network in the runtime: a copy where the runtime runs modules, else through a file.

    Args:
        setting: Which runtime, and how many threads.
        model: The network; it is left as it is.
        inputs: Example inputs of the batch size that it will run at.

    Raises:
        InputError: The runtime is not installed.
        ExportError: The network cannot be exported, or the file computes something else.
    """
    runtime = setting.program
    if runtime.modules:
        twin = copies({"": model})[""]
        switch(twin, False)
        return runtime.open(twin, setting.threads)
    with tempfile.TemporaryDirectory(prefix="secateur-") as folder:
        return open_written(model, inputs, Path(folder), runtime, setting.threads)
