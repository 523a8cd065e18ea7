"""Single layers as ONNX files, written directly: a table has hundreds of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from secateur.budget.latency.layers import Layer
from secateur.runtimes.packages import need

__all__ = ["ONNX", "write_layer"]

ONNX = ".onnx"
"""Runtimes that open files of this ending get layers as such files."""

# Name of the follower → ONNX operators: (operator, whether it also takes what came before the chain, attributes).
_CHAINS: dict[str, tuple[tuple[str, bool, dict[str, Any]], ...]] = {
    "batch_norm": (),  # folded into the layer
    "relu": (("Relu", False, {}),),
    "sigmoid": (("Sigmoid", False, {}),),
    "tanh": (("Tanh", False, {}),),
    "leaky_relu": (("LeakyRelu", False, {"alpha": 0.1}),),
    "gelu": (("Gelu", False, {}),),
    "silu": (("Sigmoid", False, {}), ("Mul", True, {})),
    "hardswish": (("HardSwish", False, {}),),
}


def write_layer(layer: Layer, outer: int, inner: int, *, shape: Sequence[int], path: Path, copies: int = 1) -> None:
    """Writes one layer of given widths, with random weights, as an ONNX file.

    Args:
        layer: What the layer is.
        outer: Extent of the weight's output dimension.
        inner: Extent of the weight's contracted dimension (channels per group).
        shape: Shape of its input.
        path: Where to write.
        copies: How many layers like it read the input side by side; their outputs are added.

    Raises:
        InputError: The package onnx is missing.
    """
    need(("onnx",), "onnx", "Measuring layers in ONNX files")
    import onnx
    from onnx import helper

    nodes: list[Any] = []
    weights: list[Any] = []
    last = ""
    for number in range(copies):
        made = _follow(layer, nodes, weights, _contraction(layer, outer, inner, number, nodes, weights), number)
        if last:
            nodes.append(helper.make_node("Add", [last, made], [f"sum{number}"]))
        last = f"sum{number}" if last else made
    inputs = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, list(shape))]
    outputs = [helper.make_tensor_value_info(last, onnx.TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "layer", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.save(onnx.shape_inference.infer_shapes(model), str(path))


def _contraction(layer: Layer, outer: int, inner: int, number: int, nodes: list[Any], weights: list[Any]) -> str:
    """Appends nodes and weights of the layer itself; returns the name of its output."""
    from onnx import helper

    w, b, y = f"w{number}", f"b{number}", f"y{number}"
    bias = [_tensor(b, (outer,), number)] if layer.bias else []
    linear = (outer, inner) if not layer.space else (inner, outer)
    weights += [_tensor(w, (outer, inner, *layer.kernel) if layer.kind == "conv" else linear, number), *bias]
    taken = ["x", w, *(t.name for t in bias)]
    if layer.kind == "conv":
        spread: dict[str, Any] = {"kernel_shape": layer.kernel, "strides": layer.stride, "pads": layer.padding * 2,
                  "dilations": layer.dilation, "group": layer.groups or outer}  # fmt: skip
        nodes.append(helper.make_node("Conv", taken, [y], **spread))
    elif not layer.space:
        nodes.append(helper.make_node("Gemm", taken, [y], transB=1))
    else:
        nodes.append(helper.make_node("MatMul", taken[:2], [y]))
        if bias:
            nodes.append(helper.make_node("Add", [y, b], [f"z{number}"]))
            return f"z{number}"
    return y


def _follow(layer: Layer, nodes: list[Any], weights: list[Any], last: str, copy: int) -> str:
    """Appends the followers; returns the name of the last output."""
    from onnx import helper

    for place, name in enumerate(layer.followers):
        before, number = last, f"{copy}.{place}"
        if name in ("relu6", "hardtanh"):
            weights += [_scalar(f"low{number}", 0.0), _scalar(f"high{number}", 6.0)]
            nodes.append(helper.make_node("Clip", [last, f"low{number}", f"high{number}"], [f"f{number}"]))
            last = f"f{number}"
            continue
        for step, (operator, twice, attributes) in enumerate(_CHAINS[name]):
            made = f"f{number}.{step}"
            nodes.append(helper.make_node(operator, [before, last] if twice else [last], [made], **attributes))
            last = made
    return last


def _tensor(name: str, shape: tuple[int, ...], seed: int) -> Any:
    """Seeded noise, so small that no chain of it overflows and so large that nothing is denormal."""
    from onnx import numpy_helper

    values = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    return numpy_helper.from_array(values * np.float32(0.05), name)


def _scalar(name: str, value: float) -> Any:
    from onnx import numpy_helper

    return numpy_helper.from_array(np.array(value, dtype=np.float32), name)
