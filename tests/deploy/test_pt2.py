"""A crafted .pt2 file runs no code: each test plants a bomb where the format would run one."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from secateur.deploy.pt2 import read_program
from secateur.errors import WeightsError


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "net.pt2"
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3)).eval()
    batch = {0: torch.export.Dim("n", min=2, max=64)}
    torch.export.save(torch.export.export(net, (torch.zeros(2, 1, 4, 4),), dynamic_shapes=(batch,)), path)
    return path


def changed(path: Path, change: Callable[[str, bytes], bytes | None], **added: bytes) -> Path:
    """Rewrites the archive member by member."""
    with zipfile.ZipFile(path) as old:
        members = {n: old.read(n) for n in old.namelist()}
    root = next(iter(members)).partition("/")[0]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as new:
        for name, data in members.items():
            new.writestr(name, change(name, data) or data)
        for name, data in added.items():
            new.writestr(f"{root}/{name}", data)
    return path


def test_an_honest_file_loads_and_runs(archive: Path) -> None:
    assert read_program(archive).module()(torch.zeros(5, 1, 4, 4)).shape == (5, 3)


def test_pickled_weights(archive: Path, tmp_path: Path) -> None:
    bomb = pickle.dumps(Bomb(tmp_path / "ran"))

    def plant(name: str, data: bytes) -> bytes | None:
        if name.endswith("weights_config.json"):
            config = json.loads(data)
            config["config"]["0.weight"]["use_pickle"] = True
            return json.dumps(config).encode()
        return bomb if name.endswith("weight_0") else None

    with pytest.raises(WeightsError, match=r"unpickle '0\.weight'"):
        read_program(changed(archive, plant))
    assert not (tmp_path / "ran").exists()


def test_pickled_constants(archive: Path, tmp_path: Path) -> None:
    def plant(name: str, data: bytes) -> bytes | None:
        entry = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
        return json.dumps({"config": {"c": entry}}).encode() if name.endswith("constants_config.json") else None

    added = {"data/constants/opaque_obj_0": pickle.dumps(Bomb(tmp_path / "ran"))}
    with pytest.raises(WeightsError, match=r"opaque_obj_0|unpickle"):
        read_program(changed(archive, plant, **added))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["plain", "torch"])
def test_pickled_sample_inputs(archive: Path, tmp_path: Path, kind: str) -> None:
    buffer = io.BytesIO()
    if kind == "torch":
        torch.save(Bomb(tmp_path / "ran"), buffer)
    else:
        buffer.write(pickle.dumps(Bomb(tmp_path / "ran")))
    with pytest.raises(WeightsError, match="cannot be read"):
        read_program(changed(archive, lambda n, d: buffer.getvalue() if "sample_inputs" in n else None))
    assert not (tmp_path / "ran").exists()


def test_compiled_libraries_and_other_members(archive: Path) -> None:
    with pytest.raises(WeightsError, match=r"net\.so.*no place"):
        read_program(changed(archive, lambda n, d: None, **{"data/aotinductor/model/net.so": b"\x7fELF"}))


@pytest.mark.parametrize("target", ["torch.hub.load", "torch.load", "torch.ops.load_library", "#pickle:loads"])
def test_functions_that_are_no_operators(archive: Path, target: str) -> None:
    def plant(name: str, data: bytes) -> bytes | None:
        return data.replace(b"torch.ops.aten.linear.default", target.encode()) if name.endswith("model.json") else None

    with pytest.raises(WeightsError, match="not an operator"):
        read_program(changed(archive, plant))


def test_expressions_that_are_more_than_arithmetic(archive: Path, tmp_path: Path) -> None:
    evil = f"__import__('pathlib').Path('{tmp_path}/ran').touch()"
    seen = []

    def plant(name: str, data: bytes) -> bytes | None:
        if not name.endswith("model.json"):
            return None

        def replace(tree: Any) -> Any:
            if isinstance(tree, dict):
                seen.extend(k for k in tree if k == "expr_str")
                return {k: evil if k == "expr_str" else replace(v) for k, v in tree.items()}
            return [replace(v) for v in tree] if isinstance(tree, list) else tree

        return json.dumps(replace(json.loads(data))).encode()

    with pytest.raises(WeightsError, match="more than arithmetic"):
        read_program(changed(archive, plant))
    assert seen  # the free batch size is written as an expression
    assert not (tmp_path / "ran").exists()


def test_not_an_archive(tmp_path: Path) -> None:
    path = tmp_path / "x.pt2"
    path.write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    with pytest.raises(WeightsError, match="cannot be read"):
        read_program(path)
    assert not (tmp_path / "ran").exists()
