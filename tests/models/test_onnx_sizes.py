"""Sizes that a file computes: chains of Shape, Gather, Slice, Concat and arithmetic, at two sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

from onnx_cases import model, scalar, weights, whole
from secateur.models.onnx_file import read_onnx
from secateur.models.onnx_file.host import Host, divided
from secateur.models.onnx_file.running import distance, results

node = helper.make_node


def check(
    folder: Path, nodes: list[Any], constants: dict[str, Any], *, opset: int = 17, outputs: tuple[str, ...] = ("y",)
) -> None:
    """The file computes in PyTorch what it does in ONNX Runtime, for two sizes of x (n, 4, h, w)."""
    path = folder / "net.onnx"
    made = model(nodes, {"x": ["n", 4, "h", "w"]}, outputs, constants, opset)
    path.write_bytes(made.SerializeToString())
    network = read_onnx(path, (2, 4, 6, 5))
    for size in ((2, 4, 6, 5), (3, 4, 8, 6)):
        x = torch.randn(size)
        with torch.no_grad():
            found = network(x)
        wanted = results(network.source.content, network.given, (x,))
        for a, b in zip(found if isinstance(found, tuple) else (found,), wanted, strict=True):
            assert a.shape == b.shape
            assert distance(a, b) < 1e-5


def test_flatten_as_exporters_write_it(tmp_path: Path) -> None:
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "zero"], ["n"]),
        node("Unsqueeze", ["n", "axes"], ["n1"]),
        node("Concat", ["n1", "minus"], ["to"], axis=0),
        node("Reshape", ["x", "to"], ["y"]),
    ]
    check(tmp_path, nodes, {"zero": np.asarray(0), "axes": whole(0), "minus": whole(-1)})


def test_half_of_the_channels_by_arithmetic(tmp_path: Path) -> None:
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "one"], ["c"]),
        node("Add", ["c", "one1"], ["c1"]),
        node("Div", ["c1", "two"], ["half"]),
        node("Mul", ["half", "one1"], ["end"]),
        node("Slice", ["x", "start", "end", "axis"], ["y"]),
    ]
    constants = {"one": whole(1), "one1": whole(1), "two": whole(2), "start": whole(0), "axis": whole(1)}
    check(tmp_path, nodes, constants)


def test_sizes_through_floats_and_rounding(tmp_path: Path) -> None:
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Slice", ["s", "two", "four"], ["hw"]),
        node("Cast", ["hw"], ["f"], to=TensorProto.FLOAT),
        node("Mul", ["f", "factor"], ["g"]),
        node("Floor", ["g"], ["r"]),
        node("Cast", ["r"], ["i"], to=TensorProto.INT64),
        node("Slice", ["s", "zero", "two"], ["nc"]),
        node("Concat", ["nc", "i"], ["sizes"], axis=0),
        node(
            "Resize",
            ["x", "", "", "sizes"],
            ["y"],
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        ),
    ]
    check(tmp_path, nodes, {"two": whole(2), "four": whole(4), "zero": whole(0), "factor": scalar(1.5)}, opset=13)


def test_pads_as_exporters_write_them(tmp_path: Path) -> None:
    nodes = [
        node("ConstantOfShape", ["two"], ["zeros"], value=helper.make_tensor("v", TensorProto.INT64, [1], [0])),
        node("Concat", ["pads", "zeros", "zeros2"], ["eight"], axis=0),
        node("Reshape", ["eight", "pairs"], ["m"]),
        node("Slice", ["m", "last", "least", "first", "back"], ["turned"]),
        node("Transpose", ["turned"], ["t"], perm=[1, 0]),
        node("Reshape", ["t", "all"], ["flat"]),
        node("Pad", ["x", "flat"], ["y"]),
    ]
    constants = {
        "two": whole(2), "pads": whole(1, 2, 0, 3), "zeros2": whole(0, 0), "pairs": whole(-1, 2), "last": whole(-1),
        "least": whole(-(2**63) + 1), "first": whole(0), "back": whole(-1), "all": whole(-1),
    }  # fmt: skip
    check(tmp_path, nodes, constants)


def test_expand_by_where_and_equal(tmp_path: Path) -> None:
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Slice", ["s", "zero", "one"], ["n"]),
        node("Concat", ["n", "minus"], ["wanted"], axis=0),
        node("Equal", ["wanted", "minus1"], ["open"]),
        node("Where", ["open", "ones", "wanted"], ["to"]),
        node("Expand", ["table", "to"], ["y"]),
    ]
    constants = {"zero": whole(0), "one": whole(1), "minus": whole(-1), "minus1": whole(-1), "ones": whole(1, 1),
                 "table": weights(1, 7)}  # fmt: skip
    check(tmp_path, nodes, constants)


def test_logic_of_sizes_and_of_data(tmp_path: Path) -> None:
    nodes = [
        node("Greater", ["x", "half"], ["a"]),
        node("Less", ["x", "half"], ["b"]),
        node("Or", ["a", "b"], ["o"]),
        node("And", ["a", "o"], ["both"]),
        node("Xor", ["both", "b"], ["odd"]),
        node("Not", ["odd"], ["y"]),
    ]
    check(tmp_path, nodes, {"half": scalar(0.5)})


def test_positions_counted_and_sizes_as_outputs(tmp_path: Path) -> None:
    nodes = [
        node("Shape", ["x"], ["s"], start=2),
        node("Gather", ["s", "one"], ["w"]),
        node("Range", ["zero", "w", "step"], ["r"]),
        node("Cast", ["r"], ["f"], to=TensorProto.FLOAT),
        node("Add", ["x", "f"], ["y"]),
        node("Size", ["x"], ["count"]),
        node("ReduceProd", ["s"], ["area"], keepdims=0),
        node("ReduceMax", ["s"], ["side"]),
    ]
    constants = {"one": np.asarray(1), "zero": np.asarray(0), "step": np.asarray(1)}
    check(tmp_path, nodes, constants, outputs=("y", "count", "area", "side"))


def test_sizes_split_and_squeezed(tmp_path: Path) -> None:
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Split", ["s"], ["a", "b", "c", "d"], axis=0),
        node("Squeeze", ["b", "zero"], ["c0"]),
        node("Unsqueeze", ["c0", "zero"], ["c1"]),
        node("Max", ["c", "d"], ["m"]),
        node("Min", ["c", "d"], ["k"]),
        node("Mul", ["m", "k"], ["area"]),
        node("Neg", ["one"], ["minus"]),
        node("Abs", ["minus"], ["plus"]),
        node("Mul", ["a", "plus"], ["n"]),
        node("Concat", ["n", "c1", "area"], ["to"], axis=0),
        node("Reshape", ["x", "to"], ["y"]),
    ]
    check(tmp_path, nodes, {"zero": whole(0), "one": whole(1)})


def test_a_state_of_zeros_by_the_batch(tmp_path: Path) -> None:
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Slice", ["s", "zero", "one"], ["n"]),
        node("Concat", ["n", "rest"], ["to"], axis=0),
        node("ConstantOfShape", ["to"], ["zeros"]),
        node("Add", ["zeros", "x"], ["y"]),
    ]
    check(tmp_path, nodes, {"zero": whole(0), "one": whole(1), "rest": whole(4, 1, 1)})


def test_a_size_that_depends_on_the_data_names_the_node(tmp_path: Path) -> None:
    from secateur.core.errors import InputError

    nodes = [node("Cast", ["x"], ["i"], to=TensorProto.INT64), node("Expand", ["table", "i"], ["y"], name="grows")]
    made = model(nodes, {"x": [2]}, ["y"], {"table": weights(1)}, 17)
    (tmp_path / "net.onnx").write_bytes(made.SerializeToString())
    with pytest.raises(InputError, match=r"'grows' .Expand. takes sizes that depend on the values of the data"):
        read_onnx(tmp_path / "net.onnx")


def test_division_is_cut_off_towards_zero() -> None:
    for a in range(-7, 8):
        for b in (-3, -2, 1, 2, 5):
            assert divided(a, b) == int(np.trunc(a / b))
    assert Host([1, 2]).each(divided, Host(2)).numbers == [0, 1]
