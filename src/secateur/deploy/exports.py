"""One function that writes a network to a file another runtime can run."""

from __future__ import annotations

import os
import tempfile
from os import PathLike
from pathlib import Path

from torch import nn

from secateur.deploy.checks import Agreement, ExportCheck, agreement, noise
from secateur.deploy.formats import FORMATS, Format
from secateur.deploy.tracing import quiet, trace
from secateur.errors import ExportError
from secateur.graph.trace import Exported
from secateur.measure.modes import evaluating
from secateur.runtimes import RUNTIMES
from secateur.types import ExampleInputs

__all__ = ["export"]


def export(
    model: nn.Module,
    example_inputs: ExampleInputs,
    path: str | PathLike[str],
    to: str = "onnx",
    *,
    check_inputs: ExampleInputs | None = None,
    tolerance: float = 1e-4,
) -> ExportCheck:
    """Writes the network to ``path`` and checks the file against PyTorch before it gets its name.

    The batch is dynamic where the network traces so. The network is exported in evaluation mode and gets
    its mode back. A file that was at ``path`` is replaced only when the check has passed.

    Args:
        model: A module, or a graph module such as ``ExportedProgram.module()`` gives.
        example_inputs: A tensor, a tuple of positional or a dict of keyword inputs.
        path: Where to write; its folder must exist.
        to: ``onnx`` (one file with all weights, up to 2 GB), ``openvino`` (``.xml``, with its ``.bin`` beside
            it), ``litert``, ``executorch`` (both for the batch size of the example inputs) or ``pt2``.
        check_inputs: Samples to compare the file with PyTorch on, best real ones of the data set; seeded
            noise in the shape of the example inputs if not given.
        tolerance: Allowed difference, relative to each output's largest value (at least 1).

    Returns:
        What was checked and how well the two agree.

    Raises:
        UnknownNameError: When ``to`` is not a known format.
        InputError: When a package that the format needs is missing; the message holds the install command.
        ExportError: When the network cannot be traced, an operator cannot be converted, the file cannot
            be written, or it computes something else; no file is left then.
    """
    format_ = FORMATS[to]
    path = _target(path)
    format_.need(f"Export to {to!r}")
    with evaluating(model), quiet(), _scratch(path) as folder:
        traced = trace(model, example_inputs, free=not format_.fixed_batch)
        file = Path(folder) / path.name
        _write(format_, traced, file, path)
        samples = noise(example_inputs) if check_inputs is None else check_inputs
        found = agreement(model, format_.load(file), samples, None if traced.dynamic else traced.batch)
        _judge(found, to, tolerance)
        return _publish(file, path, _check(found, to, path, traced, tolerance))


def _check(found: Agreement, to: str, path: Path, traced: Exported, tolerance: float) -> ExportCheck:
    return ExportCheck(
        format=to,
        path=str(path),
        bytes=0,
        max_difference=found.max_difference,
        tolerance=tolerance,
        same_labels=found.same_labels,
        images=found.images,
        batches=found.batches,
        dynamic_batch=traced.dynamic,
        runtime=RUNTIMES[FORMATS[to].runtime].version(),
    )


def _target(path: str | PathLike[str]) -> Path:
    path = Path(path)
    if path.is_dir():
        raise ExportError(f"Cannot write {str(path)!r}: it is a folder; give the name of a file in it.")
    if not path.parent.is_dir():
        raise ExportError(f"Cannot write {str(path)!r}: the folder {str(path.parent)!r} does not exist.")
    return path


def _scratch(path: Path) -> tempfile.TemporaryDirectory[str]:
    """Opens a folder beside the file, on the same disk, so that the last step is a mere rename."""
    try:
        return tempfile.TemporaryDirectory(dir=path.parent, prefix=".secateur-export-")
    except OSError as error:
        raise ExportError(f"Cannot write into {str(path.parent)!r}: {error.strerror or error}.") from error


def _write(format_: Format, traced: Exported, file: Path, path: Path) -> None:
    try:
        format_.write(traced, file)
    except OSError as error:
        raise ExportError(f"Cannot write {str(path)!r}: {error.strerror or error}.") from error


def _judge(found: Agreement, to: str, tolerance: float) -> None:
    if not found.max_difference <= tolerance:
        raise ExportError(
            f"The {to} file differs from the network by {found.max_difference:.3g} at output {found.output} "
            f"(allowed: {tolerance:.3g}; {found.same_labels:.1%} of the labels agree). No file was written."
        )


def _publish(file: Path, path: Path, check: ExportCheck) -> ExportCheck:
    """Moves everything in the scratch folder beside ``path``: the file last, as it needs the others."""
    files = sorted(file.parent.iterdir(), key=lambda entry: entry == file)
    size = sum(entry.stat().st_size for entry in files)
    for entry in files:
        os.replace(entry, path.parent / entry.name)  # noqa: PTH105 (the atomic one, by its name)
    return ExportCheck(**{**check.__dict__, "bytes": size})
