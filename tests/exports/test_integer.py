"""Files that compute in integers alone, and their C arrays."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.core.errors import ExportError, InputError
from secateur.exports import ExportCheck, c_array, export, write_c_array
from secateur.runtimes import RUNTIMES, installed
from secateur.runtimes.integer import IntegerFacts, QuantisedTensor
from secateur.runtimes.packages import missing

LITERT = RUNTIMES["litert"]


@pytest.fixture
def litert() -> None:
    gone = missing((*LITERT.packages, *LITERT.int8_packages))
    if gone:
        pytest.skip(f"{', '.join(gone)} is not installed")


def network() -> nn.Module:
    torch.manual_seed(0)
    body = (nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, stride=2), nn.ReLU())
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(16, 10)).eval()


def images(count: int, seed: int = 1) -> Tensor:
    return torch.randn(count, 3, 12, 12, generator=torch.Generator().manual_seed(seed))


@pytest.mark.usefixtures("litert")
def test_every_number_is_an_integer(tmp_path: Path) -> None:
    net, path = network(), tmp_path / "net.tflite"
    check = export(net, images(1), path, calibration=images(32), check_inputs=images(16, 2), integer=True)
    assert check.integer
    assert check.snr_db is not None
    assert check.snr_db > 15
    assert check.mean_steps is not None
    assert check.largest_steps is not None
    assert 0 < check.mean_steps < 10  # five layers of 8 bits
    assert check.mean_steps < check.largest_steps < 60
    assert ExportCheck.from_json(check.to_json()) == check
    # Independently of the check: the interpreter's own word, and integers by hand.
    from ai_edge_litert.interpreter import Interpreter

    opened = Interpreter(str(path))
    opened.allocate_tensors()
    (given,), (made,) = opened.get_input_details(), opened.get_output_details()
    assert given["dtype"].__name__ == made["dtype"].__name__ == "int8"
    assert not [d["name"] for d in opened.get_tensor_details() if d["dtype"].__name__.startswith("float")]
    (scale, zero), x = given["quantization"], images(1, 3)
    opened.set_tensor(given["index"], (x / scale).round().add(zero).clamp(-128, 127).to(torch.int8).numpy())
    opened.invoke()
    scale, zero = made["quantization"]
    byhand = scale * (torch.as_tensor(opened.get_tensor(made["index"])).float() - zero)
    (found,) = LITERT.open(path)(x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, byhand)
    assert float((found - net(x)).norm() / net(x).norm()) < 0.2
    # The largest activation pair: the input of 3·12·12 and a layer of 16·12·12 bytes, or that and its own transpose.
    assert check.activations is not None
    assert 16 * 12 * 12 < check.activations < 4 * 16 * 12 * 12


@pytest.mark.usefixtures("litert")
def test_what_stays_in_floating_point_is_named(tmp_path: Path) -> None:
    class Sine(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sin() + x

    with pytest.raises(ExportError, match=r"operators .*SIN.* cannot be quantised by LiteRT"):
        export(Sine(), torch.randn(1, 4), tmp_path / "net.tflite", calibration=torch.randn(8, 4), integer=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("net.onnx", {"calibration": images(4)}, "the format 'onnx' has none of; there are of litert"),
        ("net.tflite", {}, "integer=True needs samples that say how large the numbers get"),
    ],
)
def test_bad_requests(tmp_path: Path, name: str, given: dict[str, Any], message: str) -> None:
    if not installed(LITERT) and name.endswith("tflite"):
        pytest.skip("LiteRT is not installed")
    pytest.importorskip("onnxscript")
    with pytest.raises(InputError, match=message):
        export(network(), images(1), tmp_path / name, integer=True, **given)


_MAIN = """
#include <stdio.h>
#include "{stem}.h"
int main(void) {{
  printf("%.9e %d %d %d\\n", {up}_INPUT_0_SCALE, {up}_INPUT_0_ZERO_POINT, {up}_INPUT_0_SIZE, {up}_OUTPUT_0_SIZE);
  printf("%d\\n", (int)((unsigned long long){name} % 16));
  for (unsigned int i = 0; i < {name}_len; i++) printf("%02x", {name}[i]);
  return 0;
}}
"""


def compiled(folder: Path, stem: str, name: str, *flags: str) -> list[str]:
    """What a C program prints that has the array in it."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("there is no C compiler")
    (folder / "main.c").write_text(_MAIN.format(stem=stem, up=name.upper(), name=name))
    command = [compiler, "-Wall", "-Werror", "-x", "c", "-std=c11", *flags, "main.c", f"{stem}.cc", "-o", "main"]
    subprocess.run(command, cwd=folder, check=True)
    return subprocess.run([folder / "main"], capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.usefixtures("litert")
def test_the_array_has_the_bytes_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "2 nets.tflite"
    export(network(), images(1), path, calibration=images(32), integer=True)
    header, source = write_c_array(path)
    assert (header.name, source.name) == ("2 nets.h", "2 nets.cc")
    scale, zero, size, labels, place, content = compiled(tmp_path, "2 nets", "n2_nets_tflite")
    (given,) = LITERT.integer_facts(path).inputs
    assert (float(scale), int(zero), int(size), int(labels)) == (
        pytest.approx(given.scale, rel=1e-7), given.zero_point, 3 * 12 * 12, 10,
    )  # fmt: skip
    assert place == "0"
    assert bytes.fromhex(content) == path.read_bytes()
    assert f"{path.stat().st_size} bytes of flash" in header.read_text()
    assert str(tmp_path) not in header.read_text() + source.read_text()
    write_c_array(path)  # its own files are replaced
    header.write_text("// mine")
    with pytest.raises(InputError, match=r"2 nets.h exists already and is none of Secateur's"):
        write_c_array(path)
    assert header.read_text() == "// mine"


def test_an_array_compiles_whatever_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without LiteRT: the bytes and the numbers are made up."""
    content = bytes(range(256)) * 3 + b"\x00"
    (tmp_path / "net.tflite").write_bytes(content)
    ends = (QuantisedTensor("in", (1, 2, 3), 0.5, -7),)
    monkeypatch.setattr(c_array, "_facts", lambda *_: IntegerFacts(ends, ends, (), 9))
    write_c_array(tmp_path / "net.tflite")
    *numbers, place, found = compiled(tmp_path, "net", "net_tflite")
    assert [float(n) for n in numbers] == [0.5, -7, 6, 6]
    assert (place, bytes.fromhex(found)) == ("0", content)
    assert re.search("At least 9 bytes of activations", (tmp_path / "net.h").read_text())


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Cannot read"):
        write_c_array(tmp_path / "none.tflite")
    (tmp_path / "net.onnx").write_bytes(b"something else")
    with pytest.raises(InputError, match=r"no file that a C array is made of; those are \.tflite"):
        write_c_array(tmp_path / "net.onnx")


@pytest.mark.usefixtures("litert")
def test_a_file_of_floating_point_is_refused(tmp_path: Path) -> None:
    export(network(), images(1), tmp_path / "net.tflite")
    with pytest.raises(InputError, match="does not compute in integers alone; export it with integer=True"):
        write_c_array(tmp_path / "net.tflite")
