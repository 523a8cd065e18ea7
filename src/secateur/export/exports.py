"""One function that writes a network to a file another runtime can run."""

from __future__ import annotations

import math
from dataclasses import replace
from os import PathLike
from pathlib import Path

from torch import nn

from secateur.core import arguments
from secateur.core.batches import batch_size
from secateur.core.checks import check_inputs as sound_inputs
from secateur.core.checks import check_kind
from secateur.core.errors import ExportError, InputError
from secateur.core.modes import evaluating
from secateur.core.types import ExampleInputs
from secateur.export.calibration import check_calibration, judge_int8, write_int8
from secateur.export.checks import Agreement, ExportCheck, agreement, noise
from secateur.export.formats import FORMATS, Format, format_of
from secateur.export.private import private
from secateur.export.publish import publish, scratch, target
from secateur.export.tracing import quiet, trace
from secateur.graph.trace import Exported
from secateur.runtimes import RUNTIMES

__all__ = ["export"]


@arguments.checked
def export(
    model: nn.Module,
    example_inputs: ExampleInputs,
    path: str | PathLike[str],
    to: str | None = None,
    *,
    calibration: ExampleInputs | None = None,
    check_inputs: ExampleInputs | None = None,
    tolerance: float = 1e-4,
) -> ExportCheck:
    """Writes the network to ``path`` and checks the file against PyTorch before it gets its name.

    The batch is dynamic where the network traces so and the format has it. The network is exported in evaluation
    mode and gets its mode back. What was at ``path`` is replaced only when the check has passed.

    Args:
        model: A module, or a graph module such as ``ExportedProgram.module()`` gives.
        example_inputs: A tensor, a tuple of positional or a dict of keyword inputs.
        path: Where to write; its folder must exist. Its ending says the format: ``.onnx`` (one file with all weights,
            up to 2 GB), ``.xml`` (OpenVINO, with its ``.bin`` beside it), ``.tflite`` (LiteRT) and ``.pte``
            (ExecuTorch; both for the batch size of the example inputs) or ``.pt2``. Nothing of the inputs' values
            gets into the file.
        to: The format (``onnx``, ``openvino``, ``litert``, ``executorch``, ``pt2``), for names without an ending; it
            must not be another one than the ending says.
        calibration: Samples, best a few hundred real ones, prepared as for the network: weights and activations
            are quantised to 8 bits by the ranges that these give (``onnx``, ``openvino`` and ``litert``). Such a
            file is not held to ``tolerance``; how near it came is in the result.
        check_inputs: Samples to compare the file with PyTorch on, best real ones of the data set; if not given,
            the calibration samples, or seeded noise in the shape of the example inputs.
        tolerance: Allowed difference of a float32 file, relative to each output's largest value (at least 1).

    Returns:
        What was checked and how well the two agree.

    Raises:
        UnknownNameError: When ``to`` is not a known format.
        InputError: When a package that the format needs is missing (the message holds the install command), the
            format has no int8, or the calibration samples do not fit.
        ExportError: When the file's name says no format or another one, the network cannot be traced, an operator
            cannot be converted, the file cannot be written, or it computes something else; no file is left then.
    """
    path = target(path)
    to = format_of(path, to)
    format_ = FORMATS[to]
    format_.need(f"Export to {to!r}", int8=calibration is not None)
    if tolerance < 0:
        raise InputError(f"export(tolerance=…) is the allowed difference, 0 or more; got {tolerance!r}.")
    check_kind(model)
    sound_inputs(example_inputs)
    if calibration is not None:
        check_calibration(to, calibration, example_inputs)
    if check_inputs is None:
        check_inputs = noise(example_inputs) if calibration is None else calibration
    sound_inputs(check_inputs, "check_inputs")
    with evaluating(model), quiet(), scratch(path) as folder:
        traced = private(trace(model, example_inputs, free=not format_.fixed_batch))
        file = Path(folder) / path.name
        _write(format_, traced, calibration, file, path)
        found = agreement(model, format_.load(file), check_inputs, None if traced.dynamic else traced.batch)
        if calibration is None:
            _judge(found, to, tolerance)
        else:
            judge_int8(found, to)
        check = _check(found, to, path, traced)
        facts = {"tolerance": tolerance} if calibration is None else _int8_facts(found, calibration)
        return replace(check, bytes=publish(file, path), **facts)


def _check(found: Agreement, to: str, path: Path, traced: Exported) -> ExportCheck:
    return ExportCheck(
        format=to,
        path=str(path),
        bytes=0,
        max_difference=found.max_difference,
        tolerance=None,
        same_labels=found.same_labels,
        images=found.images,
        batches=found.batches,
        dynamic_batch=traced.dynamic,
        runtime=RUNTIMES[FORMATS[to].runtime].version(),
    )


def _int8_facts(found: Agreement, calibration: ExampleInputs) -> dict[str, float | None]:
    snr = found.snr_db
    return {"calibration": batch_size(calibration), "snr_db": snr if math.isfinite(snr) else None}


def _write(format_: Format, traced: Exported, calibration: ExampleInputs | None, file: Path, path: Path) -> None:
    try:
        if calibration is None:
            format_.write(traced, file)
        else:
            write_int8(format_, traced, calibration, file)
    except OSError as error:
        raise ExportError(f"Cannot write {str(path)!r}: {error.strerror or error}.") from error


def _judge(found: Agreement, to: str, tolerance: float) -> None:
    if not found.max_difference <= tolerance:
        raise ExportError(
            f"The {to} file differs from the network by {found.max_difference:.3g} at output {found.output} "
            f"(allowed: {tolerance:.3g}; {found.same_labels:.1%} of the labels agree). No file was written."
        )
