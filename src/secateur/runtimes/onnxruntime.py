"""ONNX Runtime on the CPU, and ONNX files, which most other runtimes read too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from secateur.core.batches import batch_size, chunks
from secateur.core.errors import ExportError, InputError
from secateur.core.types import ExampleInputs
from secateur.graph.export import Exported
from secateur.runtimes.base import Program, Runtime, runtime
from secateur.runtimes.files import METADATA, feed_in_order, head
from secateur.runtimes.packages import need
from secateur.runtimes.refusals import reason

__all__ = ["OnnxRuntime", "feed", "is_onnx", "session", "write_onnx"]

# A protobuf message, and so an ONNX file with its weights inside, holds 2 GiB at most.
_LIMIT = 2**31 - 2**20
# Tags of a ModelProto's fields: 1 is a number; 2 to 4, 6 to 8 and 14 have a length, 5 is a number.
_VERSION = 1 << 3
_NEXT = {field << 3 | 2 for field in (2, 3, 4, 6, 7, 8, 14)} | {5 << 3}
_CALIBRATED_AT_ONCE = 16  # every activation of a batch is held


@runtime("onnxruntime")
class OnnxRuntime(Runtime):
    """Opens ONNX files with a fixed number of threads inside an operator."""

    title = "ONNX Runtime"
    summary = "ONNX Runtime on the CPU"
    packages = ("onnxruntime", "onnx", "onnxscript")
    extra = "onnx"
    step = 16
    format = "onnx"
    suffixes = (".onnx",)
    script = """import onnxruntime

session = onnxruntime.InferenceSession(FILE, providers=["CPUExecutionProvider"])


def network(x):
    return session.run(None, {session.get_inputs()[0].name: x})"""

    def from_file(self, file: Path, threads: int) -> Program:
        """Opens a file; what it refuses is worded when inputs are prepared, outside the timed call."""
        opened = session(file, threads)

        def prepare(inputs: ExampleInputs) -> Any:
            arrays = feed(opened, inputs, file)
            _try(opened, arrays, file)  # a refusal is worded once, outside the timed call
            return arrays

        def outputs(arrays: Any) -> list[Tensor]:
            return [torch.as_tensor(array) for array in arrays]

        return Program(prepare, lambda arrays: opened.run(None, arrays), outputs)

    def write_metadata(self, file: Path, text: str) -> None:
        """Into the file's ``metadata_props``; weights in another file stay there."""
        import onnx

        model = onnx.load(file, load_external_data=False)
        onnx.helper.set_model_props(model, {**{p.key: p.value for p in model.metadata_props}, METADATA: text})
        file.write_bytes(model.SerializeToString())

    def read_metadata(self, file: Path) -> str | None:
        """From the file's ``metadata_props``."""
        need(("onnx",), "onnx", "Reading ONNX files")
        import onnx

        model = onnx.load(file, load_external_data=False)
        return next((str(entry.value) for entry in model.metadata_props if entry.key == METADATA), None)

    def recognises(self, file: Path) -> bool:
        """By the first field of the message."""
        return is_onnx(file)

    def parts(self, file: Path) -> tuple[Path, ...]:
        """The file, and the one that holds the weights."""
        return file, file.with_name(f"{file.name}.data")

    def convert(self, traced: Exported, file: Path) -> None:
        """Writes one file with all weights, up to 2 GB of them."""
        write_onnx(traced, file)

    def quantise(self, dense: Path, calibration: ExampleInputs, batch: int | None, file: Path) -> None:
        """Writes QDQ pairs around operators: weights signed per channel, activations unsigned per tensor, by min-max.

        Signed activations would be right too, and slower on x86: its instructions multiply unsigned by signed bytes.
        """
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        prepared = dense.with_name("prepared.onnx")
        quant_pre_process(dense, prepared)  # folds batch norms and finds shapes, without which much stays float
        opened = session(dense)
        fed = (feed(opened, part, dense) for part in chunks(calibration, batch or _CALIBRATED_AT_ONCE, fill=True))
        quantize_static(
            prepared,
            file,
            _Reader(fed),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )


def is_onnx(file: Path) -> bool:
    """Whether a file begins as ONNX files do: the version of the format (field 1), and another field of a model."""
    start = head(file, 3)
    return len(start) == 3 and start[0] == _VERSION and 0 < start[1] < 128 and start[2] in _NEXT


# ---------------------------------------------------------------------------------------------------- running files


