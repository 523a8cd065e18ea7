"""Bundles run where there is no PyTorch, say what the network says, and are there whole or not at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import secateur
from secateur.core.errors import ExportError, InputError, SecateurError, UnknownNameError
from secateur.cut.metadata import read_metadata
from secateur.data import DataSet, Split
from secateur.data.boxes import Boxes, BoxSet, BoxSplit
from secateur.data.decode import decode
from secateur.data.labelled import digits_with_labels
from secateur.exports import bundle
from secateur.exports.bundles import trial
from secateur.models import import_torchvision
from secateur.models.darknet import Detection as Scale
from secateur.runtimes import Runtime, packages
from secateur.runtimes.formats import writers
from secateur.runtimes.packages import missing
from secateur.task import Classification, Detection, MultiLabel

ABLE = [one for one in writers().values() if one.script]


def ready(runtime: Runtime, *, int8: bool = False) -> None:
    if gone := missing((*runtime.packages, *(runtime.int8_packages if int8 else ()))):
        pytest.skip(f"{', '.join(gone)} is not installed")


def network(classes: int = 3) -> nn.Module:
    torch.manual_seed(0)
    body = (nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.ReLU())
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(8, classes)).eval()


def data(classes: tuple[str, ...] = ("cat", "dög & co", "a b"), count: int = 6) -> DataSet:
    drawn = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 12, 10), generator=drawn, dtype=torch.uint8)
    split = Split(images, torch.arange(count) % 3)
    return DataSet("secret-name", classes, (3, 12, 10), split, split, split, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3),
                   source="/secret/place")  # fmt: skip


def printed(folder: Path, *images: Path) -> list[list[str]]:
    """What ``run.py`` prints, by itself, where PyTorch and Secateur cannot be imported."""
    hook = folder.parent / "hook"
    hook.mkdir(exist_ok=True)
    (hook / "sitecustomize.py").write_text("import sys\nsys.modules.update(torch=None, secateur=None)\n")
    environment = {**os.environ, "PYTHONPATH": str(hook), "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run([sys.executable, folder / "run.py", *images], env=environment, capture_output=True,
                          text=True, check=True, encoding="utf-8")  # fmt: skip
    return [line.split("\t") for line in done.stdout.splitlines()]


@pytest.mark.parametrize("runtime", ABLE, ids=lambda one: one.name)
def test_a_classifier_runs_without_pytorch(tmp_path: Path, runtime: Runtime) -> None:
    ready(runtime)
    net, folder = network(), tmp_path / "bundle"
    check = bundle(net, data(), folder, to=runtime.format)
    assert (check.images, check.same_labels, check.snr_db) == (6, 1.0, None)
    assert check.max_difference <= 1e-4
    assert check.shades < 1e-3
    assert sorted(check.files) == sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    assert not any(name.startswith("samples") for name in check.files)  # the user's images stay where they are
    assert (folder / "labels.txt").read_text().splitlines() == ["cat", "dög & co", "a b"]
    assert "torch" not in (folder / "requirements.txt").read_text()
    assert read_metadata(folder / f"model{runtime.suffix}")["classes"] == ["cat", "dög & co", "a b"]
    # Independently of the check: an image that has to be scaled and cropped, as the data set would read it.
    file = tmp_path / "large.png"
    drawn = np.random.default_rng(0).integers(0, 256, (50, 31, 3), dtype=np.uint8)
    Image.fromarray(drawn).save(file)
    odds = net(data().normalise(decode(file, (3, 12, 10))[None])).softmax(1)[0]
    ((path, *best),) = printed(folder, file)
    assert path == str(file)
    wanted = [f"{data().classes[i]} {odds[i]:.1%}" for i in odds.argsort(descending=True)]
    assert [words.rpartition(" ")[0] for words in best] == [words.rpartition(" ")[0] for words in wanted]


@pytest.mark.parametrize("runtime", ABLE, ids=lambda one: one.name)
def test_nothing_of_the_user_is_in_a_bundle(tmp_path: Path, runtime: Runtime) -> None:
    ready(runtime)
    bundle(network(), data(), tmp_path / "bundle", to=runtime.format)
    for file in (path for path in (tmp_path / "bundle").rglob("*") if path.is_file()):
        content = file.read_bytes().decode("latin-1")
        assert not [name for name in ("secret", str(tmp_path), str(Path.home())) if name in content], file.name


def detector() -> tuple[nn.Module, Detection]:
    drawn = torch.Generator().manual_seed(0)
    sizes = ((40, 64), (64, 64), (90, 33))
    images = [torch.randint(0, 256, (3, *size), generator=drawn, dtype=torch.uint8) for size in sizes]
    split = BoxSplit.of(images, [Boxes.of([((1, 2, 20, 30), 0)])] * 3)
    task = Detection(BoxSet("mine", ("red", "white"), split, split, split), size=64)
    return Yolo().eval(), task


class Yolo(nn.Module):
    """Maps of one scale as YOLOv3's, from random weights and sure of many boxes."""

    def __init__(self) -> None:
        super().__init__()
        self.detections = (Scale(0, ((12, 16), (30, 24)), 2),)
        torch.manual_seed(0)
        self.one, self.two = nn.Conv2d(3, 8, 8, stride=8), nn.Conv2d(8, 14, 1)
        with torch.no_grad():
            self.two.weight.mul_(3)
            assert self.two.bias is not None
            self.two.bias.copy_(torch.tensor([0.0, 0, 0, 0, 1, 1, 1] * 2))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.two(self.one(x).relu())
        return found


