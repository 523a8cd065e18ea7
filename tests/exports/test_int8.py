from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


from secateur.core.errors import ExportError, InputError
from secateur.exports import ExportCheck, export
from secateur.exports.calibration import LEAST_SNR_DB, judge_int8
from secateur.exports.scored import scored
from secateur.runtimes import packages
from secateur.runtimes.formats import writer, writers
from secateur.runtimes.packages import missing
from secateur.runtimes.parity import Agreement, agreement

QUANTISED = [to for to, runtime in writers().items() if runtime.int8]


def network() -> nn.Module:
    torch.manual_seed(0)
    body = (nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3, stride=2), nn.ReLU())
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(64, 10)).eval()


def images(count: int, seed: int = 1) -> Tensor:
    return torch.randn(count, 3, 12, 12, generator=torch.Generator().manual_seed(seed))


def ready(to: str) -> None:
    gone = missing((*writer(to).packages, *writer(to).int8_packages))
    if gone:
        pytest.skip(f"{', '.join(gone)} is not installed")


@pytest.mark.parametrize("to", QUANTISED)
def test_int8_is_smaller_and_near(to: str, tmp_path: Path) -> None:
    ready(to)
    net, suffix = network(), writer(to).suffix
    dense = export(net, images(1), tmp_path / f"dense{suffix}", to)
    path = tmp_path / f"small{suffix}"
    check = export(net, images(1), path, to, calibration=images(32), check_inputs=images(16, seed=2))
    assert (check.int8, check.calibration, check.tolerance, check.images) == (True, 32, None, 16)
    assert check.snr_db is not None
    # Eight bits over a range of a few standard deviations, through three layers.
    assert 20 < check.snr_db < 60
    assert check.max_difference > dense.max_difference
    assert check.same_labels >= 0.8
    weights = [file.with_suffix(".bin") if to == "openvino" else file for file in (path, Path(dense.path))]
    assert weights[0].stat().st_size < weights[1].stat().st_size
    assert ExportCheck.from_json(check.to_json()) == check
    # Independently of the check: the file takes float images and gives float scores.
    (found,) = writer(to).open(path, 1)(images(1, seed=3))
    assert found.dtype == torch.float32
    wanted = net(images(1, seed=3))
    assert float((found - wanted).norm() / wanted.norm()) < 0.1


def test_onnx_has_unsigned_activations_and_signed_weights_per_channel(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    export(network(), images(1), tmp_path / "small.onnx", calibration=images(8))
    graph = onnx.load(tmp_path / "small.onnx").graph
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    (conv, *_) = [node for node in graph.node if node.op_type == "Conv"]
    made = {node.output[0]: node for node in graph.node}
    activation, weight = (made[name] for name in conv.input[:2])
    assert {activation.op_type, weight.op_type} == {"DequantizeLinear"}
    assert constants[activation.input[2]].dtype == "uint8"
    assert constants[weight.input[0]].dtype == "int8"
    assert constants[weight.input[1]].shape == (32,)
    assert "BatchNormalization" not in {node.op_type for node in graph.node}


def test_a_fixed_batch_is_calibrated_in_that_size(tmp_path: Path) -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(12, 4)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.linear(x.reshape(3, 12))
            return out

    check = export(Fixed(), torch.randn(3, 12), tmp_path / "net.onnx", calibration=torch.randn(7, 12))
    assert check.batches == (3,)
    assert check.calibration == 7


def test_calibration_on_other_images_is_refused_and_no_file_is_left(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_text("what was there")
    with pytest.raises(ExportError, match=r"signal-to-noise ratio of -?\d\.\d dB .*at least 3 .*No file was written"):
        export(network(), images(1), path, calibration=images(8) * 1e-4, check_inputs=images(16) * 100)
    assert path.read_text() == "what was there"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("to", "calibration", "message"),
    [
        ("pt2", images(4), "no int8 files of the format 'pt2'; there are of litert, onnx, openvino"),
        ("onnx", torch.zeros(4, 3, 8, 8), r"have the shapes \[\(3, 8, 8\)\], the example inputs \[\(3, 12, 12\)\]"),
        ("onnx", images(4)[:0], "no calibration sample"),
        ("onnx", images(4).fill_(math.nan), "NaN or infinite values in the calibration samples"),
    ],
)
def test_bad_calibration(to: str, calibration: Tensor, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        export(network(), images(1), tmp_path / "net", to, calibration=calibration)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("to", ["openvino", "litert", "executorch"])
def test_what_is_not_installed_is_named_with_its_command(
    to: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs = {"openvino": "nncf", "litert": "ai_edge_quantizer", "executorch": "executorch"}[to]
    monkeypatch.setattr(packages, "_found", lambda name: name != needs)
    calibration = images(4) if writer(to).int8 else None
    with pytest.raises(InputError, match=rf'needs {needs}: pip install torch==[0-9.]+ "secateur\[{to}\]"'):
        export(network(), images(1), tmp_path / "net", to, calibration=calibration)


def test_a_broken_quantiser_is_worded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no such type\nfurther lines")

    monkeypatch.setattr("onnxruntime.quantization.quantize_static", fail)
    with pytest.raises(ExportError, match=r"^The quantisation failed: RuntimeError: no such type$"):
        export(network(), images(1), tmp_path / "net.onnx", calibration=images(4))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("power", "refused"), [(0.1, False), (0.5, False), (0.6, True), (2.0, True), (math.nan, True)])
def test_the_line_is_half_the_power(power: float, refused: bool) -> None:
    found = Agreement(0.1, 0, 1.0, 1, (1,), signal=1.0, noise=power)
    assert 10 * math.log10(2) == pytest.approx(LEAST_SNR_DB, abs=0.02)
    if refused:
        with pytest.raises(ExportError, match="signal-to-noise"):
            judge_int8(found, "onnx")
    else:
        judge_int8(found, "onnx")


def test_signal_and_noise_over_all_samples() -> None:
    samples = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, -6.0]])
    found = agreement(nn.Identity(), lambda inputs: [inputs * 0.9], samples, 1)
    assert found.signal == pytest.approx(91)
    assert found.noise == pytest.approx(0.91)
    assert found.snr_db == pytest.approx(20, abs=1e-5)
    assert agreement(nn.Identity(), lambda inputs: [inputs], samples, 1).snr_db == math.inf


def test_accuracy_is_that_of_the_file(tmp_path: Path) -> None:
    from secateur.data import load

    data = load("digits")
    net = nn.Sequential(nn.Flatten(1), nn.Linear(64, 10))
    with torch.no_grad():
        net[1].weight.zero_()
        net[1].bias.copy_(torch.eye(10)[3])
    check = scored(export(net, data.sample(2), tmp_path / "net.onnx"), data)
    threes = float((data.test.labels == 3).float().mean())
    assert check.quality["top1"] == pytest.approx(100 * threes)
    # Cross-entropy of scores that are 1 for the class three and 0 for nine others.
    assert check.quality["loss"] == pytest.approx(math.log(math.e + 9) - threes, rel=1e-5)
    assert check.scored == len(data.test)
    assert scored(check, data, samples=0) == check
