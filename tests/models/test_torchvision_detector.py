"""torchvision's detectors as networks of one tensor."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import secateur
from secateur.core.errors import InputError, UnknownNameError
from secateur.models import TorchvisionDetector, create, import_torchvision
from secateur.task.detection.operators import runnable

SMALL: dict[str, dict[str, Any]] = {
    "ssdlite320_mobilenet_v3_large": {},
    "fasterrcnn_mobilenet_v3_large_320_fpn": {"min_size": 64, "max_size": 96, "regions": 6},
    "retinanet_resnet50_fpn": {"min_size": 64, "max_size": 96},
    "fcos_resnet50_fpn": {"min_size": 64, "max_size": 96},
}


def detector(name: str) -> TorchvisionDetector:
    torch.manual_seed(0)
    made = create(f"torchvision:{name}", classes=3, **SMALL[name])
    assert isinstance(made, TorchvisionDetector)
    return made.eval()


@pytest.mark.parametrize("size", [(64, 64), (48, 80), (40, 100), (131, 67)])
@pytest.mark.parametrize("name", list(SMALL))
def test_images_are_prepared_as_torchvision_does(name: str, size: tuple[int, int]) -> None:
    network, images = detector(name), torch.rand(2, 3, *size)
    wanted = network.detector.transform(list(images))[0].tensors
    torch.testing.assert_close(network._prepared(images), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", list(SMALL))
def test_maps_are_what_its_own_heads_say(name: str) -> None:
    """Hooks on the heads, while torchvision's own forward runs, see what the tensor call gives."""
    network, images, seen = detector(name), torch.rand(2, 3, 64, 80), []
    inner = network.detector
    head = inner.rpn.head if hasattr(inner, "rpn") else inner.head
    hook = head.register_forward_hook(lambda module, given, result: seen.append(result))
    with runnable(), torch.no_grad():
        inner(list(images))
        hook.remove()
        maps = network(images)
    result = seen[0]
    wanted = list(result.values()) if isinstance(result, dict) else [t for part in result for t in part]
    for one, other in zip(maps, wanted, strict=False):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert len(maps) == len(wanted) + (2 if hasattr(inner, "rpn") else 0)


def test_second_stage_counts_as_in_use() -> None:
    network = create("torchvision:fasterrcnn_mobilenet_v3_large_320_fpn", classes=3).eval()
    scores, boxes = network(torch.rand(1, 3, 64, 64))[-2:]
    regions = network.detector.rpn.post_nms_top_n()  # type: ignore[union-attr, operator]
    assert scores.shape == (regions, 4)
    assert boxes.shape == (regions, 16)


@pytest.mark.parametrize("name", list(SMALL))
def test_heads_are_cut_and_torchvisions_class_lives(name: str) -> None:
    network = detector(name)
    small = secateur.prune(network, torch.rand(2, 3, 64, 64), ratio=0.4)
    assert isinstance(small.model, TorchvisionDetector)
    assert small.lost == ()
    assert type(small.model.detector) is type(network.detector)
    heads = {n: p.numel() for n, p in network.named_parameters() if "head" in n}
    left = {n: p.numel() for n, p in small.model.named_parameters() if "head" in n}
    assert sum(left.values()) < 0.75 * sum(heads.values())
    with runnable(), torch.no_grad():
        (found,) = small.model([torch.rand(3, 50, 70)])  # torchvision's own call, with images of any size
    assert set(found) == {"boxes", "labels", "scores"}


def test_own_weights_for_other_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fits comes from torchvision's weights, frozen batch norm among it; what tells classes apart is new."""
    models = import_torchvision().models
    name = "fasterrcnn_resnet50_fpn"
    frozen = import_torchvision().ops.FrozenBatchNorm2d
    trained = models.detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    for path, module in list(trained.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            trained.set_submodule(path, frozen(module.num_features, eps=0.0))
    own = models.get_model
    monkeypatch.setattr(
        models, "get_model", lambda n, weights, **o: own(n, weights=None, **o) if weights is None else trained
    )
    network = create(f"torchvision:{name}", classes=3, weights="DEFAULT")
    assert isinstance(network, TorchvisionDetector)
    state, wanted = network.detector.state_dict(), trained.state_dict()
    new = [key for key, value in state.items() if value.shape != wanted[key].shape]
    assert new == [f"roi_heads.box_predictor.{k}.{w}" for k in ("cls_score", "bbox_pred") for w in ("weight", "bias")]
    assert all(torch.equal(state[key], wanted[key]) for key in state if key not in new)
    norms = [m for m in network.modules() if isinstance(m, frozen)]
    assert len(norms) > 50
    assert all(norm.eps == 0.0 for norm in norms)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in network.modules())


def test_wrong_ones_are_told() -> None:
    with pytest.raises(InputError, match=r"a detector of torchvision .* got Linear"):
        TorchvisionDetector(nn.Linear(2, 2))
    with pytest.raises(UnknownNameError, match="COCO_V1"):
        create("torchvision:fcos_resnet50_fpn", weights="COCO_V9")
    with pytest.raises(UnknownNameError, match=r"min_sise.*min_size"):
        create("torchvision:fcos_resnet50_fpn", min_sise=3)