def session(path: str | PathLike[str], threads: int = 1) -> Any:
    """Opens an ONNX file on the CPU with ``threads`` threads inside an operator."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if threads > 1:
        # Idle threads that spin would take the cores of whatever is measured next.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def feed(opened: Any, inputs: ExampleInputs, path: str | PathLike[str]) -> dict[str, NDArray[Any]]:
    """Returns the arrays that a session wants: by name where the names agree, else in order.

    Raises:
        InputError: When the numbers of inputs differ, or the file takes another fixed batch size only.
    """
    wanted = opened.get_inputs()
    names = [entry.name for entry in wanted]
    arrays = feed_in_order(inputs, names, path)
    fixed = wanted[0].shape[0] if names and wanted[0].shape else None
    if isinstance(fixed, int) and fixed != (batch := batch_size(inputs)):
        raise InputError(f"{str(path)!r} takes batches of {fixed} only; got {batch}. Export it with a dynamic batch.")
    return dict(zip(names, arrays, strict=True))


def _try(opened: Any, arrays: Mapping[str, NDArray[Any]], path: str | PathLike[str]) -> None:
    """Runs the session once.

    Raises:
        InputError: The runtime refuses the inputs; the message is its own.
    """
    try:
        opened.run(None, dict(arrays))
    except Exception as error:  # onnxruntime raises a class of its own per status code
        words = " ".join(str(error).split())
        raise InputError(f"ONNX Runtime cannot run {str(path)!r} on these inputs: {words}") from error


# ---------------------------------------------------------------------------------------------------- writing files


def write_onnx(traced: Exported, path: Path) -> None:
    """Writes one file with all weights; beyond 2 GB of them they go to ``<name>.data`` beside it.

    Raises:
        ExportError: An operator cannot be converted; the message names it and the module that it comes from.
    """
    program = traced.program
    inputs, outputs = _names(program)
    try:
        exported = torch.onnx.export(program, dynamo=True, verbose=False, input_names=inputs, output_names=outputs)
    except Exception as error:  # the exporter's own classes are private
        raise ExportError(reason(error, "ONNX", program)) from error
    if exported is None:
        raise ExportError("torch.onnx.export returned no model; use a newer torch (2.9 or later).")
    _name_sizes(exported.model)
    size = sum(t.numel() * t.element_size() for t in program.state_dict.values())
    exported.save(str(path), external_data=size > _LIMIT)


def _names(program: ExportedProgram) -> tuple[list[str] | None, list[str] | None]:
    # Only lone tensors are renamed: several have names of the user's own.
    signature = program.graph_signature
    keywords = program.example_inputs[1]
    lone_input = len(signature.user_inputs) == 1 and not keywords
    lone_output = len(signature.user_outputs) == 1
    return ["input"] if lone_input else None, ["output"] if lone_output else _output_names(program)


def _output_names(program: ExportedProgram) -> list[str] | None:
    """The keys under which a network gives its outputs: ``boxes``, ``scores``, ``features.0``; none in a tuple."""
    spec = program.call_spec.out_spec
    if spec is None:
        return None
    found, _ = pytree.tree_flatten_with_path(pytree.tree_unflatten([0] * spec.num_leaves, spec))
    paths = [[getattr(key, "key", getattr(key, "idx", None)) for key in path] for path, _ in found]
    names = [".".join(map(str, path)) for path in paths]
    taken = {str(name) for name in program.graph_signature.user_inputs}
    unique = len({*names} - taken) == len(program.graph_signature.user_outputs)
    return names if unique and all(path and isinstance(path[0], str) for path in paths) else None


def _name_sizes(model: Any) -> None:
    """Gives the symbolic dimensions of the inputs names that say what they are, instead of ``s31``."""
    import onnx_ir as ir

    graph = model.graph
    names: dict[str, str] = {}
    for value in graph.inputs:
        for index, dimension in enumerate(value.shape or ()):
            if isinstance(dimension, ir.SymbolicDim) and str(dimension).isidentifier():
                wanted = _size_name(index, len(value.shape))
                again = sum(1 for name in names.values() if name.partition("_")[0] == wanted)
                names.setdefault(str(dimension), f"{wanted}_{again + 1}" if again else wanted)
    values = [*graph.inputs, *graph.outputs, *(value for node in graph for value in node.outputs)]
    for value in values:
        for index, dimension in enumerate(value.shape or ()):
            if str(dimension) in names:
                value.shape[index] = ir.SymbolicDim(names[str(dimension)])


def _size_name(index: int, dims: int) -> str:
    if not index:
        return "batch"
    images = {4: ("channels", "height", "width"), 5: ("channels", "depth", "height", "width")}
    return images[dims][index - 1] if dims in images else "length" if index == 1 else f"size{index}"


class _Reader:
    """Gives one calibration batch after the other, in the form that the quantiser asks for."""

    def __init__(self, batches: Iterator[dict[str, NDArray[Any]]]) -> None:
        self._batches = batches

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        return next(self._batches, None)
