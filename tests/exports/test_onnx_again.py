"""ONNX files pruned: the user's own file with smaller constants, proven in ONNX Runtime."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

import secateur
from onnx_cases import model, weights, whole
from secateur.core.errors import ExportError, InputError
from secateur.exports import onnx_again
from secateur.models.onnx_file import OnnxNetwork, read_onnx
from secateur.models.onnx_file.running import results
from zoo import ZOO, settle

node = helper.make_node


def exported(name: str, folder: Path, *, dynamo: bool) -> Path:
    """A network of the zoo as a file."""
    torch.manual_seed(0)
    network, x = ZOO[name]()
    path = folder / f"{name}.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            given = x if isinstance(x, tuple) else (x,)
            options: dict[str, Any] = {"verbose": False} if dynamo else {"opset_version": 17}
            torch.onnx.export(settle(network), given, str(path), dynamo=dynamo, **options)
        finally:
            logging.disable(logging.NOTSET)
    return path


def chain(folder: Path, *, batch: Any = "n", constant_nodes: bool = False, old: bool = False) -> Path:
    """Conv (3 → 8), Relu, Conv (8 → 6), Relu, mean, Gemm (6 → 4)."""
    constants = {"w1": weights(8, 3, 3, 3, seed=1), "b1": weights(8, seed=2), "w2": weights(6, 8, 1, 1, seed=3),
                 "w3": weights(4, 6, seed=4), "b3": weights(4, seed=5)}  # fmt: skip
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["a"], name="one", pads=[1, 1, 1, 1]), node("Relu", ["a"], ["r"], name="r1"),
        node("Conv", ["r", "w2"], ["c"], name="two"), node("Relu", ["c"], ["d"], name="r2"),
        node("GlobalAveragePool", ["d"], ["p"], name="pool"), node("Flatten", ["p"], ["f"], name="flat"),
        node("Gemm", ["f", "w3", "b3"], ["y"], name="fc", transB=1),
    ]  # fmt: skip
    if constant_nodes:
        nodes = [*(node("Constant", [], [n], value=numpy_helper.from_array(a)) for n, a in constants.items()), *nodes]
        constants = {}
    made = model(nodes, {"x": [batch, 3, 6, 6]}, ["y"], constants, 13)
    made.doc_string, made.producer_name = "whose it is", "the user"
    helper.set_model_props(made, {"key": "value"})
    if old:  # before version 4 of the format, constants are inputs with defaults
        made.ir_version = 3
        made.graph.input.extend(helper.make_tensor_value_info(n, 1, a.shape) for n, a in constants.items())
    path = folder / "chain.onnx"
    path.write_bytes(onnx.shape_inference.infer_shapes(made).SerializeToString())
    return path


SIMPLE = ("plain", "residual", "zero_padded_shortcut", "channel_shuffle", "split_shuffle", "depthwise_multiplier",
          "recurrent_head", "grouped_transposed", "unet", "attention_packed", "position_table", "squeeze_excitation",
          "tied_weights")  # fmt: skip
KEPT_ALONE = ("group_norm", "attention_fused")
"""Their normalisations run over channels that are cut, and count those that are left."""


DYNAMO = ("plain", "channel_shuffle", "recurrent_head", "attention_packed", "attention_fused")
"""Tried with the other exporter too, which takes longer."""


@pytest.mark.parametrize(
    ("name", "dynamo"), [*((n, False) for n in (*SIMPLE, *KEPT_ALONE)), *((n, True) for n in DYNAMO)]
)
def test_files_of_both_exporters(name: str, dynamo: bool, tmp_path: Path) -> None:
    path = exported(name, tmp_path, dynamo=dynamo)
    network = read_onnx(path)
    small = secateur.prune(network, ratio=0.5)
    assert small.verification is not None
    assert small.verification.proven
    assert isinstance(small.model, OnnxNetwork)
    check = secateur.export(small, tmp_path / "small.onnx")
    assert check.max_difference < 1e-5
    if name in SIMPLE:
        assert check.masked_difference is not None
        assert check.masked_difference < 1e-5
    else:
        assert check.masked_difference is None
    before, after = (onnx.load(p) for p in (path, tmp_path / "small.onnx"))
    assert [n.op_type for n in after.graph.node if n.op_type != "Constant"] == [
        n.op_type for n in before.graph.node if n.op_type != "Constant"
    ]
    assert after.opset_import == before.opset_import
    for ends in ("input", "output"):
        assert list(getattr(after.graph, ends)) == list(getattr(before.graph, ends))
    dense = sum(p.stat().st_size for p in tmp_path.glob(f"{name}.onnx*"))  # one exporter writes weights beside
    assert (tmp_path / "small.onnx").stat().st_size < dense


@pytest.mark.parametrize("how", ["initialisers", "constant_nodes", "old"])
def test_the_file_holds_the_slices_that_the_plan_names(tmp_path: Path, how: str) -> None:
    path = chain(tmp_path, constant_nodes=how == "constant_nodes", old=how == "old")
    small = secateur.prune(read_onnx(path), ratio=0.5)
    secateur.export(small, tmp_path / "small.onnx")
    one, two = (small.plan.keep[f"{name}.weight"] for name in ("one", "two"))
    kept, inner = list(one[0]), list(two[0])
    after = onnx.load(tmp_path / "small.onnx")
    found = {t.name: numpy_helper.to_array(t) for t in after.graph.initializer}
    found |= {n.output[0]: numpy_helper.to_array(n.attribute[0].t) for n in after.graph.node if n.op_type == "Constant"}
    assert np.array_equal(found["w1"], weights(8, 3, 3, 3, seed=1)[kept])
    assert np.array_equal(found["b1"], weights(8, seed=2)[kept])
    assert np.array_equal(found["w2"], weights(6, 8, 1, 1, seed=3)[inner][:, kept])
    assert np.array_equal(found["w3"], weights(4, 6, seed=4)[:, inner])
    assert np.array_equal(found["b3"], weights(4, seed=5))


def test_everything_else_of_the_file_stays_and_other_batches_run(tmp_path: Path) -> None:
    path = chain(tmp_path)
    check = secateur.export(secateur.prune(read_onnx(path), ratio=0.5), tmp_path / "small.onnx")
    before, after = (onnx.load(p) for p in (path, tmp_path / "small.onnx"))
    for one in (before, after):
        assert (one.doc_string, one.producer_name, one.metadata_props[0].value) == ("whose it is", "the user", "value")
    assert after.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "n"
    assert [n.name for n in after.graph.node] == [n.name for n in before.graph.node]
    assert (check.batches, check.dynamic_batch) == ((1, 2), True)
    shape = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in after.graph.value_info}["a"]
    assert shape[1] < 8


def masked_by_hand(path: Path, small: Any) -> bytes:
    """The dense file with the removed entries at zero, made here from the plan."""
    dense = onnx.load(path)
    names = {"one.weight": "w1", "one.bias": "b1", "two.weight": "w2", "fc.weight": "w3", "fc.bias": "b3"}
    arrays = {t.name: numpy_helper.to_array(t).copy() for t in dense.graph.initializer}
    for name, dims in small.plan.keep.items():
        for dim, kept in dims.items():
            gone = [k for k in range(small.plan.dense_shapes[name][dim]) if k not in kept]
            moved = np.moveaxis(arrays[names[name]], dim, 0)
            moved[gone] = 0
    for tensor in dense.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(arrays[tensor.name], tensor.name))
    return dense.SerializeToString()


def test_the_file_computes_what_the_masked_dense_file_does(tmp_path: Path) -> None:
    path = chain(tmp_path)
    small = secateur.prune(read_onnx(path), ratio=0.5)
    secateur.export(small, tmp_path / "small.onnx")
    x = torch.randn(5, 3, 6, 6)
    (found,) = results((tmp_path / "small.onnx").read_bytes(), ["x"], [x])
    (wanted,) = results(masked_by_hand(path, small), ["x"], [x])
    (dense,) = results(path.read_bytes(), ["x"], [x])
    assert (found - wanted).abs().max() < 1e-5 * (dense - wanted).abs().max()


@pytest.mark.parametrize("broken", ["weights", "attribute"])
def test_a_wrong_file_is_seen_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    small = secateur.prune(read_onnx(chain(tmp_path)), ratio=0.5)
    right = onnx_again.file_of

    def wrong(network: OnnxNetwork) -> bytes:
        made = onnx.ModelProto.FromString(right(network))
        if network is small.model and broken == "weights":
            made.graph.initializer[0].CopyFrom(
                numpy_helper.from_array(numpy_helper.to_array(made.graph.initializer[0])[::-1].copy(), "w1")
            )
        elif network is small.model:
            made.graph.node[1].op_type = "Sigmoid"
        return made.SerializeToString()

    monkeypatch.setattr(onnx_again, "file_of", wrong)
    with pytest.raises(ExportError, match="differs from the network"):
        secateur.export(small, tmp_path / "small.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["chain.onnx"]


def test_the_tolerance_is_that_of_the_user(tmp_path: Path) -> None:
    small = secateur.prune(read_onnx(chain(tmp_path)), ratio=0.5)
    assert secateur.export(small, tmp_path / "small.onnx", tolerance=1e-5).tolerance == 1e-5
    with pytest.raises(ExportError, match="accepted 1e-12"):
        secateur.export(small, tmp_path / "other.onnx", tolerance=1e-12)
    assert not (tmp_path / "other.onnx").exists()


def test_the_masked_file_is_a_check_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that agrees with the network, and not with the masked dense file."""
    small = secateur.prune(read_onnx(chain(tmp_path)), ratio=0.5)
    monkeypatch.setattr(onnx_again, "_masked", lambda *given: (tmp_path / "chain.onnx").read_bytes())
    with pytest.raises(ExportError, match="differs from the masked dense file"):
        secateur.export(small, tmp_path / "small.onnx")


