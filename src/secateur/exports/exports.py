"""One function that writes a network to a file another runtime can run."""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.core import arguments
from secateur.core.batches import batch_size, tensors
from secateur.core.checks import check_inputs as sound_inputs
from secateur.core.checks import check_kind, run
from secateur.core.errors import ExportError, InputError, UnknownNameError
from secateur.core.modes import evaluating
from secateur.core.plan import remembered
from secateur.core.progress import working
from secateur.core.types import ExampleInputs
from secateur.cut.metadata import facts
from secateur.cut.pruned import Pruned, opened
from secateur.exports.calibration import check_calibration, check_integer, integer_part, judge_int8
from secateur.exports.checks import ExportCheck
from secateur.exports.onnx_again import rename, write_again
from secateur.exports.publish import publish, scratch, target
from secateur.graph.export import Exported
from secateur.graph.free import other_inputs
from secateur.models.onnx_file import OnnxNetwork, Unwritable
from secateur.runtimes import Runtime
from secateur.runtimes.formats import writer_for
from secateur.runtimes.parity import Agreement, judge, noise
from secateur.runtimes.writing import TOLERANCE, compare, write
from secateur.task.metadata import ModelMetadata

__all__ = ["export"]


@arguments.checked
def export(
    model: nn.Module | Pruned,
    example_inputs: ExampleInputs | str | PathLike[str] | None = None,
    path: str | PathLike[str] | None = None,
    to: str | None = None,
    *,
    calibration: ExampleInputs | None = None,
    check_inputs: ExampleInputs | None = None,
    tolerance: float = TOLERANCE,
    dynamic: str = "sizes",
    metadata: ModelMetadata | None = None,
    integer: bool = False,
) -> ExportCheck:
    """Writes the network to ``path`` and checks the file against PyTorch before it gets its name.

    The batch is dynamic where the network traces so and the format has it. The network is exported in evaluation
    mode and gets its mode back. What was at ``path`` is replaced only when the check has passed. A network that was
    read from an ONNX file (:func:`secateur.models.read_onnx`) is written into that file again as ``.onnx``: names,
    version and everything that no cut reached stay, and the result is compared in ONNX Runtime with the network and
    with the dense file whose removed entries are zero.

    Args:
        model: A module, a graph module such as ``ExportedProgram.module()`` gives, or the result of a cut.
        example_inputs: A tensor, a tuple of positional or a dict of keyword inputs. The result of a cut knows its
            own, so ``export(small, "small.onnx")`` is enough.
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
        dynamic: What the file takes others of, where the network does: ``sizes`` (batches, and in ONNX files heights,
            widths and lengths too, which are checked at another size) or ``batch`` alone.
        metadata: What whoever runs the file has to know: the kind of task, names of classes, how images are prepared.
            ``secateur.task.ModelMetadata.of(data)`` takes it from a data set or task. It goes into ``onnx``,
            ``openvino`` and ``litert`` files, beside versions, sizes and the digest of the plan;
            :func:`secateur.cut.metadata.read_metadata` reads it.
        integer: Whether the int8 file shall compute in integers alone, its inputs and outputs too, as microcontrollers
            want it (``litert``). Checked on ``check_inputs`` in quantisation steps.

    Returns:
        What was checked and how well the two agree.

    Raises:
        UnknownNameError: When ``to`` is not a known format.
        InputError: When a package that the format needs is missing (the message holds the install command), the
            format has no int8, the calibration samples do not fit, or there are not as many classes as outputs.
        ExportError: When the file's name says no format or another one, the network cannot be traced, an operator
            cannot be converted, the file cannot be written, or it computes something else; no file is left then.
    """
    dense, about = _dense(model), _about(model, metadata)
    model, example_inputs, path = _given(model, example_inputs, path)
    path = target(path)
    runtime = writer_for(path, to)
    runtime.need(f"Export to {runtime.format!r}", int8=calibration is not None)
    if tolerance < 0:
        raise InputError(f"export(tolerance=…) is the allowed difference, 0 or more; got {tolerance!r}.")
    check_kind(model)
    sound_inputs(example_inputs)
    if dynamic not in DYNAMIC:
        raise UnknownNameError("dynamic", dynamic, DYNAMIC)
    if integer:
        check_integer(runtime, calibration)
    if calibration is not None:
        check_calibration(runtime, calibration, example_inputs)
    if check_inputs is None:
        check_inputs = noise(example_inputs) if calibration is None else calibration
    sound_inputs(check_inputs, "check_inputs")
    if metadata is not None:
        _check_classes(model, example_inputs, metadata)
    with scratch(path) as folder, working(f"Writing and checking {path.name}"):
        file = Path(folder) / path.name
        if runtime.format == "onnx" and calibration is None and isinstance(model, OnnxNetwork):
            with contextlib.suppress(Unwritable):
                again = write_again(model, dense, example_inputs, file, runtime, path, tolerance)
                if metadata is not None:
                    runtime.write_metadata(file, about)
                return replace(again, bytes=publish(file, path))
        try:
            if integer:
                traced = write(model, example_inputs, file, runtime, calibration, integer=True)
            else:
                traced = _freest(model, example_inputs, file, runtime, calibration, dynamic, tolerance)
        except OSError as error:
            raise ExportError(f"Cannot write {str(path)!r}: {error.strerror or error}.") from error
        if runtime.format == "onnx" and isinstance(dense, OnnxNetwork):
            rename(file, dense)
        runtime.write_metadata(file, about)
        found = compare(model, file, traced, runtime, check_inputs)
        if calibration is None:
            judge(found, runtime.format, tolerance)
        else:
            judge_int8(found, runtime.format)
        check = _check(found, runtime, path, traced)
        facts: dict[str, Any] = {"tolerance": tolerance} if calibration is None else _int8_facts(found, calibration)
        if integer:
            facts |= integer_part(model, file, runtime, check_inputs)
        return replace(check, bytes=publish(file, path), **facts)


