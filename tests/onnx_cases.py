"""Small ONNX files made by hand: one for every operator that is read, in the versions that differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass
class Case:
    """One node: ``given`` are shapes of inputs (or arrays, which become constants, or ``None`` for one left out)."""

    operator: str
    given: Sequence[Any]
    attributes: dict[str, Any] = field(default_factory=dict)
    opset: int = 17
    outputs: int = 1
    whole: bool = False
    """Whether the inputs are whole numbers."""

    @property
    def title(self) -> str:
        words = "_".join(f"{k}={v}" for k, v in self.attributes.items() if k != "value")
        shapes = "x".join(
            "-" if g is None else str(g.shape if isinstance(g, np.ndarray) else g).replace(" ", "") for g in self.given
        )
        return f"{self.operator}-{self.opset}-{shapes}-{words}".replace(" ", "")[:110]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def weights(*shape: int, seed: int = 0) -> Array:
    return rng(seed).standard_normal(shape).astype(np.float32)


def whole(*numbers: int) -> Array:
    return np.asarray(numbers, dtype=np.int64)


def scalar(number: float) -> Array:
    return np.asarray(number, dtype=np.float32)


def model(nodes: Sequence[Any], inputs: dict[str, Any], outputs: Sequence[str], constants: dict[str, Array], opset: int,
          types: dict[str, int] | None = None) -> Any:  # fmt: skip
    """A file of nodes; shapes of inputs may hold names of free dimensions."""
    from onnx import TensorProto, helper, numpy_helper

    kinds = types or {}
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info(n, kinds.get(n, TensorProto.FLOAT), s) for n, s in inputs.items()],
        [helper.make_empty_tensor_value_info(n) for n in outputs],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    made.ir_version = 10
    from onnx import shape_inference

    inferred = shape_inference.infer_shapes(made)
    for value, found in zip(made.graph.output, inferred.graph.output, strict=True):
        value.CopyFrom(found)
        if not value.type.tensor_type.elem_type:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    return made


def file_of(case: Case, folder: Path) -> Path:
    import onnx
    from onnx import TensorProto, helper

    names, inputs, constants = [], {}, {}
    for k, given in enumerate(case.given):
        if given is None:
            names.append("")
        elif isinstance(given, np.ndarray):
            names.append(f"c{k}")
            constants[f"c{k}"] = given
        else:
            names.append(f"x{k}")
            inputs[f"x{k}"] = given
    outputs = [f"y{k}" for k in range(case.outputs)]
    node = helper.make_node(case.operator, names, outputs, name="node", **case.attributes)
    types = dict.fromkeys(inputs, TensorProto.INT64) if case.whole else {}
    path = folder / "case.onnx"
    onnx.save(model([node], inputs, outputs, constants, case.opset, types), path)
    return path


X = (2, 4, 6, 6)
_ACTIVATIONS = [
    Case(name, [X])
    for name in (
        "Relu",
        "LeakyRelu",
        "Sigmoid",
        "HardSigmoid",
        "HardSwish",
        "Tanh",
        "Softplus",
        "Softsign",
        "Elu",
        "Celu",
        "Selu",
        "ThresholdedRelu",
        "Softmax",
        "LogSoftmax",
        "Identity",
        "Erf",
        "Exp",
        "Neg",
        "Abs",
        "Reciprocal",
        "Floor",
        "Ceil",
        "Round",
        "Sign",
        "Sin",
        "Cos",
        "Tan",
        "Atan",
        "Sinh",
        "Cosh",
        "Asinh",
        "IsNaN",
        "IsInf",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "Flatten",
        "Transpose",
    )
]
_ONTO_SQUARES = [
    Case(name, [X, X])
    for name in (
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Max",
        "Min",
        "Sum",
        "Mean",
        "Less",
        "LessOrEqual",
        "Greater",
        "GreaterOrEqual",
        "Equal",
    )
]
_REDUCTIONS = [
    Case(name, [X], {"axes": [1, 3], "keepdims": keep}, 13)
    for name in (
        "ReduceMean",
        "ReduceMax",
        "ReduceMin",
        "ReduceProd",
        "ReduceL1",
        "ReduceL2",
        "ReduceSumSquare",
        "ReduceLogSumExp",
    )
    for keep in (0, 1)
]

CASES: list[Case] = [
    *_ACTIVATIONS,
    *_ONTO_SQUARES,
    *_REDUCTIONS,
    Case("LeakyRelu", [X], {"alpha": 0.3}),
    Case("HardSigmoid", [X], {"alpha": 0.1666, "beta": 0.5}),
    Case("Elu", [X], {"alpha": 0.4}),
    Case("Selu", [X], {"alpha": 1.2, "gamma": 0.7}),
    Case("Gelu", [X], opset=20),
    Case("Gelu", [X], {"approximate": "tanh"}, 20),
    Case("Mish", [X], opset=18),
    Case("PRelu", [X, weights(4, 1, 1)]),
    Case("PRelu", [X, weights(1)]),
    Case("Softmax", [X], {"axis": 1}, 13),
    Case("Softmax", [X], {"axis": 1}, 11),
    Case("Softmax", [X], {}, 11),
    Case("LogSoftmax", [X], {"axis": 2}, 11),
    Case("Softmax", [X], {"axis": 3}, 11),
    Case("Clip", [X, scalar(-0.3), scalar(0.4)]),
    Case("Clip", [X, None, scalar(0.4)]),
    Case("Clip", [X, scalar(0.0)]),
    Case("Clip", [X], {"min": -0.2, "max": 0.1}, 7),
    Case("Clip", [X]),
    Case("Add", [X, weights(4, 1, 1)]),
    Case("Sub", [weights(1), X]),
    Case("Div", [X, scalar(3.0)]),
    Case("Div", [X, whole(3)], whole=True),
    Case("Mod", [X, whole(3)], whole=True),
    Case("Mod", [X, weights(1)], {"fmod": 1}),
    Case("Pow", [X, scalar(2.0)]),
    Case("Pow", [X, scalar(3.0)]),
    Case("Sqrt", [X]),
    Case("Log", [X]),
    Case("Asin", [X]),
    Case("Acos", [X]),
    Case("Acosh", [X]),
    Case("Atanh", [X]),
    Case("Dropout", [X], {}, 12),
    Case("Cast", [X], {"to": 7}),
    Case("Cast", [X], {"to": 11}),
    Case("Cast", [X], {"to": 6}),
    Case("CastLike", [X, whole(1)]),
    Case("MatMul", [(2, 3, 5), weights(5, 4)]),
    Case("MatMul", [(2, 3, 5), (2, 5, 4)]),
    Case("MatMul", [(5,), weights(5, 4)]),
    Case("Gemm", [(3, 5), weights(4, 5), weights(4)], {"transB": 1}),
    Case("Gemm", [(3, 5), weights(5, 4), weights(4)]),
    Case("Gemm", [(5, 3), weights(4, 5), weights(3, 4)], {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0}),
    Case("Gemm", [(3, 5), weights(5, 4)]),
    Case("Gemm", [(3, 5), weights(4, 5), weights(1)], {"transB": 1}),
    Case("Gemm", [(3, 5), weights(4, 5), weights(3, 1)], {"transB": 1}),
    Case("Einsum", [(2, 3, 5), (2, 5, 4)], {"equation": "bij,bjk->bik"}),
    Case("Conv", [X, weights(8, 4, 3, 3), weights(8)], {"pads": [1, 1, 1, 1]}),
    Case("Conv", [X, weights(8, 4, 3, 3)], {"pads": [0, 1, 2, 1], "strides": [2, 1]}),
    Case("Conv", [X, weights(8, 1, 3, 3)], {"group": 4, "dilations": [2, 1]}),
    Case("Conv", [X, weights(8, 4, 2, 2)], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    Case("Conv", [X, weights(8, 4, 2, 2)], {"auto_pad": "SAME_LOWER"}),
    Case("Conv", [X, weights(8, 4, 2, 2)], {"auto_pad": "VALID"}),
    Case("Conv", [(2, 4, 9), weights(8, 4, 3)]),
    Case("Conv", [(1, 2, 5, 5, 5), weights(3, 2, 3, 3, 3)]),
    Case(
        "ConvTranspose",
        [X, weights(4, 3, 3, 3), weights(3)],
        {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]},
    ),
    Case("ConvTranspose", [X, weights(4, 2, 3, 3)], {"group": 2, "pads": [0, 1, 1, 0]}),
    Case("ConvTranspose", [X, weights(4, 2, 3, 3)], {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    Case("ConvTranspose", [X, weights(4, 2, 3, 3)], {"strides": [2, 2], "auto_pad": "SAME_LOWER"}),
    Case("ConvTranspose", [X, weights(4, 2, 3, 3)], {"strides": [2, 2], "output_shape": [12, 12]}),
    Case("MaxPool", [X], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    Case("MaxPool", [X], {"kernel_shape": [2, 2], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    Case("MaxPool", [X], {"kernel_shape": [3, 3], "pads": [2, 0, 0, 1]}),
    Case("MaxPool", [(2, 4, 7, 7)], {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
    Case("MaxPool", [X], {"kernel_shape": [2, 2], "dilations": [2, 2]}),
    Case("MaxPool", [(2, 4, 9)], {"kernel_shape": [2]}),
    Case("AveragePool", [X], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    Case("AveragePool", [X], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    Case("AveragePool", [X], {"kernel_shape": [3, 3], "pads": [0, 1, 2, 0]}),
    Case("AveragePool", [X], {"kernel_shape": [3, 3], "pads": [0, 1, 2, 0], "count_include_pad": 1}),
    Case("AveragePool", [(2, 4, 7, 7)], {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}, 19),
    Case("BatchNormalization", [X, weights(4), weights(4), weights(4), abs(weights(4)) + 0.5], {"epsilon": 1e-3}),
    Case("BatchNormalization", [(3, 4), weights(4), weights(4), weights(4), abs(weights(4)) + 0.5], opset=9),
    Case("InstanceNormalization", [X, weights(4), weights(4)]),
    Case("LayerNormalization", [X, weights(6), weights(6)]),
    Case("LayerNormalization", [X, weights(6, 6)], {"axis": 2}),
    Case("GroupNormalization", [X, weights(4), weights(4)], {"num_groups": 2}, 21),
    Case("RMSNormalization", [X, weights(6)], opset=23),
    Case("LRN", [X], {"size": 3, "alpha": 0.1, "beta": 0.6, "bias": 1.5}),
    Case("LpNormalization", [X], {"axis": 1, "p": 2}),
    Case("LpNormalization", [X], {"axis": -1, "p": 1}),
    Case("MeanVarianceNormalization", [X]),
    Case("ReduceSum", [X, whole(1, 2)]),
    Case("ReduceSum", [X], {"axes": [1]}, 11),
    Case("ReduceSum", [X], {"keepdims": 0}),
    Case("ReduceSum", [X], {"noop_with_empty_axes": 1}),
    Case("ReduceMean", [X, whole(2, 3)], {}, 18),
    Case("ReduceLogSum", [X], {"axes": [1]}, 13),
    Case("ArgMax", [X], {"axis": 1}),
    Case("ArgMin", [X], {"axis": -1, "keepdims": 0}),
    Case("TopK", [X, whole(3)], {"axis": 1}, outputs=2),
    Case("TopK", [X, whole(2)], {"largest": 0}, outputs=2),
    Case("CumSum", [X, np.asarray(1)]),
    Case("CumSum", [X, np.asarray(2)], {"exclusive": 1, "reverse": 1}),
    Case("Reshape", [X, whole(2, 0, -1)]),
    Case("Reshape", [X, whole(0, 24, 6)]),
    Case("Flatten", [X], {"axis": 2}),
    Case("Flatten", [X], {"axis": 0}),
    Case("Flatten", [X], {"axis": -1}),
    Case("Transpose", [X], {"perm": [0, 2, 3, 1]}),
    Case("Squeeze", [(2, 1, 3, 1), whole(1)], {}, 13),
    Case("Squeeze", [(2, 1, 3, 1)], {"axes": [-1]}, 11),
    Case("Squeeze", [(2, 1, 3, 1)], {}, 13),
    Case("Unsqueeze", [(2, 3), whole(0, -1)], {}, 13),
    Case("Unsqueeze", [(2, 3)], {"axes": [1]}, 11),
    Case("Concat", [X, X, weights(2, 1, 6, 6)], {"axis": 1}),
    Case("Expand", [(2, 1, 3), whole(2, 4, 1)]),
    Case("Expand", [(3,), whole(2, 4, 3)]),
    Case("Tile", [(2, 3), whole(2, 1)]),
    Case("Pad", [X, whole(0, 0, 1, 2, 0, 0, 3, 0), scalar(0.5)]),
    Case("Pad", [X], {"pads": [0, 0, 1, 1, 0, 0, 1, 1]}, 7),
    Case("Pad", [X, whole(0, 0, 1, 2, 0, 0, 2, 0)], {"mode": "reflect"}),
    Case("Pad", [X, whole(0, 0, 1, 2, 0, 0, 2, 0)], {"mode": "edge"}),
    Case("Pad", [X, whole(0, 1, 0, 0, 0, 2, 0, 0)]),
    Case("Pad", [X, whole(1, 2), None, whole(-1)], {}, 18),
    Case("Pad", [X, whole(0, 0, -1, 0, 0, 0, 0, -2)]),
    Case("Pad", [X, whole(0, 0, 1, 2, 0, 0, 2, 0)], {"mode": "wrap"}, 19),
    Case("Trilu", [(5, 5)]),
    Case("Trilu", [(5, 5), np.asarray(1)], {"upper": 0}),
    Case("OneHot", [(2, 3), np.asarray(4), weights(2)], {"axis": 1}, whole=True),
    Case("OneHot", [(2, 3), whole(4), weights(2)], whole=True),
    Case("Where", [weights(2, 3) > 0, (2, 3), weights(3)]),
    Case("Where", [weights(2, 3) > 0, (2, 3), scalar(0.0)]),
    Case("Split", [X, whole(1, 3)], {"axis": 1}, outputs=2),
    Case("Split", [X], {"axis": 1, "split": [1, 3]}, 11, outputs=2),
    Case("Split", [X], {"axis": 1}, outputs=2),
    Case("Split", [(2, 7)], {"axis": 1, "num_outputs": 3}, 18, outputs=3),
    Case("Slice", [X, whole(1, 0), whole(3, 2**31), whole(1, 2), whole(1, 2)]),
    Case("Slice", [X, whole(-1), whole(-(2**31)), whole(1), whole(-1)]),
    Case("Slice", [X, whole(-2), whole(2**63 - 1), whole(3)]),
    Case("Slice", [X], {"starts": [1], "ends": [3], "axes": [2]}, 9),
    Case("Slice", [X, whole(4), whole(0), whole(3), whole(-2)]),
    Case("Slice", [X, whole(0, 1), whole(2, 3)]),
    Case("Gather", [X, np.asarray(2)], {"axis": 1}),
    Case("Gather", [X, np.asarray(-1)], {"axis": 1}),
    Case("Gather", [X, whole(3, 0, 1)], {"axis": 1}),
    Case("Gather", [X, np.asarray([[0, -1], [2, 1]])], {"axis": 2}),
    Case("Gather", [weights(5, 3), (2, 4)], whole=True),
    Case("GatherElements", [(3, 3), np.asarray([[0, 1, -1]])], {"axis": 0}),
    Case("GatherND", [X, np.asarray([[0, 1], [1, -1]])]),
    Case("ScatterElements", [(3, 3), np.asarray([[0, 2, -1]]), weights(1, 3)], {"axis": 0}),
    Case("Scatter", [(3, 3), np.asarray([[0, 2, 1]]), weights(1, 3)], {"axis": 0}, 10),
    Case("ScatterND", [(4, 3), np.asarray([[1], [3]]), weights(2, 3)]),
    Case("DepthToSpace", [(2, 8, 3, 3)], {"blocksize": 2}),
    Case("DepthToSpace", [(2, 8, 3, 3)], {"blocksize": 2, "mode": "CRD"}),
    Case("SpaceToDepth", [X], {"blocksize": 2}),
    Case("LSTM", [(5, 2, 3), weights(1, 16, 3), weights(1, 16, 4), weights(1, 32)], {"hidden_size": 4}, outputs=3),
    Case(
        "LSTM",
        [(5, 2, 3), weights(2, 16, 3), weights(2, 16, 4)],
        {"hidden_size": 4, "direction": "bidirectional"},
        outputs=3,
    ),
    Case(
        "LSTM",
        [(5, 2, 3), weights(1, 16, 3), weights(1, 16, 4), None, None, (1, 2, 4), (1, 2, 4)],
        {"hidden_size": 4, "direction": "reverse"},
        outputs=3,
    ),
    Case("LSTM", [(5, 2, 3), (1, 16, 3), (1, 16, 4)], {"hidden_size": 4}, outputs=3),
    Case(
        "GRU",
        [(5, 2, 3), weights(1, 12, 3), weights(1, 12, 4), weights(1, 24)],
        {"hidden_size": 4, "linear_before_reset": 1},
        outputs=2,
    ),
    Case(
        "GRU",
        [(5, 2, 3), weights(2, 12, 3), weights(2, 12, 4)],
        {"hidden_size": 4, "linear_before_reset": 1, "direction": "bidirectional"},
        outputs=2,
    ),
    Case("RNN", [(5, 2, 3), weights(1, 4, 3), weights(1, 4, 4), weights(1, 8)], {"hidden_size": 4}, outputs=2),
    Case("Upsample", [X, np.asarray([1, 1, 2, 2], np.float32)], {}, 9),
    Case("Upsample", [X], {"scales": [1.0, 1.0, 2.0, 1.5]}, 7),
    Case("Resize", [X, np.asarray([1, 1, 2, 1.5], np.float32)], {}, 10),
    Case("GridSample", [X, (2, 5, 5, 2)], {"align_corners": 1}, 16),
    Case("GridSample", [X, (2, 5, 5, 2)], {"mode": "linear"}, 20),
    Case("GridSample", [X, (2, 5, 5, 2)], {"padding_mode": "border", "mode": "nearest"}, 16),
]


def _resizes() -> list[Case]:
    scales = [np.asarray(s, np.float32) for s in ([1, 1, 2, 2], [1, 1, 0.5, 0.5], [1, 1, 1.7, 0.6])]
    found = []
    for how in ("asymmetric", "half_pixel", "align_corners", "pytorch_half_pixel"):
        for rounds in ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil"):
            attributes = {"mode": "nearest", "coordinate_transformation_mode": how, "nearest_mode": rounds}
            found += [Case("Resize", [X, None, s], attributes, 13) for s in scales]
            found.append(Case("Resize", [X, None, None, whole(2, 4, 9, 4)], attributes, 13))
    for how in ("half_pixel", "align_corners", "pytorch_half_pixel"):
        for mode in ("linear", "cubic"):
            attributes = {"mode": mode, "coordinate_transformation_mode": how}
            found += [Case("Resize", [X, weights(0), s], attributes, 11) for s in scales]
            found.append(Case("Resize", [X, None, None, whole(2, 4, 9, 4)], attributes, 19))
    found.append(Case("Resize", [X, None, None, whole(9, 4)], {"axes": [2, 3]}, 18))
    return found


CASES += _resizes()
