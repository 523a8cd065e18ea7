"""From a network to a file that computes the same: traced, written, opened and compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from secateur.core.batches import batch_size
from secateur.core.errors import ExportError, InputError, TraceError
from secateur.core.modes import evaluating
from secateur.core.types import ExampleInputs
from secateur.graph.export import Exported, export_program
from secateur.runtimes.base import Program, Runtime
from secateur.runtimes.formats import source_of
from secateur.runtimes.parity import Agreement, Runner, agreement, judge, noise
from secateur.runtimes.private import private
from secateur.runtimes.silence import quiet

__all__ = ["compare", "open_written", "write", "write_checked"]

TOLERANCE = 1e-4
"""Allowed difference of a float32 file, relative to each output's largest value (at least 1)."""


def write(
    model: nn.Module, inputs: ExampleInputs, file: Path, runtime: Runtime, calibration: ExampleInputs | None = None,
    *, sizes: Sequence[Sequence[int]] = (), integer: bool = False,
) -> Exported:  # fmt: skip
    """Traces a network in evaluation mode and writes it for a runtime, without anything of the inputs' values.

    Args:
        model: The network; it gets its mode back.
        inputs: Example inputs; their batch size stays free where the network traces so and the format has it.
        file: Where to write.
        runtime: Whose file.
        calibration: Samples to quantise with, for an int8 file.
        sizes: Further dimensions of every input that stay free where that works (heights, widths, lengths).
        integer: Whether the int8 file shall compute in integers alone.

    Returns:
        What was written.

    Raises:
        ExportError: The network cannot be traced (the message names the line of the user's code), converted or
            quantised.
        OSError: The file cannot be written.
    """
    with evaluating(model), quiet():
        try:
            traced = export_program(model, inputs, free=not runtime.fixed_batch, also=sizes)
        except (InputError, TraceError) as error:
            raise ExportError(f"The network cannot be traced for export: {error}") from error
        traced = private(traced)
        runtime.write(traced, file, calibration, integer=integer)
    return traced


def compare(model: nn.Module, file: Path, traced: Exported, runtime: Runtime, inputs: ExampleInputs) -> Agreement:
    """Compares a file that was just written with the network, in the runtime that it is for.

    Raises:
        ExportError: The file cannot be opened or run, or its outputs differ in number or shape.
    """
    with evaluating(model), quiet():
        return agreement(model, _runner(file, runtime), inputs, None if traced.dynamic else traced.batch)


def write_checked(model: nn.Module, inputs: ExampleInputs, file: Path, runtime: Runtime) -> int | None:
    """Writes a float32 file and checks on noise that it computes what the network computes.

    Returns:
        The only batch size that the file takes; ``None`` for any.

    Raises:
        ExportError: See :func:`write` and :func:`compare`; or the two differ.
    """
    try:
        traced = write(model, inputs, file, runtime)
    except OSError as error:
        raise ExportError(f"Cannot write {str(file)!r}: {error.strerror or error}.") from error
    judge(compare(model, file, traced, runtime, noise(inputs)), runtime.format, TOLERANCE)
    return None if traced.dynamic else batch_size(inputs)


def open_written(model: nn.Module, inputs: ExampleInputs, folder: Path, runtime: Runtime, threads: int) -> Program:
    """Opens a network in a runtime that takes files, through one that is written into ``folder`` and checked.

    Raises:
        InputError: The runtime is not installed.
        ExportError: The network cannot be written for it, or the file computes something else.
    """
    source = source_of(runtime)
    if source is None:
        raise ExportError(f"{runtime.title} opens files ({', '.join(runtime.suffixes)}) that nothing here writes.")
    for one in (runtime, source):
        one.need(f"Running networks in {runtime.title}")
    file = folder / f"network{source.suffix}"
    write_checked(model, inputs, file, source)
    return runtime.open(file, threads, trust=True)


def _runner(file: Path, runtime: Runtime) -> Runner:
    try:
        program = runtime.open(file, torch.get_num_threads(), trust=True)
    except InputError as error:
        raise ExportError(f"The exported file cannot be opened: {error}") from error

    def run(inputs: ExampleInputs) -> list[torch.Tensor]:
        try:
            return program(inputs)
        except InputError as error:
            raise ExportError(f"The exported file does not run: {error}") from error

    return run
