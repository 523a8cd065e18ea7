"""ONNX files on the command line: taken wherever a network may be named, and written by --out."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from onnx import helper
from safetensors.torch import save_file

import secateur
from onnx_cases import model, weights
from secateur.cli.main import main
from secateur.task import ModelMetadata


def net(folder: Path, shape: list[object]) -> Path:
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], name="one"), helper.make_node("Relu", ["a"], ["r"], name="r"),
        helper.make_node("Conv", ["r", "w2"], ["y"], name="two"),
    ]  # fmt: skip
    constants = {"w1": weights(8, 3, 3, 3), "w2": weights(4, 8, 1, 1)}
    path = folder / "net.onnx"
    path.write_bytes(model(nodes, {"x": shape}, ["y"], constants, 17).SerializeToString())
    return path


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as done:
        main([str(a) for a in arguments])
    return int(done.value.code or 0)


def test_a_file_is_cut_into_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = net(tmp_path, ["n", 3, 8, 8]), tmp_path / "small.onnx"
    assert run("prune", path, "--macs", "0.5", "--out", out) == 0
    said = capsys.readouterr().out
    assert "Verified" in said
    assert "from the dense file whose removed entries are zero" in said
    assert {t.name: tuple(t.dims) for t in onnx.load(out).graph.initializer} == {"w1": (4, 3, 3, 3), "w2": (4, 4, 1, 1)}
    assert run("prune", path, "--macs", "0.5", "--out", out) == 2
    assert "exists already" in capsys.readouterr().err


def test_a_file_is_cut_into_a_folder_and_inspected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = net(tmp_path, ["n", 3, 8, 8])
    assert run("prune", path, "--ratio", "0.5", "--out", tmp_path / "small") == 0
    assert (tmp_path / "small/plan.json").is_file()
    assert run("inspect", path) == 0
    assert "1 groups, 8 units" in capsys.readouterr().out


def test_free_sizes_come_from_input_shape(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = net(tmp_path, ["n", 3, "h", "w"])
    assert run("prune", path, "--ratio", "0.5", "--out", tmp_path / "small.onnx") == 2
    assert "--input-shape" in capsys.readouterr().err
    assert run("prune", path, "--ratio", "0.5", "--out", tmp_path / "small.onnx", "--input-shape", "3,9,7") == 0
    dims = onnx.load(tmp_path / "small.onnx").graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param for d in dims] == ["n", "", "h", "w"]


def test_exported_to_another_format(tmp_path: Path) -> None:
    assert run("export", net(tmp_path, ["n", 3, 8, 8]), tmp_path / "net.pt2") == 0
    assert (tmp_path / "net.pt2").is_file()


def test_any_network_may_be_cut_into_a_file(tmp_path: Path) -> None:
    assert run("prune", "vgg_digits", "--ratio", "0.5", "--out", tmp_path / "small.onnx") == 0
    assert onnx.load(tmp_path / "small.onnx").graph.input[0].name == "input"


@pytest.mark.parametrize("more", [["--weights", "w.safetensors"], ["--input-shape", "3,8"]])
def test_what_does_not_go_with_a_file(tmp_path: Path, more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    path = net(tmp_path, ["n", 3, 8, 8])
    assert run("prune", path, "--ratio", "0.5", "--out", tmp_path / "small.onnx", *more) == 2
    assert "net.onnx" in capsys.readouterr().err
    assert not (tmp_path / "small.onnx").exists()


def test_no_file_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", tmp_path / "none.onnx") == 2
    assert "Cannot read" in capsys.readouterr().err


def test_what_a_file_says_of_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(4, 2))
    told = ModelMetadata("classification", ("cat", "dog"))
    secateur.export(net, torch.zeros(1, 4), tmp_path / "net.onnx", metadata=told, dynamic="batch")
    assert run("inspect", tmp_path / "net.onnx", "--input-shape", "4") == 0
    said = capsys.readouterr().out
    assert '["cat", "dog"]' in said
    assert "MACs per sample" in said
    save_file({"w": torch.zeros(1)}, tmp_path / "other.safetensors")
    assert run("inspect", tmp_path / "other.safetensors") == 0
    assert "says nothing of itself" in capsys.readouterr().out
    (tmp_path / "bad.xml").write_text("<?xml")
    assert run("inspect", tmp_path / "bad.xml") == 2
    assert "no readable file of the format 'openvino'" in capsys.readouterr().err
