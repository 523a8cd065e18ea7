"""The tables of ``.tflite`` files, read and written with LiteRT's own classes."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

from secateur.runtimes.integer import IntegerFacts, QuantisedTensor

__all__ = ["integer_facts", "packed", "read_model", "schema"]


def schema() -> Any:
    """LiteRT's own classes for the tables of its files."""
    from ai_edge_litert import schema_py_generated

    return schema_py_generated


def read_model(file: Path) -> Any:
    """The tables of a file; may raise anything where it is damaged."""
    return schema().ModelT.InitFromPackedBuf(bytearray(file.read_bytes()), 0)


def packed(model: Any) -> bytes:
    """The content of a file with these tables."""
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def integer_facts(file: Path) -> IntegerFacts:
    """What the tables say of integers and of activations; of the first subgraph, which is the network."""
    model = read_model(file)
    graph = model.subgraphs[0]
    ends = [tuple(_quantised(graph.tensors[index]) for index in side) for side in (graph.inputs, graph.outputs)]
    return IntegerFacts(ends[0], ends[1], tuple(_floats(model)), _activations(model))


def _quantised(tensor: Any) -> QuantisedTensor:
    found, shape = tensor.quantization, tuple(int(size) for size in tensor.shape)
    known = found is not None and found.scale is not None and len(found.scale)
    scale, zero = (float(found.scale[0]), int(found.zeroPoint[0])) if known else (0.0, 0)
    return QuantisedTensor(tensor.name.decode(), shape, scale, zero)


def _floats(model: Any) -> Iterator[str]:
    types = schema().TensorType
    floating = (types.FLOAT16, types.FLOAT32, types.FLOAT64)
    names = {value: name for name, value in vars(schema().BuiltinOperator).items() if isinstance(value, int)}
    for graph in model.subgraphs:
        for operator in graph.operators:
            tensors = [graph.tensors[index] for index in (*operator.inputs, *operator.outputs) if index >= 0]
            if any(tensor.type in floating for tensor in tensors):
                yield names.get(model.operatorCodes[operator.opcodeIndex].builtinCode, "a custom operator")


def _activations(model: Any) -> int:
    graph = model.subgraphs[0]
    sizes = {index: _bytes(tensor) for index, tensor in enumerate(graph.tensors) if _moves(model, tensor)}
    last = {index: step for step, operator in enumerate(graph.operators) for index in operator.inputs}
    last |= dict.fromkeys(graph.outputs, len(graph.operators))
    alive, peak = set(graph.inputs) & set(sizes), 0
    for step, operator in enumerate(graph.operators):
        alive |= set(operator.outputs) & set(sizes)
        peak = max(peak, sum(sizes[index] for index in alive))
        alive = {index for index in alive if last.get(index, -1) > step}
    return peak


def _moves(model: Any, tensor: Any) -> bool:
    """Whether a tensor is an activation: it has no numbers in the file."""
    data = model.buffers[tensor.buffer].data
    return data is None or not len(data)


def _bytes(tensor: Any) -> int:
    types = schema().TensorType
    wide = {types.FLOAT64: 8, types.INT64: 8, types.FLOAT32: 4, types.INT32: 4, types.UINT32: 4, types.FLOAT16: 2,
            types.INT16: 2}  # fmt: skip
    return int(prod(tensor.shape)) * wide.get(tensor.type, 1)
