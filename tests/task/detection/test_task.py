"""Detection as a task: batches, loss, metrics, distillation, what the report shows, and the recipe."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("faster_coco_eval")

import secateur
from secateur.core.errors import InputError
from secateur.data.boxes import BoxSplit, digits_on_canvas
from secateur.models import create
from secateur.recipe.sameness import differences, numbers
from secateur.task import TASKS, Detection, Epoch, Request, try_task
from secateur.task.detection import YoloLoss
from secateur.train import TrainConfig


def task(**settings: Any) -> Detection:
    return Detection(digits_on_canvas(12, 4, 6), **{"size": 64, "flip": 0.0, **settings})


def network(found: Detection) -> nn.Module:
    torch.manual_seed(0)
    return create("yolov3_tiny", **found.options("yolov3_tiny"))


def test_an_epoch_depends_on_its_seeds_alone_and_processes_share_it() -> None:
    found = task()
    one, again = (list(found.training(Epoch((0, "t", 1), 4))) for _ in range(2))
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(one, again, strict=True))
    other = next(found.training(Epoch((0, "t", 2), 4)))
    assert not torch.equal(one[0].inputs, other.inputs)
    parts = [list(found.training(Epoch((0, "t", 1), 4, rank=rank, processes=2))) for rank in (0, 1)]
    assert torch.equal(parts[0][0].inputs[0], one[0].inputs[0]), "the augmentation of an image is its own"
    assert sum(batch.size for part in parts for batch in part) == sum(batch.size for batch in one) == 12
    assert found.steps(4) == len(one) == 3


def test_the_loss_is_that_of_yolov3_and_metrics_are_in_percent() -> None:
    found = task()
    model = network(found)
    try_task(found, model)
    batch = next(iter(found.evaluation("test", batch_size=3)))
    assert (batch.size, tuple(batch.inputs.shape)) == (3, (3, 3, 64, 64))
    output = found.forward(model.eval(), batch)
    wanted = YoloLoss(model.detections)(output, batch.target, (64, 64)).total
    assert torch.equal(found.loss(output, batch.target), wanted)
    quality = secateur.evaluate(model, found)
    assert quality.samples == 6
    assert 0 <= quality.map <= quality.map50 <= 100
    perfect = found.meter()
    for part in found.evaluation("test"):
        maps = [torch.full_like(o, -20.0) for o in found.forward(model, part)]
        perfect.update(maps, part.target, part.size)
    assert perfect.compute()["map50"] == 0, "nothing is found where no anchor sees an object"


def test_a_cut_network_needs_no_detections_of_its_own() -> None:
    found = task()
    model = network(found)
    found.forward(model, next(iter(found.evaluation("test"))))
    small = secateur.prune(model, found.sample(2), ratio=0.5, backend="graph").model
    assert not hasattr(small, "detections")
    assert secateur.evaluate(small, found).samples == 6
    with pytest.raises(InputError, match=r"scales=dense\.detections"):
        secateur.evaluate(small, task())


def test_distillation_is_nothing_between_equals_and_pulls_towards_the_teacher() -> None:
    found = task()
    model = network(found)
    batch = next(iter(found.evaluation("train", batch_size=4)))
    maps = found.forward(model.eval(), batch)
    found.loss(maps, batch.target)
    student = [m.detach().clone().requires_grad_() for m in maps]
    teacher = [m.detach() for m in maps]
    loss = found.distillation(student, teacher, 1.0)
    gradients = torch.autograd.grad(loss, student)
    assert max(float(g.abs().max()) for g in gradients) < 1e-6, "a minimum, where the two agree"
    moved = [m + 0.1 for m in student]
    assert found.distillation(moved, teacher, 1.0).item() > loss.item()


def by_hand(student: Tensor, teacher: Tensor, classes: int, anchors: int) -> tuple[float, float]:
    """The sums of one map, place by place in float64."""
    total = objects = 0.0
    s, t = (m.double().view(len(m), anchors, 5 + classes, -1) for m in (student, teacher))
    for index in range(len(s)):
        for a in range(anchors):
            for cell in range(s.shape[-1]):
                x, y = s[index, a, :, cell], t[index, a, :, cell]
                sure = float(y[4].sigmoid())
                bce = nn.functional.binary_cross_entropy_with_logits
                total += float(bce(x[4], y[4].sigmoid())) + sure * float((x[:4] - y[:4]).square().sum())
                total += sure * float(bce(x[5:], y[5:].sigmoid(), reduction="sum"))
                objects += sure
    return total, objects


def test_distillation_by_hand() -> None:
    found = task()
    model = network(found)
    found.forward(model, next(iter(found.evaluation("test"))))
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(1, 3 * 15, side, side, generator=generator) for side in (2, 4)]
    other = [torch.randn(m.shape, generator=generator) for m in maps]
    sums = [by_hand(a, b, 10, 3) for a, b in zip(maps, other, strict=True)]
    wanted = sum(a for a, _ in sums) / max(1.0, sum(b for _, b in sums))
    assert float(found.distillation(maps, other, 1.0)) == pytest.approx(wanted, rel=1e-5)


def test_what_cannot_be() -> None:
    with pytest.raises(InputError, match="multiple of 32"):
        task(size=50)
    empty = dataclasses.replace(digits_on_canvas(4, 2, 2), test=BoxSplit((), (), ()))
    with pytest.raises(InputError, match="has no images in its test split"):
        secateur.evaluate(create("yolov3_tiny", classes=10), Detection(empty, size=64))
    with pytest.raises(InputError, match="mixup blends class labels"):
        secateur.fit(create("yolov3_tiny", classes=10), task(), TrainConfig(epochs=1, mixup=0.2))
    with pytest.raises(InputError, match="label_smoothing is for class labels"):
        secateur.fit(create("yolov3_tiny", classes=10), task(), TrainConfig(epochs=1, label_smoothing=0.1))
    with pytest.raises(InputError, match="the network tells 3 classes apart"):
        try_task(task(), create("yolov3_tiny", classes=3, anchors=None))


def test_by_name_with_options() -> None:
    found = TASKS["detection"].open(Request("digits", limit=5), mosaic=0.5)
    assert (found.samples("train"), found.size) == (5, 64)
    assert "64×64" in found.describe()
    assert found.fingerprint("train") != found.fingerprint("test")


def test_the_recipe_prunes_a_detector(tmp_path: Path) -> None:
    toy = {"data.limit": 12, "steps.measure.runtimes": "[]", "steps.prune.params": 0.5}
    whole = secateur.run("yolo-layers-channels", tmp_path / "a", model="yolov3_tiny", epochs=1, set=toy)
    results = json.loads((whole.folder / "results.json").read_text())
    pruned = next(n["measurement"] for n in results["networks"] if n["role"] == "pruned")
    dense = next(n["measurement"] for n in results["networks"] if n["role"] == "dense")
    assert pruned["params"] == pytest.approx(0.5 * dense["params"], rel=0.01)
    assert set(pruned["quality"]) == {"map50", "map", "loss"}
    assert [metric["name"] for metric in results["metrics"]] == ["map50", "map"]
    roles = {picture["role"] for picture in results["shown"]["pictures"]}
    assert roles == {"labels", "dense", "pruned"}
    assert len(results["shown"]["charts"][0]["lines"]) == 2
    assert results["shown"]["headers"] == ["AP@.5 by class", "dense", "pruned"]
    assert [stage["step"] for stage in results["stages"]] == ["01-adapt", "03-prune", "04-recover", "05-finetune"]
    assert results["stages"][-1]["quality"] == pruned["quality"]
    page = (whole.folder / "report.html").read_text()
    assert "Precision over recall" in page
    assert page.count('<image href="data:image/png;base64,') == 12
    assert any("no residual branch" in note for note in results["notes"])

    class Stop(Exception):
        pass

    def stop(event: Any) -> None:
        if event.what == "begin" and event.kind == "finetune":
            raise Stop

    options: Any = {"model": "yolov3_tiny", "epochs": 1, "set": toy}
    with pytest.raises(Stop):
        secateur.run("yolo-layers-channels", tmp_path / "b", on_event=stop, **options)
    secateur.resume(tmp_path / "b")
    assert differences(numbers(whole.folder), numbers(tmp_path / "b")) == []
