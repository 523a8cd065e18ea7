"""The examples run and say what the documentation says of them."""

from __future__ import annotations

import importlib.util
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import secateur
from secateur.graph.ops import OPERATORS

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
BENCHMARKS = EXAMPLES.parent / "benchmarks"


def test_custom_operator(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        runpy.run_path(str(EXAMPLES / "custom_operator.py"), run_name="__main__")
    finally:
        OPERATORS.remove("garden.scaled_swish")  # or other tests in this process find its rule there
    out = capsys.readouterr().out
    assert "garden.scaled_swish.default in (top level) (no rule for this operator)" in out
    assert "With the rule: Pruned(1,044 → 524 parameters" in out


WITH_ULTRALYTICS = """
import runpy, sys
from pathlib import Path

out, benchmarks = Path(sys.argv[1]), sys.argv[2]
sys.path.insert(0, benchmarks)
import yolo

yolo.example()  # its settings in a temporary folder, no telemetry
sys.argv = [str(yolo.EXAMPLE), "yolov8n.yaml", str(out / "80.yaml"), "--epochs=1", "--imgsz=64", "--batch=2",
            f"--out={out}"]
example = runpy.run_path(str(yolo.EXAMPLE), run_name="__main__")
trainer = example["PrunedTrainer"]
import secateur, torch
from ultralytics import YOLO
from ultralytics.models.yolo.obb import OBBTrainer
from ultralytics.models.yolo.segment import SegmentationTrainer

options = {"epochs": 1, "imgsz": 64, "batch": 2, "workers": 0, "plots": False, "project": out}
for name, base in (("yolov8n-seg", SegmentationTrainer), ("yolov8n-obb", OBBTrainer)):
    model = YOLO(f"{name}.yaml")
    example["adopt"](model, secateur.prune(model.model, torch.randn(1, 3, 64, 64), ratio=0.5))
    before = example["size"](model.model)
    model.train(trainer=type("Own", (example["StaysPruned"], base), {}), data=out / "80.yaml", **options)
    print(name, before, example["size"](model.model))

best = out / "train/weights/best.pt"
for network, classes, kind in ((best, 80, None), ("yolov8n.yaml", 80, trainer), (best, 3, trainer)):
    try:
        YOLO(network).train(trainer=kind, data=out / f"{classes}.yaml", **options)
    except (KeyError, ValueError) as error:
        print(type(error).__name__, error.args[0])
assert best.with_suffix(".onnx").is_file() and (out / "artifact/plan.json").is_file()
"""


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("ultralytics", "onnx", "cv2")),
    reason="ultralytics (AGPL, no dependency) and onnx are not installed here",
)
def test_ultralytics_trainer(tmp_path: Path) -> None:
    """YOLOv8n on four images of noise: it stays pruned, and trainers that would rebuild it are stopped."""
    _four_images(tmp_path)
    command = [sys.executable, "-c", WITH_ULTRALYTICS, str(tmp_path), str(BENCHMARKS)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "parameters: 3,157,200 dense, 1,024,200 pruned, 1,024,200 trained" in done.stdout
    assert "checkpoint: 1,024,200 parameters, artifact: 1,024,200" in done.stdout
    assert "yolov8n-seg 1130440 1130440" in done.stdout
    assert "yolov8n-obb 1058307 1058307" in done.stdout
    stopped, empty, classes = [line for line in done.stdout.splitlines() if line.startswith(("KeyError", "ValueError"))]
    assert stopped.startswith("KeyError this network was pruned, its yaml has the dense widths")
    assert empty.startswith("ValueError PrunedTrainer got no pruned network.")
    assert classes.startswith("ValueError The data have 3 classes, the pruned network 80.")


def _four_images(folder: Path) -> None:
    """A data set with a square on each, and its descriptions with 80 and with 3 classes."""
    from PIL import Image

    for part in ("images", "labels"):
        (folder / part).mkdir()
    for i in range(4):
        noise = np.random.default_rng(i).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"images/{i}.png")
        (folder / f"labels/{i}.txt").write_text(f"{i % 3} 0.2 0.2 0.8 0.2 0.8 0.8 0.2 0.8\n")
    for classes in (80, 3):
        names = "".join(f"  {i}: c{i}\n" for i in range(classes))
        (folder / f"{classes}.yaml").write_text(f"path: {folder}\ntrain: images\nval: images\nnames:\n{names}")


def test_every_public_name_is_there() -> None:
    for name in secateur.__all__:
        assert getattr(secateur, name) is not None
    with pytest.raises(AttributeError, match="prun"):
        _ = secateur.prun
