"""Segmentation: loss, metrics and augmentation against independent computations, and networks that go through it."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import secateur
from secateur.core.errors import InputError
from secateur.data.masks import MaskSet, MaskSplit, digits_with_masks
from secateur.models import create
from secateur.task import Segmentation, try_task
from secateur.task.segmentation import Confusion
from secateur.task.segmentation.augment import MaskAugment
from secateur.train import TrainConfig, evaluate, fit

ONE_EPOCH = TrainConfig(epochs=1, batch_size=4)


@pytest.fixture(scope="module")
def data() -> MaskSet:
    return digits_with_masks(8, 3, 4, side=32)


def one_pixel_at_a_time(scores: np.ndarray, mask: np.ndarray) -> float:
    """Mean of −log softmax over the pixels that are not 255, in float64."""
    losses = []
    for b, y, x in product(*map(range, mask.shape)):
        if mask[b, y, x] != 255:
            z = scores[b, :, y, x].astype(float)
            losses.append(math.log(np.exp(z).sum()) - z[mask[b, y, x]])
    return float(np.mean(losses))


def test_the_loss_leaves_ignored_pixels_out(data: MaskSet) -> None:
    task, scores = Segmentation(data), torch.randn(2, 11, 4, 4)
    mask = torch.randint(0, 11, (2, 4, 4))
    mask[0, :2] = 255
    out = one_pixel_at_a_time(scores.numpy(), mask.numpy())
    assert float(task.loss(scores, mask)) == pytest.approx(out, rel=1e-5)
    with_side_head = task.loss({"out": scores, "aux": 2 * scores}, mask)
    assert float(with_side_head) == pytest.approx(out + 0.4 * one_pixel_at_a_time(2 * scores.numpy(), mask.numpy()))
    assert float(task.loss(scores, torch.full_like(mask, 255))) == 0


def test_smaller_scores_are_scaled_up(data: MaskSet) -> None:
    scores, mask = torch.randn(1, 11, 2, 2), torch.randint(0, 11, (1, 4, 4))
    # align_corners=False of 2 → 4: weights of 1/4 and 3/4 within, the edge itself outside.
    weights = torch.tensor([[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])
    large = torch.einsum("yi,xj,bcij->bcyx", weights, weights, scores)
    wanted = one_pixel_at_a_time(large.numpy(), mask.numpy())
    assert float(Segmentation(data).loss(scores, mask)) == pytest.approx(wanted, rel=1e-5)


def test_mean_iou_by_sets_of_pixels() -> None:
    scores, mask = torch.randn(3, 5, 6, 6), torch.randint(0, 3, (3, 6, 6))
    scores[:, 4] = -9  # neither in masks nor predicted: it does not count
    mask[1, 0] = 255
    predicted, counted = scores.argmax(1), mask != 255
    ious = []
    for c in range(5):
        here, there = (predicted == c) & counted, mask == c
        if bool((here | there).any()):
            ious.append(int((here & there).sum()) / int((here | there).sum()))
    whole, parts = Confusion(5), [Confusion(5) for _ in range(3)]
    whole.add(scores, mask, 1.0, int(counted.sum()))
    for i, part in enumerate(parts):
        part.add(scores[i : i + 1], mask[i : i + 1], 1.0, int(counted[i].sum()))
    found = whole.compute()
    assert found["miou"] == pytest.approx(100 * sum(ious) / len(ious))
    assert found["pixel_accuracy"] == pytest.approx(100 * float((predicted == mask)[counted].double().mean()))
    summed = Confusion(5)
    summed.sums = sum(p.sums for p in parts)  # type: ignore[assignment, misc]
    assert summed.compute() == found
    assert len(ious) == 4


def test_distillation_is_the_divergence_per_pixel(data: MaskSet) -> None:
    student, teacher = torch.randn(2, 11, 3, 3, dtype=torch.float64), torch.randn(2, 11, 3, 3, dtype=torch.float64)
    p, q = ((t / 2).softmax(1) for t in (teacher, student))
    wanted = 4 * float((p * (p / q).log()).sum(1).mean())
    found = Segmentation(data).distillation({"out": student, "aux": student}, {"out": teacher}, 2.0)
    assert float(found) == pytest.approx(wanted, rel=1e-5)
    with pytest.raises(InputError, match="Student and teacher"):
        Segmentation(data).distillation(student, teacher[:, :3], 2.0)


def test_augmentation_moves_image_and_mask_alike() -> None:
    """The image carries its mask's numbers, so they have to agree wherever nothing was blended."""
    mask = torch.zeros(32, 32, dtype=torch.uint8)
    mask[8:24, 4:14] = 3
    image = mask.float().expand(1, 3, 32, 32).clone()
    change = MaskAugment(flip=0.5, scale=0.3, shift=0.2)
    for seed in range(12):
        moved, changed = change(image, mask, torch.Generator().manual_seed(seed))
        again = change(image, mask, torch.Generator().manual_seed(seed))
        assert torch.equal(moved, again[0])
        assert torch.equal(changed, again[1])
        assert set(changed.unique().tolist()) <= {0, 3, 255}
        inside = changed != 255
        assert float((moved[0, 0] - changed)[inside].abs().max()) <= 2.25, "half a pixel of blending at a corner"
        assert float((moved[0, 0] - changed)[inside].abs().mean()) < 0.15
    with pytest.raises(InputError, match="flip"):
        MaskAugment(flip=2)


