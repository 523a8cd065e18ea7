from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from secateur.core.errors import InputError
from secateur.exports import export
from secateur.runtimes import RUNTIMES, installed
from secateur.runtimes.files import feed_in_order

FILES = [name for name in RUNTIMES if not RUNTIMES[name].modules]


def network() -> nn.Module:
    torch.manual_seed(0)
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(6, 4))
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), *head).eval()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Writes the network once per runtime and returns the file; skips where the runtime is missing."""
    folder = tmp_path_factory.mktemp("files")

    def write(name: str) -> Path:
        runtime = RUNTIMES[name]
        if not installed(runtime):
            pytest.skip(f"{name} is not installed")
        path = folder / f"{name}{runtime.suffix}"
        if not path.exists():
            export(network(), torch.zeros(2, 3, 8, 8), path, runtime.format)
        return path

    return write


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file(name: str, written: Callable[[str], Path], tmp_path: Path) -> None:
    good = written(name)
    path = tmp_path / good.name
    path.write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    if good.suffix == ".xml":
        (tmp_path / f"{good.stem}.bin").write_bytes(good.with_suffix(".bin").read_bytes())
    with pytest.raises(InputError, match=rf"cannot open '.*{good.name}': \S+"):
        RUNTIMES[name].open(path, 1)


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_kind(name: str, tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    export(network(), torch.zeros(2, 3, 8, 8), path, "pt2")
    with pytest.raises(InputError, match=r"is a file of the format 'pt2'; .* reads '\w+'"):
        RUNTIMES[name].open(path, 1)


@pytest.mark.parametrize("name", FILES)
def test_a_module_or_no_file(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"runs files, not modules; write one with secateur\.export\(model, inputs"):
        RUNTIMES[name].open(network(), 1)
    with pytest.raises(InputError, match=r"There is no .*file '.*nothing'"):
        RUNTIMES[name].open(tmp_path / "nothing", 1)


@pytest.mark.parametrize("name", FILES)
def test_inputs_of_another_shape_or_number(name: str, written: Callable[[str], Path]) -> None:
    path = written(name)
    program = RUNTIMES[name].open(path, 1)
    with pytest.raises(InputError, match=rf"{path.name}' on these inputs: \S+"):
        program(torch.zeros(2, 4, 8, 8))
    with pytest.raises(InputError, match=rf"{path.name}' takes 1 inputs \(.+\); got 2"):
        program((torch.zeros(2, 3, 8, 8), torch.zeros(2)))


def test_openvino_without_its_weights(written: Callable[[str], Path], tmp_path: Path) -> None:
    path = tmp_path / "alone.xml"
    path.write_bytes(written("openvino").read_bytes())
    with pytest.raises(InputError, match=r"weights of '.*alone\.xml' are missing: they lie beside it in alone\.bin"):
        RUNTIMES["openvino"].open(path, 1)


def test_openvino_reads_onnx_too(written: Callable[[str], Path]) -> None:
    if not installed(RUNTIMES["openvino"]):
        pytest.skip("openvino is not installed")
    images = torch.randn(3, 3, 8, 8)
    (found,) = RUNTIMES["openvino"].open(written("onnxruntime"), 1)(images)
    torch.testing.assert_close(found, network()(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("head", "names"),
    [
        (b"PK\x03\x04" + bytes(200) + b"net/archive_format", {"pytorch", "compiled"}),
        (b"PK\x03\x04" + bytes(200) + b"net/data.pkl", set()),  # weights, or any other zip archive
        (b"....net/archive_format", set()),
        (b"\x1c\0\0\0TFL3", {"litert"}),
        (b"<\0\0\0ET12eh00", {"executorch"}),
        (b"\x08\0\0\0ET12", {"executorch"}),
        (b"\x08\x09", set()),
        (b'<?xml version="1.0"?>', {"openvino"}),
        (b"\x08\x0a\x12\x07pytorch", {"onnxruntime", "openvino"}),
        (b"", set()),
    ],
)
def test_every_runtime_knows_its_own_files(head: bytes, names: set[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(head)
    assert {name for name in RUNTIMES if RUNTIMES[name].recognises(tmp_path / "file")} == names


def test_inputs_by_name_or_in_order() -> None:
    a, b = torch.zeros(2), torch.ones(3)

    def sizes(inputs: dict[str, Tensor] | tuple[Tensor, ...]) -> list[int]:
        return [array.size for array in feed_in_order(inputs, ["b", "a"], "net")]

    assert sizes({"a": a, "b": b}) == [3, 2]
    assert sizes({"x": a, "y": b}) == [2, 3]
    assert sizes((a, b)) == [2, 3]
