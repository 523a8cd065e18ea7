from __future__ import annotations

import errno
import stat
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


import secateur
from secateur.core.errors import ExportError, InputError, UnknownNameError
from secateur.exports import ExportCheck, export
from secateur.graph.export import Exported
from secateur.runtimes import RUNTIMES, Program, Runtime, installed, onnxruntime, packages
from secateur.runtimes.onnxruntime import feed, session

FORMAT_NAMES = ("onnx", "pt2")


class Block(nn.Module):
    """A residual block whose shortcut subsamples and pads its channels with zeros."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.extra = outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        left = self.extra // 2
        shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, left, self.extra - left))
        return F.relu(self.norm(self.conv(x)) + shortcut)


def small_cnn() -> nn.Module:
    torch.manual_seed(0)
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(9, 10))
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), Block(4, 9), *head)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2.0)
    return net


class TwoInputs(nn.Module):
    def forward(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:
        return {"sum": left + right, "mean": right.mean(dim=1)}


class FixedBatch(nn.Module):
    """Has the batch size 3 baked in."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(3, -1) * 2


class Branching(nn.Module):
    """Decides by the data, which no trace can follow."""

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return -x


class Zeta(nn.Module):
    """Uses an operator that ONNX does not have."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.special.zeta(x.abs() + 2, x.abs() + 1)


def graph_module(net: nn.Module) -> nn.Module:
    batch = torch.export.Dim("batch")
    example = (torch.randn(2, 3, 8, 8),)
    return torch.export.export(net.eval(), example, dynamic_shapes=({0: batch},), strict=False).module()


def outputs_of(path: Path, inputs: Tensor) -> Tensor:
    if path.suffix == ".onnx":
        opened = session(path)
        return torch.as_tensor(opened.run(None, feed(opened, inputs, path))[0])
    found: Tensor = torch.export.load(path).module()(inputs)
    return found


@pytest.mark.parametrize("to", FORMAT_NAMES)
@pytest.mark.parametrize("graph", [False, True], ids=["module", "graph"])
def test_exported_file_computes_the_same(tmp_path: Path, to: str, graph: bool) -> None:
    net = small_cnn()
    exported = graph_module(net) if graph else net
    images = torch.randn(5, 3, 8, 8)
    path = tmp_path / f"net.{to}"
    check = export(exported, images[:1], path, to, check_inputs=images)

    assert check.dynamic_batch
    assert check.batches == (1, 5)
    assert check.images == 5
    assert check.same_labels == 1
    assert check.max_difference <= 1e-5
    assert check.bytes == path.stat().st_size
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert ExportCheck.from_json(check.to_json()) == check
    # Independently of the check: a batch size that it did not try.
    more = torch.randn(7, 3, 8, 8)
    torch.testing.assert_close(outputs_of(path, more), net.eval()(more), rtol=1e-4, atol=1e-5)


def test_onnx_input_and_output_have_plain_names_and_a_named_batch(tmp_path: Path) -> None:
    export(small_cnn(), torch.zeros(1, 3, 8, 8), tmp_path / "net.onnx")
    opened = session(tmp_path / "net.onnx")
    found = [(entry.name, entry.shape) for entry in (*opened.get_inputs(), *opened.get_outputs())]
    assert found == [("input", ["batch", 3, "height", "width"]), ("output", ["batch", 10])]


@pytest.mark.parametrize("to", FORMAT_NAMES)
@pytest.mark.parametrize("training", [True, False])
def test_mode_and_weights_stay(tmp_path: Path, to: str, training: bool) -> None:
    net = small_cnn().train(training)
    net[1].eval()  # type: ignore[index]
    modes = [module.training for module in net.modules()]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    export(net, torch.zeros(1, 3, 8, 8), tmp_path / "net", to)
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for to in FORMAT_NAMES:
            export(small_cnn().train(), torch.zeros(1, 3, 8, 8), tmp_path / "net", to)
        with pytest.raises(ExportError):
            export(Branching(), torch.zeros(2, 3), tmp_path / "branching.onnx")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("to", FORMAT_NAMES)
def test_several_inputs_and_outputs(tmp_path: Path, to: str) -> None:
    left, right = torch.randn(4, 6), torch.randn(4, 6)
    for inputs in ((left, right), {"right": right, "left": left}):
        check = export(TwoInputs(), inputs, tmp_path / "two", to, check_inputs=inputs)
        assert check.batches == (1, 4)
        assert check.max_difference <= 1e-6


@pytest.mark.parametrize("to", FORMAT_NAMES)
def test_a_fixed_batch_is_said_to_be_fixed(tmp_path: Path, to: str) -> None:
    check = export(FixedBatch(), torch.zeros(3, 4), tmp_path / "net", to, check_inputs=torch.randn(5, 4))
    assert not check.dynamic_batch
    assert check.batches == (3,)


def test_large_weights_go_to_a_second_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "_LIMIT", 100)
    net = nn.Sequential(nn.Linear(100, 100))
    check = export(net, torch.zeros(1, 100), tmp_path / "big.onnx")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["big.onnx", "big.onnx.data"]
    assert check.bytes == sum(entry.stat().st_size for entry in tmp_path.iterdir())
    inputs = torch.randn(3, 100)
    torch.testing.assert_close(outputs_of(tmp_path / "big.onnx", inputs), net(inputs), rtol=1e-4, atol=1e-5)


class Says(Runtime):
    """Gives the same output whatever the file and the inputs."""

    name = format = "wrong"
    suffixes = (".wrong",)

    def __init__(self, output: Tensor) -> None:
        self.output = output

    def convert(self, traced: Exported, file: Path) -> None:
        file.touch()

    def from_file(self, file: Path, threads: int) -> Program:
        return Program(lambda inputs: inputs, lambda inputs: self.output, lambda output: [output])


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (torch.ones(2, 3), r"differs from the network by 1 at output 0 \(allowed: 0.0001"),
        (torch.full((2, 3), torch.nan), r"differs from the network by inf at output 0"),
        (torch.zeros(2, 4), r"outputs of shapes \[\(2, 4\)\], the network of \[\(2, 3\)\]"),
    ],
)
def test_failed_check_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: Tensor, message: str
) -> None:
    monkeypatch.setitem(RUNTIMES._items, "wrong", Says(output))
    path = tmp_path / "net.wrong"
    path.write_text("what was there")
    net = FixedZero()
    with pytest.raises(ExportError, match=message):
        export(net, torch.randn(2, 3), path, "wrong")
    assert path.read_text() == "what was there"
    assert len(list(tmp_path.iterdir())) == 1


class FixedZero(nn.Module):
    """Returns zeros, for a batch of two only."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(2, 3) * 0