def test_augmentation_scales_about_the_centre() -> None:
    mask = torch.zeros(64, 64, dtype=torch.uint8)
    mask[24:40, 24:40] = 1
    areas = []
    for seed in range(40):
        areas.append(
            int((MaskAugment(flip=0, scale=0.5, shift=0)(torch.zeros(1, 3, 64, 64), mask,
                                                         torch.Generator().manual_seed(seed))[1] == 1).sum())
        )  # fmt: skip
    assert 60 < min(areas) < 140
    assert 400 < max(areas) <= 600


def test_a_run_trains_prunes_and_is_scored(data: MaskSet) -> None:
    task = Segmentation(data, flip=0)
    network = create("unet", classes=11, width=4, depth=2)
    try_task(task, network)
    history = fit(network, task, ONE_EPOCH, progress=False)
    assert set(history.epochs[0].validation) == {"miou", "pixel_accuracy", "loss"}
    small = secateur.prune(network, task.sample(2), macs=0.5, data=task)
    assert small.after.macs <= 0.5 * small.before.macs
    assert small.verification is not None
    assert small.verification.max_relative_error < 1e-9
    found = evaluate(small, task)
    assert found.samples == 4
    assert 0 <= found.metrics["miou"] <= 100


def test_epochs_repeat_and_shares_make_the_whole(data: MaskSet) -> None:
    from secateur.task import Epoch

    task = Segmentation(data)
    one, two = ([b.inputs for b in task.training(Epoch((0, 1), 4))] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    other = [b.inputs for b in task.training(Epoch((0, 2), 4))]
    assert not torch.equal(one[0], other[0])
    halves = [b.inputs for rank in range(2) for b in task.evaluation("test", share=(rank, 2))]
    assert sum(map(len, halves)) == 4
    shares = [sum(b.size for b in task.training(Epoch((0, 1), 4, rank=r, processes=2))) for r in range(2)]
    assert shares == [4, 4]


def test_what_does_not_fit_is_named(data: MaskSet) -> None:
    with pytest.raises(InputError, match="scores of 5 classes and the masks have 11"):
        try_task(Segmentation(data), create("unet", classes=5, width=2, depth=1), train=False)
    with pytest.raises(InputError, match=r"wants scores \(B, classes, H, W\)"):
        Segmentation(data).loss(torch.zeros(2, 11), torch.zeros(2, 4, 4).long())
    sizes = [torch.zeros(3, s, 16, dtype=torch.uint8) for s in (16, 24)]
    split = MaskSplit.of(sizes, [s[0] for s in sizes])
    with pytest.raises(InputError, match=r"2 sizes .*Segmentation\(size="):
        Segmentation(MaskSet("two", ("a", "b"), split, split, split))
    task = Segmentation(MaskSet("two", ("a", "b"), split, split, split), size=16)
    inputs, masks = task.made("train", torch.tensor([0, 1]))
    assert inputs.shape == (2, 3, 16, 16)
    assert masks.shape == (2, 16, 16)


class ByHand(torch.nn.Module):
    """Right everywhere: the mask is in the image."""

    def forward(self, x: Tensor) -> Tensor:
        return F.one_hot((x[:, 0] > 0).long(), 2).permute(0, 3, 1, 2).float()


def test_a_network_that_is_right_gets_everything() -> None:
    images = [(torch.rand(8, 8) > 0.5).to(torch.uint8).mul(255).expand(3, 8, 8).clone() for _ in range(3)]
    split = MaskSplit.of(images, [(i[0] > 0).to(torch.uint8) for i in images])
    found = evaluate(ByHand(), Segmentation(MaskSet("own", ("a", "b"), split, split, split)))
    assert found.metrics["miou"] == found.metrics["pixel_accuracy"] == 100


SIX = ("fcn_resnet50", "fcn_resnet101", "deeplabv3_resnet50", "deeplabv3_resnet101", "deeplabv3_mobilenet_v3_large",
       "lraspp_mobilenet_v3_large")  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", SIX)
def test_networks_of_torchvision(name: str) -> None:
    """One step of training, half the multiply-accumulates, verified, scored; the numbers mean nothing."""
    task = Segmentation(digits_with_masks(2, 1, 1, side=32), flip=0)
    network = create(f"torchvision:{name}", **task.options(f"torchvision:{name}"))
    history = fit(network, task, TrainConfig(epochs=1, batch_size=2, lr=1e-4), progress=False)
    assert history.epochs[0].train["loss"] > 0
    small = secateur.prune(network, task.sample(1), macs=0.5)
    assert small.after.macs <= 0.505 * small.before.macs
    assert small.verification is not None
    assert small.verification.max_relative_error < 1e-6
    assert math.isfinite(evaluate(small, task).metrics["miou"])
