"""torchvision's detectors under the task of detection: they train, are cut with their heads, and are scored."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("faster_coco_eval")

import secateur
from secateur.core.errors import InputError
from secateur.data.boxes import digits_on_canvas
from secateur.models import TorchvisionDetector, create
from secateur.task import Detection
from secateur.task.detection.operators import runnable
from secateur.timing import Entrant
from secateur.timing.quality import quality, scores
from secateur.train import TrainConfig

SMALL: dict[str, dict[str, Any]] = {
    "ssdlite320_mobilenet_v3_large": {},
    "fasterrcnn_mobilenet_v3_large_320_fpn": {
        "min_size": 64,
        "max_size": 64,
        "rpn_pre_nms_top_n_train": 50,
        "rpn_post_nms_top_n_train": 20,
        "rpn_post_nms_top_n_test": 10,
        "box_batch_size_per_image": 16,
    },
    "retinanet_resnet50_fpn": {"min_size": 64, "max_size": 64},
    "fcos_resnet50_fpn": {"min_size": 64, "max_size": 64},
}
CONFIG = TrainConfig(epochs=1, batch_size=2, lr=1e-4, optimizer="adamw")


def task() -> Detection:
    return Detection(digits_on_canvas(4, 2, 3), size=64, flip=0.0, mosaic=0.0)


def network(found: Detection, name: str) -> TorchvisionDetector:
    torch.manual_seed(0)
    made = create(f"torchvision:{name}", **found.options(f"torchvision:{name}"), **SMALL[name])
    assert isinstance(made, TorchvisionDetector)
    return made.eval()


@pytest.mark.parametrize("name", list(SMALL))
def test_they_train_are_cut_train_on_and_are_scored(name: str) -> None:
    found = task()
    model = network(found, name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    history = secateur.fit(model, found, CONFIG)
    assert history.epochs[-1].train["loss"] > 0
    assert any(not torch.equal(value, before[key]) for key, value in model.state_dict().items() if "head" in key)
    small = secateur.prune(model, found.sample(2), ratio=0.4)
    assert isinstance(small.model, TorchvisionDetector)
    secateur.fit(small.model, found, CONFIG)
    scored = secateur.evaluate(small.model, found)
    assert 0 <= scored.map <= scored.map50 <= 100
    assert "loss" not in scored.metrics


def test_the_same_seeds_train_the_same_network() -> None:
    """Anchors and regions are drawn at random inside; the engine seeds what they are drawn from."""
    found = task()
    states = []
    for _ in range(2):
        model = network(found, "fasterrcnn_mobilenet_v3_large_320_fpn")
        torch.manual_seed(torch.randint(1000, ()).item())
        secateur.fit(model, found, CONFIG, seed=3)
        states.append(model.state_dict())
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_a_class_more_is_the_background() -> None:
    found = task()
    model = network(found, "ssdlite320_mobilenet_v3_large")
    batch = next(iter(found.evaluation("test")))
    seen: list[Any] = []
    model.detector.register_forward_pre_hook(lambda module, args: seen.append(args))
    model.train()
    losses = found.forward(model, batch)
    total = found.loss(losses, batch.target)
    assert total is not None
    assert torch.isclose(total, sum(losses.values()))
    targets = seen[0][1]
    for target, boxes in zip(targets, batch.target, strict=True):
        assert target["labels"].tolist() == (boxes.labels + 1).tolist()
        assert torch.equal(target["boxes"], boxes.corners)


@pytest.mark.parametrize("name", ["ssdlite320_mobilenet_v3_large", "retinanet_resnet50_fpn", "fcos_resnet50_fpn"])
def test_maps_of_a_file_are_scored_as_the_network_is(name: str) -> None:
    found = task()
    model = network(found, name)
    for part in model.modules():  # scores that differ, so that boxes come through
        if isinstance(part, nn.Conv2d) and part.bias is not None and part.bias.abs().max() > 4:
            nn.init.normal_(part.bias, -1.0, 0.5)
    batch = next(iter(found.evaluation("test")))
    with torch.no_grad():
        wanted = found.forward(model, batch)
        got = found.finished(model, model(batch.inputs), batch)
    assert sum(map(len, wanted)) > 0
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one.scores, other.scores, rtol=1e-4, atol=1e-5)
        assert len(one) == len(other) <= 100
    entrant = Entrant("net", model, "pytorch")
    assert quality(entrant, found, samples=3).map50 == pytest.approx(secateur.evaluate(model, found).map50, abs=0.5)


def test_files_of_two_stages_are_not_scored() -> None:
    found = task()
    model = network(found, "fasterrcnn_mobilenet_v3_large_320_fpn")
    entrant = Entrant("net", model, "pytorch")
    assert scores([entrant], found, samples=2) == {}
    with pytest.raises(InputError, match="two-stage detector"):
        quality(entrant, found, samples=2)


def test_what_does_not_go_is_told() -> None:
    found = task()
    model = network(found, "fasterrcnn_mobilenet_v3_large_320_fpn")
    with pytest.raises(InputError, match=r"secateur\.models.TorchvisionDetector"):
        secateur.evaluate(model.detector, found)
    with runnable(), pytest.raises(secateur.SecateurError, match=r"secateur\.models.TorchvisionDetector"):
        secateur.prune(model.detector, ([torch.rand(3, 64, 64)],), ratio=0.3)
    with pytest.raises(InputError, match="criteria that need gradients"):
        secateur.prune(model, found.sample(2), ratio=0.3, criterion="taylor", data=found)
    batch = next(iter(found.evaluation("test")))
    with pytest.raises(InputError, match="cannot be distilled"):
        found.distillation(found.forward(model, batch), found.forward(model, batch), 1.0)


def test_an_image_without_boxes_trains() -> None:
    found = task()
    model = network(found, "retinanet_resnet50_fpn").train()
    batch = next(iter(found.evaluation("test")))
    nothing = type(batch.target[0])(
        torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool)
    )
    batch.target[0] = nothing
    loss = found.loss(found.forward(model, batch), batch.target)
    assert loss is not None
    assert bool(loss.isfinite())


def test_masks_are_not_trained_in_silence() -> None:
    found = task()
    model = create("torchvision:maskrcnn_resnet50_fpn", classes=10, min_size=64, max_size=64).train()
    batch = next(iter(found.evaluation("test")))
    with pytest.raises(InputError, match="boxes and no masks"):
        found.forward(model, batch)
