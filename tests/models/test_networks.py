"""MobileNetV3, GoogLeNet and SqueezeNet: published parameter counts, torchvision's names and values, small forms."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from secateur.models import MODELS, create
from secateur.models.googlenet import TABLE
from secateur.models.mobilenetv3 import MobileNetV3
from secateur.models.squeezenet import SqueezeNet

TWINS = [
    ("mobilenetv3_small", "mobilenet_v3_small", 2_542_856),
    ("mobilenetv3_large", "mobilenet_v3_large", 5_483_032),
    ("googlenet", "googlenet", 6_624_904),
    ("squeezenet1.0", "squeezenet1_0", 1_248_424),
    ("squeezenet1.1", "squeezenet1_1", 1_235_496),
]


def params(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("name", "twin", "count"), TWINS)
def test_imagenet_forms_are_torchvisions(name: str, twin: str, count: int) -> None:
    options = {"aux_logits": False, "init_weights": False} if twin == "googlenet" else {}
    ours, theirs = create(name).eval(), create(f"torchvision:{twin}", **options).eval()
    assert params(ours) == count
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images))


@pytest.mark.parametrize(("form", "rows"), [("small", 11), ("large", 15)])
def test_cifar_form_is_the_same_network_with_larger_maps(form: str, rows: int) -> None:
    small, full = create(f"mobilenetv3_{form}_cifar", classes=1000), create(f"mobilenetv3_{form}")
    assert {k: v.shape for k, v in small.state_dict().items()} == {k: v.shape for k, v in full.state_dict().items()}
    assert len(small.features) == rows + 2
    assert small.features(torch.randn(2, 3, 32, 32)).shape[2:] == (4, 4)
    assert full.features(torch.randn(2, 3, 32, 32)).shape[2:] == (1, 1)


def test_googlenet_counts_follow_the_papers_table() -> None:
    inputs, total = 192, 3 * 192 * 9 + 2 * 192  # the CIFAR stem and its normalisation
    for _, (one, reduce3, three, reduce5, five, pooled) in TABLE:
        weights = inputs * (one + reduce3 + reduce5 + pooled) + 9 * (reduce3 * three + reduce5 * five)
        total += weights + 2 * (one + reduce3 + three + reduce5 + five + pooled)
        inputs = one + three + five + pooled
    assert params(create("googlenet_cifar")) == total + 1024 * 10 + 10
    assert inputs == 1024


def test_small_stems_keep_the_resolution() -> None:
    images, sizes = torch.randn(1, 3, 32, 32), {}
    net = create("googlenet_cifar").eval()
    net.inception5b.register_forward_hook(lambda *found: sizes.update(google=tuple(found[2].shape)))
    net(images)
    assert sizes["google"] == (1, 1024, 8, 8)
    assert create("squeezenet_cifar").features(images).shape == (1, 512, 8, 8)


@pytest.mark.parametrize(
    "name", ["mobilenetv3_small_cifar", "mobilenetv3_digits", "googlenet_cifar", "squeezenet_cifar"]
)
def test_small_forms_export_with_a_dynamic_batch(name: str) -> None:
    model, shape = create(name).eval(), MODELS[name].shape
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(model, (torch.randn(3, *shape),), dynamic_shapes=({0: batch},))
    images = torch.randn(5, *shape)
    torch.testing.assert_close(program.module()(images), model(images))


def test_wrong_forms_are_refused() -> None:
    with pytest.raises(ValueError, match="large, small, tiny; got 'medium'"):
        MobileNetV3("medium")
    with pytest.raises(ValueError, match="up to 5 strides; got 6"):
        MobileNetV3("small", strides=6)
    with pytest.raises(ValueError, match=r"1\.0 or 1\.1; got '2'"):
        SqueezeNet("2")