DYNAMIC = ("sizes", "batch")


def _dense(given: nn.Module | Pruned) -> nn.Module | None:
    """The network before its first cut, where that is known."""
    if isinstance(given, Pruned):
        return given.dense
    return None if remembered(given) else given


def _about(given: nn.Module | Pruned, metadata: ModelMetadata | None) -> str:
    """What the file says of how it was made."""
    if isinstance(given, Pruned):
        return facts(given.plan, given.before, given.after, metadata)
    return facts(remembered(given), metadata=metadata)


def _check_classes(model: nn.Module, inputs: ExampleInputs, metadata: ModelMetadata) -> None:
    with evaluating(model), torch.no_grad():
        metadata.check_outputs(tensors(run(model, inputs, "example_inputs")))


def _freest(
    model: nn.Module, inputs: ExampleInputs, file: Path, runtime: Runtime, calibration: ExampleInputs | None,
    dynamic: str, tolerance: float,
) -> Exported:  # fmt: skip
    """Writes the file with other sizes free, if it is right at one of them, or else for the given ones."""
    if dynamic == "sizes" and runtime.format == "onnx" and calibration is None:
        with evaluating(model):
            free, others = other_inputs(model, inputs)
        if any(free):
            with contextlib.suppress(ExportError, InputError):  # sizes that the network itself does not take
                traced = write(model, inputs, file, runtime, sizes=free)
                for other in others:
                    judge(compare(model, file, traced, runtime, noise(other)), runtime.format, tolerance)
                return traced
    return write(model, inputs, file, runtime, calibration)


def _given(
    model: nn.Module | Pruned, inputs: ExampleInputs | str | PathLike[str] | None, path: str | PathLike[str] | None
) -> tuple[nn.Module, ExampleInputs, str | PathLike[str]]:
    """The network, its inputs and the path, of which the inputs may be left out where a cut knows them."""
    if isinstance(inputs, (str, PathLike)):
        if path is not None:
            raise InputError(
                f"export() got a path as example_inputs, {str(inputs)!r}, and path={str(path)!r}: give the inputs, or "
                "one path."
            )
        inputs, path = None, inputs
    if path is None:
        raise InputError("export(path=…) is missing: where to write, for instance 'small.onnx'.")
    network, _, known = opened(model, inputs)
    if inputs is None:  # of copied and loaded results all numbers of a tensor are one in memory
        known = pytree.tree_map_only(Tensor, Tensor.contiguous, known)
    return network, known, path


def _check(found: Agreement, runtime: Runtime, path: Path, traced: Exported) -> ExportCheck:
    return ExportCheck(
        format=runtime.format,
        path=str(path),
        bytes=0,
        max_difference=found.max_difference,
        tolerance=None,
        same_labels=found.same_labels,
        images=found.images,
        batches=found.batches,
        dynamic_batch=traced.dynamic,
        runtime=runtime.version(),
    )


def _int8_facts(found: Agreement, calibration: ExampleInputs) -> dict[str, float | None]:
    snr = found.snr_db
    return {"calibration": batch_size(calibration), "snr_db": snr if math.isfinite(snr) else None}