def test_readers_of_one_constant_that_come_to_differ_get_their_own(tmp_path: Path) -> None:
    """Both bits of code reshape by the same constant; one of the tensors is cut, the other is not."""
    nodes = [
        node("MatMul", ["x", "w1"], ["a"], name="a"), node("Reshape", ["a", "to"], ["b"], name="cut"),
        node("Relu", ["b"], ["r"], name="r"), node("Reshape", ["r", "back"], ["c"], name="back"),
        node("MatMul", ["c", "w2"], ["y"], name="d"), node("Reshape", ["x2", "to"], ["z"], name="whole"),
    ]  # fmt: skip
    constants = {"w1": weights(4, 8), "w2": weights(8, 3), "to": whole(-1, 1, 8), "back": whole(-1, 8)}
    path = tmp_path / "net.onnx"
    path.write_bytes(model(nodes, {"x": [2, 4], "x2": [2, 8]}, ["y", "z"], constants, 17).SerializeToString())
    small = secateur.prune(read_onnx(path), ratio=0.5)
    secateur.export(small, tmp_path / "small.onnx")
    after = onnx.load(tmp_path / "small.onnx")
    found = {t.name: numpy_helper.to_array(t).tolist() for t in after.graph.initializer if t.data_type == 7}
    read = {n.name: found[n.input[1]] for n in after.graph.node if n.op_type == "Reshape"}
    assert read == {"cut": [-1, 1, 4], "back": [-1, 4], "whole": [-1, 1, 8]}


