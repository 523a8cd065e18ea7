"""ONNX files as messages: read within bounds, looked through, refused in one sentence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import Any

from secateur.core.errors import InputError, WeightsError, first_line, nearest
from secateur.core.reading import opened, read_bytes
from secateur.models.onnx_file.registry import OPERATORS

__all__ = ["constants_of", "inputs_of", "message", "read_model", "title_of", "value_of"]

_LARGEST = 2**31
"""Bytes of a protobuf message, and of all weights."""
_OLDEST = 7
_CONTROL = ("If", "Loop", "Scan")
_QUANTISED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul",
              "ConvInteger", "MatMulInteger")  # fmt: skip
_HALF = {10: "float16", 16: "bfloat16"}


def need_onnx() -> Any:
    """The onnx package.

    Raises:
        InputError: It, or ONNX Runtime, is not installed.
    """
    try:
        import onnx
        import onnxruntime  # noqa: F401  what is read is compared with it
    except ImportError as error:
        raise InputError(f'Reading ONNX files needs {error.name}: pip install "secateur[onnx]".') from error
    return onnx


def read_model(path: str | PathLike[str]) -> Any:
    """Reads a file and everything that belongs to it, and checks that it can be followed.

    Args:
        path: The file; weights may lie in files beside it.

    Returns:
        The ``ModelProto``, with all weights inside and its own functions inlined.

    Raises:
        WeightsError: It is missing, damaged, too large, or names files outside its folder.
        InputError: It holds what cannot be followed; names the node.
    """
    onnx = need_onnx()
    model = message(read_bytes(path, WeightsError, largest=_LARGEST), str(path))
    _whole_weights(model, Path(path), onnx)
    _check_versions(model, path, onnx)
    if model.functions:
        model = _inlined(model, path)
    _check_nodes(model, path, onnx)
    _check_values(model, path)
    _check_by_onnx(model, path, onnx)
    return model


def message(content: bytes, name: str) -> Any:
    """A ``ModelProto`` of bytes.

    Raises:
        WeightsError: They hold none.
    """
    onnx = need_onnx()
    try:
        model = onnx.ModelProto.FromString(content)
    except Exception as error:  # protobuf's own classes
        raise WeightsError(f"{name} is no ONNX file, or a damaged one: {first_line(error)}.") from error
    if not model.graph.node or not model.graph.output:
        raise WeightsError(f"{name} is no ONNX file, or a damaged one: it holds no graph with nodes and outputs.")
    return model


def _check_by_onnx(model: Any, path: Any, onnx: Any) -> None:
    """What ONNX itself says of a file; that an output has no shape, every runtime takes."""
    shapeless = [v.type.tensor_type for v in model.graph.output if not v.type.tensor_type.HasField("shape")]
    for kind in shapeless:
        kind.shape.SetInParent()
    try:
        onnx.checker.check_model(model)
    except Exception as error:  # its classes are of C++
        raise WeightsError(f"{path} is no valid ONNX file: {first_line(error).rstrip('.')}.") from error
    finally:
        for kind in shapeless:
            kind.ClearField("shape")


# ------------------------------------------------------------------------------------------------------- weights


def _whole_weights(model: Any, path: Path, onnx: Any) -> None:
    """Checks the sizes of all constants, and brings in those that lie in other files."""
    names: set[str] = set()
    total = 0
    if model.graph.sparse_initializer:
        raise InputError(f"{path} holds weights that are stored sparsely; store them densely.")
    for tensor in model.graph.initializer:
        if tensor.name in names:
            raise WeightsError(f"{path} is damaged: it holds two initialisers named {_short(tensor.name)}.")
        names.add(tensor.name)
    for tensor in _tensors(model.graph):
        total += _bytes_of(tensor, path, onnx)
        if total > _LARGEST:
            raise WeightsError(f"{path} claims more than {_LARGEST:,} bytes of weights.")
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            _bring_in(tensor, path, onnx)


def _tensors(graph: Any) -> Iterator[Any]:
    """Every constant: initialisers, and those of constant nodes."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t


def _bytes_of(tensor: Any, path: Path, onnx: Any) -> int:
    """Bytes that a constant takes, which have to be there."""
    kind = _HALF.get(tensor.data_type)
    name = _short(tensor.name) if tensor.name else "a constant"
    if kind is not None:
        raise InputError(
            f"{path} holds {kind} weights ({name}); read are float32 files: cut that one, then convert it to {kind}."
        )
    if min(tensor.dims, default=0) < 0:
        raise WeightsError(f"{path} is damaged: {name} has the shape {tuple(tensor.dims)}.")
    count = math.prod(tensor.dims)
    try:
        size = count * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: {name} is of ONNX's type {tensor.data_type}, which is not read.") from error
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return int(size)
    typed = max(len(tensor.float_data), len(tensor.int32_data), len(tensor.int64_data), len(tensor.double_data),
                len(tensor.uint64_data), len(tensor.string_data))  # fmt: skip
    there = len(tensor.raw_data) == size if tensor.HasField("raw_data") else typed == count
    if not there:
        raise WeightsError(
            f"{path} is damaged: {name} has the shape {tuple(tensor.dims)}, and its numbers are not all there."
        )
    return int(size)


