"""Damaged and hostile ONNX files, and what cannot be followed: one sentence that names the place."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_cases import CASES, Case, file_of, model, weights, whole
from secateur.core.errors import InputError, SecateurError, WeightsError
from secateur.models import create, read_onnx


def linear(**changes: Any) -> Any:
    """x (1, 4) · W (4, 3)."""
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="first")
    return model([node], {"x": [1, 4]}, ["y"], {"w": weights(4, 3)}, changes.get("opset", 17))


def saved(made: Any, folder: Path) -> Path:
    path = folder / "net.onnx"
    path.write_bytes(made.SerializeToString())
    return path


def refused(path: Path | str, *words: str, kind: type[SecateurError] = SecateurError, **more: Any) -> str:
    with pytest.raises(kind) as caught:
        read_onnx(path, **more)
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert word in text, text
    return text


def test_what_is_changed_below_is_sound(tmp_path: Path) -> None:
    assert [name for name, _ in read_onnx(saved(linear(), tmp_path)).named_parameters()] == ["first.weight"]


@pytest.mark.parametrize("content", [b"", b"\x00" * 64, b"PK\x03\x04rest", b"\x08\x07" + b"\xff" * 40, b"{}"])
def test_what_is_no_onnx_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    refused(path, "no ONNX file", kind=WeightsError)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_file_that_is_cut_off(tmp_path: Path, share: float) -> None:
    content = linear().SerializeToString()
    path = tmp_path / "net.onnx"
    path.write_bytes(content[: int(len(content) * share)])
    refused(path)


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    refused(tmp_path / "none.onnx", "Cannot read", kind=WeightsError)
    refused(tmp_path, "a folder", kind=WeightsError)


@pytest.mark.parametrize("number", [0, 60, 120, 185])
def test_any_bytes_may_be_wrong(tmp_path: Path, number: int, capfd: pytest.CaptureFixture[str]) -> None:
    """Changed, dropped and added bytes: what comes of them is a network or one sentence, and nothing else is said."""
    content, draw = file_of(CASES[number], tmp_path).read_bytes(), random.Random(number)
    path, answers = tmp_path / "net.onnx", set()
    for _ in range(150):
        damaged = bytearray(content)
        for _ in range(draw.choice([1, 1, 2, 4])):
            at, width = draw.randrange(len(damaged)), draw.choice([0, 1, 1, 1, 5])
            damaged[at : at + width] = draw.randbytes(draw.choice([0, 1, 1, 3]))
        path.write_bytes(damaged)
        try:
            read_onnx(path)
            answers.add("network")
        except SecateurError as error:
            answers.add("several lines" if "\n" in str(error) else "sentence")
    assert answers == {"network", "sentence"}
    assert capfd.readouterr().err == ""


def _circle() -> Any:
    made = linear()
    made.graph.node.insert(0, helper.make_node("Add", ["x", "later"], ["sum"], name="adds"))
    made.graph.node.append(helper.make_node("Relu", ["sum"], ["later"], name="later"))
    return made


def _twice() -> Any:
    made = linear()
    made.graph.node.append(helper.make_node("Relu", ["x"], ["y"], name="again"))
    return made


def _same_initialiser() -> Any:
    made = linear()
    made.graph.initializer.append(numpy_helper.from_array(weights(4, 3), "w"))
    return made


def _without_weights() -> Any:
    made = linear()
    del made.graph.initializer[:]
    return made


def _wrong_shape() -> Any:
    made = linear()
    made.graph.initializer[0].dims[0] = 40
    return made


def _negative_shape() -> Any:
    made = linear()
    made.graph.initializer[0].dims[0] = -4
    return made


def _nowhere() -> Any:
    made = linear()
    made.graph.output[0].name = "elsewhere"
    return made


def _huge_claim() -> Any:
    made = linear()
    tensor = made.graph.initializer[0]
    tensor.dims[:] = [10**6, 10**6]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    return made


DAMAGED: dict[str, tuple[Callable[[], Any], str]] = {
    "circle": (_circle, "circle"),
    "made twice": (_twice, "made twice"),
    "two initialisers": (_same_initialiser, "two initialisers named 'w'"),
    "no initialiser": (_without_weights, "'w', which is made nowhere"),
    "wrong shape": (_wrong_shape, "not all there"),
    "negative shape": (_negative_shape, "shape (-4, 3)"),
    "no output": (_nowhere, "'elsewhere' is made nowhere"),
    "claims terabytes": (_huge_claim, "claims more than"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_graphs(tmp_path: Path, name: str) -> None:
    make, words = DAMAGED[name]
    refused(saved(make(), tmp_path), "net.onnx", words, kind=WeightsError)


# ------------------------------------------------------------------------------------------------- external data


def external(location: str, **more: str) -> Any:
    made = linear()
    tensor = made.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **more}.items():
        tensor.external_data.add(key=key, value=value)
    return made


def test_weights_in_a_file_beside_it(tmp_path: Path) -> None:
    (tmp_path / "net.bin").write_bytes(b"\0" * 8 + weights(4, 3).tobytes())
    network = read_onnx(saved(external("net.bin", offset="8", length="48"), tmp_path))
    assert np.array_equal(network.first.weight.detach().numpy(), weights(4, 3))


@pytest.mark.parametrize("location", ["../net.bin", "/etc/passwd", "", "sub/../../net.bin", "link.bin"])
def test_weights_from_outside_are_not_read(tmp_path: Path, location: str) -> None:
    (tmp_path / "net.bin").write_bytes(weights(4, 3).tobytes())
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "link.bin").symlink_to(tmp_path / "net.bin")
    refused(saved(external(location), folder), "'w'", "outside its own folder", kind=WeightsError)


@pytest.mark.parametrize("more", [{"offset": "-1"}, {"offset": "40"}, {"length": "7"}, {"offset": "many"}])
def test_weights_that_are_not_there(tmp_path: Path, more: dict[str, str]) -> None:
    (tmp_path / "net.bin").write_bytes(weights(4, 3).tobytes())
    refused(saved(external("net.bin", **more), tmp_path), "'w'", kind=WeightsError)


def test_a_named_pipe_as_weights_is_not_waited_for(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "net.bin")
    refused(saved(external("net.bin"), tmp_path), "named pipe", kind=WeightsError)


# ---------------------------------------------------------------------------------------------- what is not followed


def test_control_flow_names_the_node(tmp_path: Path) -> None:
    branch = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["z"])], "b", [], [helper.make_tensor_value_info("z", 1, [1, 4])]
    )
    made = linear()
    made.graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
    made.graph.node.append(helper.make_node("If", ["c"], ["v"], name="chooses", then_branch=branch, else_branch=branch))
    refused(saved(made, tmp_path), "'chooses'", "'If'", "control flow", kind=InputError)


@pytest.mark.parametrize(
    ("operator", "domain", "words"),
    [
        ("FusedConv", "com.microsoft", "the domain 'com.microsoft'"),
        ("Mine", "my.own", "the domain 'my.own'"),
        ("Loop", "", "control flow"),
        ("QLinearConv", "", "quantised"),
        ("DequantizeLinear", "", "quantised"),
        ("NonZero", "", "depends on the values of the data"),
        ("SequenceEmpty", "", "not read"),
        ("Sofmax", "", "Did you mean Softmax"),
        ("StringNormalizer", "", "not read"),
    ],
)
def test_operators_that_are_not_read(tmp_path: Path, operator: str, domain: str, words: str) -> None:
    made = linear()
    made.graph.node.append(helper.make_node(operator, ["x"], ["z"], name="odd", domain=domain))
    made.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    refused(saved(made, tmp_path), "'odd'", f"{operator}", words, kind=InputError)


@pytest.mark.parametrize("opset", [1, 6, 99])
def test_versions_that_are_not_read(tmp_path: Path, opset: int) -> None:
    made = linear()
    made.opset_import[0].version = opset
    refused(saved(made, tmp_path), f"version {opset}", kind=InputError)


def test_half_precision_is_said_to_be_cut_first(tmp_path: Path) -> None:
    made = linear()
    made.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights(4, 3).astype(np.float16), "w"))
    refused(saved(made, tmp_path), "float16", "float32", kind=InputError)


def test_a_sequence_as_an_input(tmp_path: Path) -> None:
    made = linear()
    made.graph.input.append(helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None))
    refused(saved(made, tmp_path), "'s'", "sequence", kind=InputError)


@pytest.mark.parametrize(
    "case",
    [
        Case("ConstantOfShape", [whole(10**6, 10**6)]),
        Case("Expand", [(1,), whole(10**6, 10**6)]),
        Case("Tile", [(4, 4), whole(10**6, 10**6)]),
        Case("Pad", [(1, 4), whole(0, 0, 10**12, 0)]),
        Case("Resize", [(1, 1, 4, 4), None, np.asarray([1, 1, 1e6, 1e6], np.float32)], {"mode": "nearest"}),
        Case("Resize", [(1, 1, 4, 4), None, None, whole(1, 1, 10**6, 10**6)], {"mode": "linear"}),
        Case("Range", [np.asarray(0), np.asarray(10**12), np.asarray(1)]),
        Case("OneHot", [(2, 3), np.asarray(10**12), weights(2)], whole=True),
        Case("MatMul", [weights(50_000, 1), weights(1, 50_000)]),
    ],
    ids=lambda case: case.operator,
)
def test_what_would_fill_the_memory_is_refused_before_it_does(tmp_path: Path, case: Case) -> None:
    """The product (10 GB) is refused by a run on shapes alone; the others by the sizes that they are given."""
    refused(file_of(case, tmp_path), "'node'", "are the most", kind=InputError)


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (Case("Reshape", [(2, 3), whole(5, -1)]), "cannot be computed on a tensor of shape (2, 3)"),
        (Case("MatMul", [(2, 3), weights(4, 4)]), "cannot be computed"),
        (Case("GRU", [(5, 2, 3), weights(1, 12, 3), weights(1, 12, 4)], {"hidden_size": 4}), "linear_before_reset"),
        (Case("Split", [(2, 6), whole(2, 4)], {"axis": 1}, outputs=3), "makes 2 values"),
        (Case("LRN", [(1, 4, 3, 3)], {"size": 2}), "even number"),
        (Case("MaxPool", [(1, 4, 3, 3)], {"kernel_shape": [2, 2]}, outputs=2), "indices of the maxima"),
        (Case("Cast", [(2, 3)], {"to": TensorProto.FLOAT16}), "type float16"),
        (Case("Resize", [(1, 1, 4, 4), None, np.asarray([1, 2, 2, 2], np.float32)], {"mode": "nearest"}), "channels"),
    ],
    ids=lambda value: value.operator if isinstance(value, Case) else "",
)
def test_uses_that_are_not_read(tmp_path: Path, case: Case, words: str) -> None:
    refused(file_of(case, tmp_path), "'node'", words, kind=SecateurError)


# --------------------------------------------------------------------------------------------------- names and sizes


@pytest.mark.parametrize(
    "name", ["", "a.b.c", "/x/y/Conv", "..", "forward", "training", "ünï", "0", "a b\tc", "x" * 4000]
)
def test_odd_names_are_written_as_python_can(tmp_path: Path, name: str) -> None:
    made = linear()
    made.graph.node[0].name = name
    made.graph.initializer[0].name = made.graph.node[0].input[1] = f"w{name}"
    network = read_onnx(saved(made, tmp_path))
    (parameter,) = dict(network.named_parameters())
    assert parameter.isascii()
    assert parameter.endswith(".weight")
    assert network(*network.example_inputs).shape == (1, 3)


def test_free_sizes_have_to_be_said(tmp_path: Path) -> None:
    made = model([helper.make_node("Relu", ["x"], ["y"])], {"x": ["n", 3, "h", "w"]}, ["y"], {}, 17)
    path = saved(made, tmp_path)
    refused(path, "'x'", "(n, 3, h, w)", "sizes=", kind=InputError)
    assert read_onnx(path, {"h": 4, "w": 5}).example_inputs[0].shape == (1, 3, 4, 5)
    assert read_onnx(path, {"x": (2, 0, 4, 5)}).example_inputs[0].shape == (2, 3, 4, 5)
    assert read_onnx(path, (0, 3, 4, 5)).example_inputs[0].shape == (1, 3, 4, 5)
    refused(path, "'hh'", "'h'", sizes={"hh": 3}, kind=InputError)
    refused(path, "dimension 1", "is 3", sizes={"x": (1, 4, 4, 4)}, kind=InputError)
    refused(path, "4 dimensions", sizes={"x": (1, 4)}, kind=InputError)
    refused(path, "'x'", "above 0", sizes={"x": (1, 3, -2, 4)}, kind=InputError)
    refused(path, "at most", sizes={"x": (1, 3, 10**6, 10**6)}, kind=InputError)


def test_create_takes_a_file_and_nothing_beside(tmp_path: Path) -> None:
    path = saved(linear(), tmp_path)
    assert create(str(path)).given == ("x",)
    with pytest.raises(InputError, match="leave everything but sizes out"):
        create(str(path), classes=3)