def test_hidden_units_of_recurrent_layers(tmp_path: Path) -> None:
    nodes = [
        node("LSTM", ["x", "w", "r", "b"], ["s"], name="lstm", hidden_size=6, direction="bidirectional"),
        node("Transpose", ["s"], ["t"], perm=[0, 2, 1, 3]), node("Reshape", ["t", "to"], ["f"], name="joins"),
        node("MatMul", ["f", "w2"], ["y"], name="head"),
    ]  # fmt: skip
    constants = {"w": weights(2, 24, 3), "r": weights(2, 24, 6), "b": weights(2, 48), "to": whole(0, 0, 12),
                 "w2": weights(12, 4)}  # fmt: skip
    path = tmp_path / "net.onnx"
    path.write_bytes(model(nodes, {"x": [5, "n", 3]}, ["y"], constants, 17).SerializeToString())
    small = secateur.prune(read_onnx(path, {"n": 2}), ratio=0.5)
    check = secateur.export(small, tmp_path / "small.onnx")
    after = onnx.load(tmp_path / "small.onnx")
    shapes = {t.name: tuple(t.dims) for t in after.graph.initializer}
    assert (shapes["w"], shapes["r"], shapes["b"]) == ((2, 12, 3), (2, 12, 3), (2, 24))
    assert {a.name: a.i for a in after.graph.node[0].attribute}["hidden_size"] == 3
    assert check.masked_difference is not None


def test_what_is_only_a_graph_any_more_keeps_the_names_of_its_ends(tmp_path: Path) -> None:
    small = secateur.prune(read_onnx(chain(tmp_path)), ratio=0.5, backend="graph")
    assert not isinstance(small.model, OnnxNetwork)
    check = secateur.export(small, tmp_path / "small.onnx")
    after = onnx.load(tmp_path / "small.onnx")
    assert ([v.name for v in after.graph.input], [v.name for v in after.graph.output]) == (["x"], ["y"])
    assert check.max_difference < 1e-5


