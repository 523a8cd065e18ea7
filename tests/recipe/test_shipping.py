from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from pydantic import ValidationError

from secateur.core.errors import InputError, UnknownNameError
from secateur.recipe import load_recipe, run
from secateur.recipe.steps.shipping import Export, ExportSettings
from secateur.runtimes import packages

RECIPE = """
name: ship
model: {name: lenet5}
data: {name: digits, limit: 128, image_size: 28}
steps:
- adapt: {epochs: 1}
- export: {to: [onnx, pt2], int8: true, calibration: 32, images: 16, scored: 40}
"""


def test_every_format_and_its_int8_file_is_written_checked_and_scored(tmp_path: Path) -> None:
    (tmp_path / "ship.yaml").write_text(RECIPE)
    run(load_recipe(tmp_path / "ship.yaml"), tmp_path / "out")
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    files = {check["path"]: check for check in results["exports"]}
    assert list(files) == ["model.onnx", "model-int8.onnx", "model.pt2"]
    assert all((tmp_path / "out" / name).is_file() for name in files)
    assert {name: check["scored"] for name, check in files.items()} == dict.fromkeys(files, 40)
    assert files["model.onnx"]["quality"] == files["model.pt2"]["quality"]
    assert files["model-int8.onnx"]["calibration"] == 32
    assert files["model-int8.onnx"]["snr_db"] > 10
    assert files["model-int8.onnx"]["bytes"] < files["model.onnx"]["bytes"]


def test_formats_are_known_by_name() -> None:
    assert ExportSettings(to=["onnx", "onnx", "openvino"]).to == ("onnx", "openvino")
    with pytest.raises((ValidationError, UnknownNameError), match="Did you mean 'openvino'"):
        ExportSettings(to=["openvin"])


def test_packages_are_asked_for_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"steps\.export\.int8: none of the formats pt2 has int8"):
        Export().check(ExportSettings(to=["pt2"], int8=True))
    monkeypatch.setattr(packages, "_found", lambda name: name != "nncf")
    Export().check(ExportSettings(to=["openvino"]))
    with pytest.raises(InputError, match=r"steps\.export\.to: openvino needs nncf: pip install .*secateur\[openvino\]"):
        Export().check(ExportSettings(to=["openvino"], int8=True))