def test_nan_of_the_network_itself_is_said(tmp_path: Path) -> None:
    class Root(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sqrt()

    with pytest.raises(ExportError, match="network returns NaN on the check inputs"):
        export(Root(), torch.zeros(2, 2), tmp_path / "net.pt2", "pt2", check_inputs=-torch.ones(2, 2))
    assert not list(tmp_path.iterdir())


def test_equal_infinities_agree(tmp_path: Path) -> None:
    class Negative(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return -x

    inputs = torch.tensor([[0.0, -torch.inf], [1.0, 2.0]])
    check = export(Negative(), inputs, tmp_path / "net.pt2", "pt2", check_inputs=inputs)
    assert check.max_difference == 0


class Singular(nn.Module):
    """Uses an operator that is decomposed into another before converters meet it."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.svdvals(x)


@pytest.mark.parametrize(("to", "title"), [("openvino", "ONNX"), ("litert", "LiteRT"), ("executorch", "ExecuTorch")])
@pytest.mark.parametrize(("module", "operator"), [(Zeta(), r"\w+\.\w*zeta"), (Singular(), r"aten\._linalg_svd")])
def test_every_converter_names_the_operator_and_its_module(
    tmp_path: Path, to: str, title: str, module: nn.Module, operator: str
) -> None:
    runtime = RUNTIMES[to]
    if not installed(runtime):
        pytest.skip(f"{to} is not installed")
    net = nn.Sequential(nn.Conv2d(3, 4, 3), module).eval()
    words = rf"operator {operator}\.default \(module '1', {type(module).__name__}\) cannot be converted to {title}\."
    with pytest.raises(ExportError, match=words):
        export(net, torch.rand(1, 3, 8, 8), tmp_path / f"net{runtime.suffix}", to)
    assert not list(tmp_path.iterdir())


def test_operator_that_cannot_be_converted_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"operator prims\.zeta\.default \(in Zeta\) cannot be converted to ONNX"):
        export(Zeta(), torch.zeros(2, 3), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())
    assert export(Zeta(), torch.zeros(2, 3), tmp_path / "net.pt2", "pt2").max_difference == 0


def test_trace_error_names_the_line(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"test_exports\.py:\d+, 'if x\.sum\(\) > 0:'"):
        export(Branching(), torch.zeros(2, 3), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"no export format named 'onx'\. Did you mean 'onnx'"):
        export(nn.ReLU(), torch.zeros(2, 3), tmp_path / "net", "onx")


def test_bad_paths(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"folder '.*nowhere' does not exist"):
        export(nn.ReLU(), torch.zeros(2, 3), tmp_path / "nowhere" / "net.onnx")
    with pytest.raises(ExportError, match="it is a folder"):
        export(nn.ReLU(), torch.zeros(2, 3), tmp_path)


def test_unwritable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    # Not by mode bits: they do not stop the superuser, who runs many test machines.
    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    with pytest.raises(ExportError, match=r"Cannot write into '.*': Permission denied"):
        export(nn.ReLU(), torch.zeros(2, 3), tmp_path / "net.onnx")


def test_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Runtime, traced: Exported, file: Path) -> None:
        file.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(RUNTIMES["pytorch"]), "convert", full)
    with pytest.raises(ExportError, match="No space left on device"):
        export(nn.ReLU(), torch.zeros(2, 3), tmp_path / "net.pt2", "pt2")
    assert not list(tmp_path.iterdir())


def test_file_can_be_read_by_others(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    export(nn.ReLU(), torch.zeros(2, 3), tmp_path / "net.pt2", "pt2")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "net.pt2")]
    assert modes[0] == modes[1]


def test_missing_package_names_the_install_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "_found", lambda name: name != "onnxscript")
    with pytest.raises(InputError, match=r'needs onnxscript: pip install torch==[0-9.]+ "secateur\[onnx\]"'):
        export(nn.ReLU(), torch.zeros(2, 3), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_the_result_of_a_cut_is_exported_by_its_path_alone(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    small = secateur.prune(net, torch.randn(2, 4), ratio=0.5)
    assert secateur.export(small, tmp_path / "a.pt2").path == str(tmp_path / "a.pt2")
    assert secateur.export(small, path=tmp_path / "b.pt2").max_difference < 1e-5
    small.save(tmp_path / "small")
    assert secateur.export(secateur.load(tmp_path / "small", net), tmp_path / "c.pt2").images > 0
    with pytest.raises(InputError, match="give the inputs, or one path"):
        secateur.export(small, "a.pt2", "b.pt2")
    with pytest.raises(InputError, match=r"export\(path=…\) is missing"):
        secateur.export(net, torch.randn(2, 4))
    with pytest.raises(InputError, match="example_inputs is missing"):
        secateur.export(net, tmp_path / "d.pt2")


# -------------------------------------------------------------------------------------------------- other sizes


def onnx_input(path: Path) -> Any:
    import onnxruntime as ort

    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session, session.get_inputs()[0]


def test_onnx_files_take_other_heights_and_widths_where_the_network_does(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    path = tmp_path / "net.onnx"
    secateur.export(net.eval(), torch.randn(1, 3, 32, 32), path)
    session, given = onnx_input(path)
    assert list(given.shape) == ["batch", 3, "height", "width"]
    for size in ((1, 3, 32, 32), (5, 3, 48, 20)):
        x = torch.randn(*size)
        (got,) = session.run(None, {given.name: x.numpy()})
        torch.testing.assert_close(torch.as_tensor(got), net(x).detach(), rtol=1e-4, atol=1e-5)
    secateur.export(net, torch.randn(1, 3, 32, 32), path, dynamic="batch")
    assert list(onnx_input(path)[1].shape) == ["batch", 3, 32, 32]
    with pytest.raises(UnknownNameError, match="dynamic"):
        secateur.export(net, torch.randn(1, 3, 32, 32), path, dynamic="size")


def test_a_size_that_the_network_fixes_stays_fixed_in_the_file(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, 5))
    secateur.export(net.eval(), torch.randn(1, 3, 8, 8), tmp_path / "net.onnx")
    assert list(onnx_input(tmp_path / "net.onnx")[1].shape) == ["batch", 3, 8, 8]


class Named(nn.Module):
    """Several outputs under names, one of them a list."""

    def __init__(self, *, like_the_input: bool = False) -> None:
        super().__init__()
        self.a, self.b, self.key = nn.Linear(4, 3), nn.Linear(4, 2), "x" if like_the_input else "scores"

    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        return {self.key: self.a(x), "maps": [self.b(x), self.b(2 * x)]}


def test_an_onnx_file_names_outputs_as_the_network_does(tmp_path: Path) -> None:
    import onnx

    secateur.export(Named().eval(), torch.randn(2, 4), tmp_path / "named.onnx")
    outputs = onnx.load(tmp_path / "named.onnx").graph.output
    assert [o.name for o in outputs] == ["scores", "maps.0", "maps.1"]
    secateur.export(Named(like_the_input=True).eval(), torch.randn(2, 4), tmp_path / "taken.onnx")
    assert len(onnx.load(tmp_path / "taken.onnx").graph.output) == 3
