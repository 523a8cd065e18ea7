from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import secateur
from secateur.core.errors import InputError
from secateur.cut.metadata import read_metadata

X = torch.randn(2, 4)


def small() -> secateur.Pruned:
    return secateur.prune(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), X, ratio=0.5)


def digest(pruned: secateur.Pruned) -> str:
    return hashlib.sha256(pruned.plan.to_json().encode()).hexdigest()


def test_an_onnx_file_says_how_it_was_made(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    pruned = small()
    secateur.export(pruned, tmp_path / "net.onnx")
    found = read_metadata(tmp_path / "net.onnx")
    assert found["plan_sha256"] == digest(pruned)
    assert found["params"] == [pruned.before.params, pruned.after.params] == [58, 30]
    assert found["secateur"] == secateur.__version__
    assert str(tmp_path) not in (tmp_path / "net.onnx").read_bytes().decode("latin-1")


def test_files_of_others_say_nothing(tmp_path: Path) -> None:
    save_file({"w": X}, tmp_path / "plain.safetensors")
    assert read_metadata(tmp_path / "plain.safetensors") == {}
    save_file({"w": X}, tmp_path / "other.safetensors", metadata={"secateur": "[1]", "format": "pt"})
    assert read_metadata(tmp_path / "other.safetensors") == {}
    assert torch.equal(load_file(tmp_path / "other.safetensors")["w"], X)


def test_what_is_no_file_is_answered(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Cannot read .*nothing"):
        read_metadata(tmp_path / "nothing")
    save_file({"w": X}, tmp_path / "bad.safetensors", metadata={"secateur": "{"})
    with pytest.raises(InputError, match=r"What .* says of itself is not JSON"):
        read_metadata(tmp_path / "bad.safetensors")
