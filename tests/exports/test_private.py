"""An export holds the network and nothing of the user's data, and its name says what it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from secateur.core.errors import ExportError, UnknownNameError
from secateur.exports import export
from secateur.runtimes import installed
from secateur.runtimes.formats import writer, writer_for, writers

HERE = [name for name, runtime in writers().items() if installed(runtime)]
MARK = 12345.678


class Holding(nn.Module):
    """Uses buffers that are slices of something large."""

    def __init__(self, large: torch.Tensor) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 4)
        self.register_buffer("mean", large[0, :4].clone() if large.shape[0] == 1 else large[0, :4])
        self.constant = self.mean[1:3]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.flatten(1)) + self.mean + self.constant.sum()


def network(rows: int) -> nn.Module:
    torch.manual_seed(0)
    large = torch.full((rows, 1000), MARK)
    large[0, :4] = 1.0
    return Holding(large).eval()


def written(folder: Path, name: str, rows: int, images: int) -> dict[str, bytes]:
    folder.mkdir()
    data = torch.full((images, 12), MARK)
    export(network(rows), data[:2], folder / f"net{writer(name).suffix}", check_inputs=torch.ones(2, 12))
    # OpenVINO numbers nodes by all that it ever made in the process.
    return {path.name: re.sub(rb'_\d+"', b'"', path.read_bytes()) for path in folder.iterdir()}


@pytest.mark.parametrize("name", HERE)
def test_files_are_the_same_whatever_the_example_was_cut_from(tmp_path: Path, name: str) -> None:
    alone = written(tmp_path / "a", name, rows=1, images=2)
    sliced = written(tmp_path / "b", name, rows=400, images=400)
    assert {n: len(c) for n, c in alone.items()} == {n: len(c) for n, c in sliced.items()}
    mark = torch.tensor(MARK).numpy().tobytes()
    assert not [n for n, content in sliced.items() if mark in content]


@pytest.mark.parametrize("name", HERE)
def test_no_line_and_no_folder_of_the_user_s_source(tmp_path: Path, name: str) -> None:
    for content in written(tmp_path / "a", name, rows=1, images=2).values():
        assert b"x.flatten(1)" not in content
        assert b"test_private.py" not in content
        assert str(tmp_path).encode() not in content


def test_int8_files_hold_no_calibration_sample(tmp_path: Path) -> None:
    sizes = []
    for count in (8, 80):
        folder = tmp_path / str(count)
        folder.mkdir()
        samples = torch.rand(count, 12, generator=torch.Generator().manual_seed(0))
        samples[0, 0] = 0.98765432
        export(nn.Linear(12, 4), samples[:1], folder / "net.onnx", calibration=samples)
        files = list(folder.iterdir())
        assert [path.name for path in files] == ["net.onnx"]
        assert samples[0, 0].numpy().tobytes() not in files[0].read_bytes()
        sizes.append(files[0].stat().st_size)
    assert abs(sizes[0] - sizes[1]) < 8  # ranges are written as numbers


def test_tied_weights_stay_tied_and_the_network_is_left_alone(tmp_path: Path) -> None:
    large = torch.randn(400, 12)
    net = nn.Sequential(nn.Linear(12, 12), nn.Linear(12, 12))
    net[0].weight = nn.Parameter(large[:12])
    net[1].weight = net[0].weight
    before = net[0].weight.data_ptr()
    export(net, torch.zeros(2, 12), tmp_path / "net.pt2")
    assert net[0].weight.data_ptr() == before
    assert net[0].weight is net[1].weight
    assert (tmp_path / "net.pt2").stat().st_size < 20_000


NAMES = {"net.onnx": "onnx", "net.XML": "openvino", "a.b.tflite": "litert", "net.pte": "executorch", "net.pt2": "pt2"}


@pytest.mark.parametrize(("file", "name"), NAMES.items())
def test_the_name_says_the_format(file: str, name: str) -> None:
    assert writer_for(Path(file)) is writer_for(Path(file), name) is writer_for(Path("net"), name) is writer(name)
    other = next(n for n in writers() if n != name)
    with pytest.raises(ExportError, match=f"{other!r} ends in") as error:
        writer_for(Path(file), other)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("file", ["net.bin", "net", "net.v2", ".onnx"])
def test_names_that_say_none(tmp_path: Path, file: str) -> None:
    with pytest.raises(ExportError, match=r"\.onnx \(onnx\).*\.xml \(openvino\)"):
        export(nn.ReLU(), torch.zeros(2, 3), tmp_path / file)
    assert not list(tmp_path.iterdir())
    if file not in ("net", ".onnx"):
        with pytest.raises(ExportError, match="ends in"):
            writer_for(Path(file), "onnx")


def test_a_format_that_is_none() -> None:
    for file in ("net", "net.onnx", "net.bin"):
        with pytest.raises(UnknownNameError, match="onx"):
            writer_for(Path(file), "onx")