def test_repaired_trained_and_sparse_networks_are_written_too(tmp_path: Path) -> None:
    x = torch.randn(64, 3, 6, 6)
    network = read_onnx(chain(tmp_path))
    small = secateur.recover(secateur.prune(network, ratio=0.5), x)
    assert secateur.export(small, tmp_path / "a.onnx").masked_difference is None  # its weights are other ones
    optimizer = torch.optim.SGD(small.model.parameters(), lr=0.01)
    nn.functional.mse_loss(small.model(x), torch.zeros(64, 4)).backward()
    optimizer.step()
    assert secateur.export(small, tmp_path / "b.onnx").max_difference < 1e-5
    sparse = secateur.sparsify(network, ratio=0.5)
    secateur.export(sparse.model, x[:1], tmp_path / "c.onnx")
    after = onnx.load(tmp_path / "c.onnx")
    assert len(after.graph.initializer) == 5
    zeros = np.mean(numpy_helper.to_array(after.graph.initializer[0]) == 0)
    assert 0.4 < zeros < 0.6


def test_a_second_cut_counts_in_the_first_file(tmp_path: Path) -> None:
    first = secateur.prune(read_onnx(chain(tmp_path)), ratio=0.25)
    second = secateur.prune(first, ratio=0.25)
    check = secateur.export(second, tmp_path / "small.onnx")
    assert check.masked_difference is not None
    assert check.masked_difference < 1e-5


def test_an_artifact_and_the_file_again(tmp_path: Path) -> None:
    path = chain(tmp_path)
    small = secateur.prune(read_onnx(path), ratio=0.5)
    small.save(tmp_path / "kept")
    loaded = secateur.load(tmp_path / "kept", read_onnx(path))
    secateur.export(loaded, read_onnx(path).example_inputs, tmp_path / "small.onnx")
    x = torch.randn(2, 3, 6, 6)
    (found,) = results((tmp_path / "small.onnx").read_bytes(), ["x"], [x])
    assert torch.allclose(found, small(x), atol=1e-5)


def test_files_of_other_runtimes_and_names(tmp_path: Path) -> None:
    small = secateur.prune(read_onnx(chain(tmp_path)), ratio=0.5)
    assert secateur.export(small, tmp_path / "small.pt2").max_difference < 1e-5
    with pytest.raises(InputError, match="not with names"):
        secateur.export(small.model, {"x": torch.randn(1, 3, 6, 6)}, tmp_path / "small.onnx")


def test_copies_of_a_network_share_its_file(tmp_path: Path) -> None:
    import copy
    import pickle

    network = read_onnx(chain(tmp_path))
    assert copy.deepcopy(network).source is network.source
    again = pickle.loads(pickle.dumps(network))  # noqa: S301  our own
    x = network.example_inputs
    assert torch.equal(again(*x), network(*x))


@pytest.mark.parametrize("opset", [11, 13])
def test_a_split_that_names_no_sizes_gets_them_where_its_pieces_become_uneven(tmp_path: Path, opset: int) -> None:
    """Half a for one reader, half b for another: a cut takes more from one than from the other."""
    nodes = [
        node("MatMul", ["x", "w"], ["h"], name="wide"), node("Split", ["h"], ["a", "b"], name="halves", axis=1),
        node("MatMul", ["a", "wa"], ["ya"], name="one"), node("MatMul", ["b", "wb"], ["yb"], name="other"),
    ]  # fmt: skip
    constants = {"w": weights(4, 12), "wa": weights(6, 2), "wb": weights(6, 2)}
    path = tmp_path / "net.onnx"
    path.write_bytes(model(nodes, {"x": ["n", 4]}, ["ya", "yb"], constants, opset).SerializeToString())
    small = secateur.prune(read_onnx(path), ratio=0.25, scope="global")
    assert isinstance(small.model, OnnxNetwork)
    check = secateur.export(small, tmp_path / "small.onnx")
    assert check.masked_difference is not None
    rows = [len(small.plan.keep[f"{name}.weight"][0]) for name in ("one", "other")]
    assert rows[0] != rows[1]
    after = onnx.load(tmp_path / "small.onnx")
    split = next(n for n in after.graph.node if n.op_type == "Split")
    found = {t.name: numpy_helper.to_array(t).tolist() for t in after.graph.initializer}
    attributes = {a.name: list(a.ints) for a in split.attribute}
    said = found[split.input[1]] if opset >= 13 else attributes["split"]
    assert said == rows