def _bring_in(tensor: Any, path: Path, onnx: Any) -> None:
    """Reads a constant from the file beside."""
    told = {entry.key: entry.value for entry in tensor.external_data}
    location, folder = told.get("location", ""), path.resolve().parent
    beside = folder / location
    if not location or Path(location).is_absolute() or not beside.resolve().is_relative_to(folder):
        raise WeightsError(
            f"{path} wants the weights of {_short(tensor.name)} from {_short(location)}, outside its own folder; put "
            "the file beside it."
        )
    size = math.prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    try:
        offset, length = int(told.get("offset", 0)), int(told.get("length", size))
    except ValueError as error:
        raise WeightsError(f"{path} is damaged: {_short(tensor.name)} lies nowhere ({first_line(error)}).") from error
    with opened(beside, WeightsError) as file:
        file.seek(max(offset, 0))
        content = file.read(size) if offset >= 0 and length == size else b""
    if len(content) != size:
        raise WeightsError(f"{beside} does not hold the {size:,} bytes of {_short(tensor.name)} that {path} says.")
    del tensor.external_data[:]
    tensor.data_location = onnx.TensorProto.DEFAULT
    tensor.raw_data = content


# --------------------------------------------------------------------------------------------------------- nodes


def _check_versions(model: Any, path: Any, onnx: Any) -> None:
    newest = onnx.defs.onnx_opset_version()
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if len(versions) != 1 or not _OLDEST <= versions[0] <= newest:
        got = versions[0] if len(versions) == 1 else "none" if not versions else "several"
        raise InputError(
            f"{path} is written in version {got} of ONNX's operators; read are {_OLDEST} to {newest}. "
            "onnx.version_converter changes it."
        )


def _inlined(model: Any, path: Any) -> Any:
    from onnx import inliner

    try:
        return inliner.inline_local_functions(model)
    except Exception as error:  # its classes are of C++
        raise WeightsError(f"{path} holds functions that cannot be inlined: {first_line(error)}.") from error


def _check_nodes(model: Any, path: Any, onnx: Any) -> None:
    for index, node in enumerate(model.graph.node):
        title = title_of(node, index)
        where = f"{path}: the node {title!r} is of the operator {_short(node.op_type)}"
        if node.domain not in ("", "ai.onnx"):
            raise InputError(
                f"{where} of the domain {_short(node.domain)}, which ONNX does not define, so it cannot be followed; "
                "export the network with standard operators."
            )
        if node.op_type in _CONTROL:
            raise InputError(
                f"{where}, which is control flow and cannot be followed; export the network without it, or fold it "
                "(onnxsim, or constant folding in the exporter)."
            )
        if node.op_type in _QUANTISED:
            raise InputError(
                f"{where}: the file is quantised. Cut the float32 file first, then quantise the smaller one."
            )
        if node.op_type != "Constant" and node.op_type not in OPERATORS:
            close = nearest(node.op_type, OPERATORS)
            offer = f" Did you mean {' or '.join(close)}?" if close and not _defined(node, model, onnx) else ""
            raise InputError(
                f"{where}, which is not read.{offer} Read are {len(OPERATORS)} operators; docs/onnx.md lists them."
            )


def _defined(node: Any, model: Any, onnx: Any) -> bool:
    return bool(onnx.defs.has(node.op_type))


def _check_values(model: Any, path: Any) -> None:
    """Every value is made once, and before it is used."""
    graph = model.graph
    for value in graph.input:
        if not value.type.HasField("tensor_type"):
            raise InputError(f"{path}: the input {_short(value.name)} is no tensor (a sequence or the like).")
    known = {tensor.name for tensor in graph.initializer} | {value.name for value in graph.input}
    made = {name for node in graph.node for name in node.output if name}
    for index, node in enumerate(graph.node):
        title = title_of(node, index)
        for name in node.input:
            if name and name not in known:
                reason = "made later or by itself: the graph has a circle" if name in made else "made nowhere"
                raise WeightsError(
                    f"{path} is damaged: the node {title!r} ({node.op_type}) reads {_short(name)}, which is {reason}."
                )
        for name in node.output:
            if name and name in known:
                raise WeightsError(f"{path} is damaged: {_short(name)} is made twice, at last by the node {title!r}.")
            known.add(name)
    for value in graph.output:
        if value.name not in known:
            raise WeightsError(f"{path} is damaged: its output {_short(value.name)} is made nowhere.")


def title_of(node: Any, index: int) -> str:
    """What a node is called: by the file, or by what it makes."""
    found = str(node.name) or next((str(name) for name in node.output if name), f"{node.op_type}_{index}")
    return found if len(found) <= 120 else f"{found[:120]}…"


def _short(name: str) -> str:
    return repr(str(name) if len(name) <= 120 else f"{name[:120]}…")


# ------------------------------------------------------------------------------------------------------- contents


def inputs_of(model: Any) -> list[Any]:
    """The inputs that a caller gives: constants with default values are none."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in constants]


def constants_of(model: Any) -> dict[str, Any]:
    """Constants by name, as arrays: initialisers, and what constant nodes make."""
    from onnx import numpy_helper

    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            found[node.output[0]] = _constant(node)
        elif node.op_type == "Identity" and node.input[0] in found:
            found[node.output[0]] = found[node.input[0]]
    return found


def _constant(node: Any) -> Any:
    import numpy as np
    from onnx import helper, numpy_helper

    (attribute,) = node.attribute
    if attribute.name == "value":
        return numpy_helper.to_array(attribute.t)
    value = helper.get_attribute_value(attribute)
    if not attribute.name.startswith(("value_float", "value_int")):
        raise InputError(f"The node {node.name or node.output[0]!r} holds a constant of texts, which is not read.")
    return np.asarray(value, dtype=np.float32 if "float" in attribute.name else np.int64)


def value_of(attribute: Any) -> Any:
    """An attribute as Python has it: lists become tuples, a constant of one number that number."""
    from onnx import helper, numpy_helper

    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if attribute.HasField("t"):
        array = numpy_helper.to_array(value)
        return array.reshape(-1)[0].item() if array.size == 1 else None
    if isinstance(value, Iterable) and not isinstance(value, str):
        return tuple(v.decode(errors="replace") if isinstance(v, bytes) else v for v in value)
    return value
