"""`secateur export … --bundle`, `--integer` and `--c-array`: what is written and what is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from secateur.cli.main import main
from secateur.runtimes import RUNTIMES
from secateur.runtimes.packages import missing

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as done:
        main([str(a) for a in arguments])
    return int(done.value.code or 0)


def test_a_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "folder"
    assert run("export", "resnet_digits", folder, "--bundle", "--data", "digits", "--images", "4") == 0
    said = capsys.readouterr().out
    assert "run without PyTorch" in said
    assert "100.0% on 4 test images" in said
    assert (folder / "run.py").is_file()
    assert run("export", "resnet_digits", folder, "--bundle", "--data", "digits") == 2
    assert "exists already; a bundle is a new folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("folder", "--bundle"), "--bundle needs the data set"),
        (("folder", "--bundle", "--data", "digits", "--to", "abacus"), "There is no export format named 'abacus'"),
        (("folder", "--bundle", "--data", "digits", "--c-array"), "--c-array goes with a single file"),
        (("net.tflite", "--c-array"), "--c-array is for files that compute in integers alone: add --integer"),
        (("net.tflite", "--integer"), "--integer needs images to calibrate on"),
        (("net.onnx", "--integer", "--calibration", "digits"), "the format 'onnx' has none of; there are of litert"),
    ],
)
def test_bad_requests(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    path, *more = arguments
    assert run("export", "resnet_digits", tmp_path / path, *more) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_integers_and_their_array(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    litert = RUNTIMES["litert"]
    if gone := missing((*litert.packages, *litert.int8_packages)):
        pytest.skip(f"{', '.join(gone)} is not installed")
    path = tmp_path / "net.tflite"
    assert run("export", "resnet_digits", path, "--integer", "--c-array", "--data", "digits", "--images", "8") == 0
    said = capsys.readouterr().out
    assert "full-integer int8 (calibrated on 256 images)" in said
    assert "quantisation steps apart on average" in said
    assert f"As a C array: {path.with_suffix('.h')}, {path.with_suffix('.cc')}." in said
    assert path.with_suffix(".cc").is_file()
    assert run("inspect", path) == 0
    assert "classification" in capsys.readouterr().out