def test_a_detector_brings_its_decoding_and_chooses_the_same_boxes(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    net, task = detector()
    check = bundle(net.train(), task, tmp_path / "bundle", images=3)
    assert net.training
    assert net.eval() is net
    assert check.images == 3
    assert 0 < check.shades <= 1.01  # filters of two libraries
    assert check.same_labels > 0.95
    file = tmp_path / "image.png"
    Image.fromarray(task.data.test.images[0].permute(1, 2, 0).numpy()).save(file)  # type: ignore[union-attr]
    found = printed(tmp_path / "bundle", file)
    assert len(found) > 5
    with torch.no_grad():
        (wanted,) = task._shown(
            task.forward(net, secateur.task.Batch(task.made("test", torch.tensor([0]))[0], None, 1))
        )
    assert abs(len(found) - len(wanted)) <= 2
    path, label, score, *corners = found[0]
    assert (path, label) == (str(file), task.classes[int(wanted.labels[0])])
    assert float(score.rstrip("%")) / 100 == pytest.approx(float(wanted.scores[0]), abs=0.01)
    back = (wanted.corners[0] - torch.tensor([0, 12, 0, 12])).numpy()  # 64 by 40 in a square of 64
    assert np.allclose([float(c) for c in corners], back, atol=1)


@pytest.mark.parametrize("integer", [False, True])
@pytest.mark.parametrize("runtime", [one for one in ABLE if one.int8], ids=lambda one: one.name)
def test_int8(tmp_path: Path, runtime: Runtime, integer: bool) -> None:
    ready(runtime, int8=True)
    if integer and not runtime.integer:
        pytest.skip(f"{runtime.title} writes no such files")
    calibration = data().sample(6)
    check = bundle(network(), data(), tmp_path / "b", to=runtime.format, calibration=calibration, integer=integer)
    assert check.snr_db is not None
    assert check.snr_db > 10
    assert check.file.integer == integer
    assert "int8" in (tmp_path / "b/README.md").read_text()


def test_embedded_data_have_samples_and_a_cut_says_its_plan(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    digits = secateur.data.load("digits")
    small = secateur.prune(secateur.models.create("resnet_digits").eval(), digits.sample(4), ratio=0.5)
    bundle(small, digits, tmp_path / "bundle", images=4)
    assert read_metadata(tmp_path / "bundle/model.onnx")["params"] == [small.before.params, small.after.params]
    assert sorted(p.name for p in (tmp_path / "bundle/samples").iterdir()) == ["1.png", "2.png"]
    assert json.loads((tmp_path / "bundle/preprocessing.json").read_text())["channels"] == "L"


NONE = Split(torch.zeros(0, 3, 12, 10, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64))


class Deep(nn.Module):
    """Another number of classes."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))[:, :2]


@pytest.mark.parametrize(
    ("model", "of", "more", "kind", "message"),
    [
        (network(), data(), {"to": "onyx"}, UnknownNameError, "Did you mean 'onnx'"),
        (network(), data(), {"to": "executorch"}, InputError, "'executorch' files do not; there are bundles"),
        (network(), data(), {"images": 0}, InputError, "at least 1; got 0"),
        (Deep(), data(), {}, InputError, r"names of 3 classes, and the network's output has the shape \(1, 2\)"),
        (network(), data(("a", "b\nc", "d")), {}, InputError, r"the class 'b\\nc' is empty or has a line break"),
        (network(), data(("a", "", "d")), {}, InputError, r"the class '' is empty"),
        (network(), data(), {"integer": True}, InputError, "the format 'onnx' has none of; there are of litert"),
        (network(), replace(data(), test=NONE), {}, InputError, "tried on test images, and classification has none"),
    ],
)  # fmt: skip
def test_bad_requests(
    tmp_path: Path, model: nn.Module, of: DataSet, more: dict[str, Any], kind: type[SecateurError], message: str
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    with pytest.raises(kind, match=message):
        bundle(model, of, tmp_path / "bundle", **more)
    assert not list(tmp_path.iterdir())


def test_other_tasks_and_samples_are_refused(tmp_path: Path) -> None:
    import_torchvision()  # torchmetrics imports it, and would fail the way it does
    pytest.importorskip("torchmetrics")
    with pytest.raises(InputError, match="bundles for classification and detection; the task is 'multilabel'"):
        bundle(network(), MultiLabel(digits_with_labels(4, 2, 2)), tmp_path / "bundle")
    split = Split(torch.zeros(2, 3, 12, 10), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(InputError, match="decodes image files of 8 bits; the samples of classification are none"):
        bundle(network(), Classification(replace(data(), train=split, test=split)), tmp_path / "bundle")


def test_a_folder_that_exists_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    with pytest.raises(InputError, match="exists already; a bundle is a new folder"):
        bundle(network(), data(), tmp_path / "bundle")


def test_a_missing_package_is_said_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "missing", lambda names: [n for n in names if n == "ai_edge_litert"])
    with pytest.raises(InputError, match=r"bundle of the format 'litert' needs ai_edge_litert: pip install .*litert"):
        bundle(network(), data(), tmp_path / "bundle", to="litert")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('/ HOW["scale"]', '/ HOW["scale"] + 0.1', "prepares images otherwise than the task"),
        ("return session.run(None, {session.get_inputs()[0].name: x})", "return [np.zeros((1, 3), np.float32)]",
         "run.py differs from the network by"),
        ("import numpy as np", "import numpy as np\nimport torch", "does not run without PyTorch: .*torch"),
    ],
)  # fmt: skip
def test_a_script_that_is_wrong_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str, after: str, message: str
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    real = trial._ran

    def spoiled(folder: Path, images: list[Path]) -> Any:
        text = (folder / "run.py").read_text()
        assert before in text
        (folder / "run.py").write_text(text.replace(before, after))
        return real(folder, images)

    monkeypatch.setattr(trial, "_ran", spoiled)
    with pytest.raises(ExportError, match=message):
        bundle(network(), data(), tmp_path / "bundle")
    assert not list(tmp_path.iterdir())
