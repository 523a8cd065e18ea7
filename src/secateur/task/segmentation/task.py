"""Semantic segmentation: images with masks, cross-entropy per pixel, mean intersection over union."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from secateur.core.errors import InputError
from secateur.core.metric import Metric
from secateur.core.seeds import generator
from secateur.data.masks import IGNORED, MaskSet, MaskSplit, digits_with_masks, load_masks
from secateur.data.types import IMAGENET
from secateur.task.batch import shapes
from secateur.task.classification import soft_cross_entropy
from secateur.task.numbered import NumberedTask
from secateur.task.registry import TASKS, Request, TaskKind
from secateur.task.segmentation.augment import MaskAugment
from secateur.task.segmentation.confusion import Confusion

__all__ = ["MIOU", "PIXELS", "Segmentation"]

MIOU = Metric(better="higher", format="percent", title="mIoU", name="miou")
PIXELS = Metric(better="higher", format="percent", title="Pixel accuracy", name="pixel_accuracy")

_AUX = 0.4
"""Weight of torchvision's side head in training (references/segmentation/train.py, criterion)."""


class Segmentation(NumberedTask):
    """A class for every pixel.

    The network gives scores (B, classes, H, W), or a dict of them with ``out`` and perhaps ``aux`` (torchvision's side
    head, which counts 0.4 in training). Scores that are smaller than the mask are scaled up to it, bilinear.

    Args:
        data: Images with masks, from :func:`secateur.data.masks.load_masks`.
        size: Pixels of a side that images (bilinear) and masks (nearest) are scaled to; by default their own size,
            which then has to be one for all.
        flip: Share of training images that are mirrored.
        scale: Training images are scaled by a factor within 1 ± this.
        shift: … and moved by up to this share of their sides; what comes in from outside is ignored.

    Attributes:
        data: The same.
        size: (H, W) of the network's inputs.

    Raises:
        InputError: Images of several sizes and no ``size``, or an amount of augmentation that is no share.
    """

    name = "segmentation"
    unit = "image"
    largest = 16  # more pixels than where 500 samples make a batch
    metrics = (MIOU, PIXELS)

    def __init__(
        self, data: MaskSet, *, size: int | None = None, flip: float = 0.5, scale: float = 0.2, shift: float = 0.1
    ) -> None:
        """Images are decoded when they are asked for."""
        super().__init__()
        self.data, self.classes = data, data.classes
        self.size = _size(data, size)
        self._augment = MaskAugment(flip=flip, scale=scale, shift=shift)

    def loss(self, output: Any, target: Tensor) -> Tensor:
        """Cross-entropy of the pixels that are not ignored, their mean; 0 where all are.

        Formula: ℓ(out) + 0.4 · ℓ(aux), ℓ(z) = −1/N Σ log softmax(z)[mask].

        Args:
            output: Scores (B, classes, h, w), or a dict with ``out`` and perhaps ``aux``.
            target: int64, (B, H, W), 255 where ignored.
        """
        parts = _parts(output)
        loss = _cross_entropy(parts["out"], target)
        return loss + _AUX * _cross_entropy(parts["aux"], target) if "aux" in parts else loss

    def predictions(self, output: Any) -> Tensor:
        """The scores, float32, at the images' size: (B, classes, H, W)."""
        return _upsampled(_parts(output)["out"], self.size)

    def distillation(self, output: Any, wanted: Any, temperature: float) -> Tensor:
        """T²·KL(softmax(t/T) ‖ softmax(z/T)), the mean over pixels; the side head has no say."""
        student, teacher = _parts(output)["out"], _parts(wanted)["out"]
        if student.shape != teacher.shape:
            raise InputError(f"Student and teacher give scores of {shapes(student)} and {shapes(teacher)}; wanted one.")
        return soft_cross_entropy(student, teacher, temperature)

    def meter(self) -> _Meter:
        """Sums of cross-entropy and a confusion matrix."""
        return _Meter(self)

    def count(self, split: str) -> int:
        """Images of a split."""
        return len(self._split(split))

    def made(self, split: str, index: Tensor, seeds: tuple[object, ...] | None = None) -> tuple[Tensor, Tensor]:
        """Normalised images, float32 (B, 3, H, W), and masks, int64 (B, H, W)."""
        images, masks = [], []
        for number in index.tolist():
            pixels, mask = self._split(split)[number]
            image = pixels[None].float() / 255
            if tuple(pixels.shape[1:]) != self.size:
                image = F.interpolate(image, self.size, mode="bilinear", antialias=True)
                mask = F.interpolate(mask[None, None], self.size, mode="nearest")[0, 0]
            if seeds is not None:
                image, mask = self._augment(image, mask, generator(*seeds, number))
            images.append(image)
            masks.append(mask.long())
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in IMAGENET)
        return (torch.cat(images) - mean) / std, torch.stack(masks)

    def options(self, model: str) -> dict[str, Any]:
        """The classes of the built-in network and of torchvision's; of the latter no downloaded backbone."""
        if model.startswith("torchvision:"):
            return {"classes": len(self.classes), "weights_backbone": None}
        return {"classes": len(self.classes)} if model == "unet" else {}

    def settings(self) -> dict[str, Any]:
        """How many images of which size, and how they are changed."""
        return {**super().settings(), "size": list(self.size), "augment": repr(self._augment)}

    def describe(self) -> str:
        """One line about the data set."""
        counts = ", ".join(f"{self.samples(s):,} {w}" for s, w in _WORDS.items())
        height, width = self.size
        return f"{self.data.name}: {counts} images with masks of {len(self.classes)} classes, {width}×{height}"

    def fingerprint(self, split: str) -> str:
        """SHA-256 of all images and masks of a split."""
        digest = hashlib.sha256(repr(self._split(split).sizes).encode())
        for pixels, mask in (self._split(split)[i] for i in range(self.samples(split))):
            digest.update(pixels.contiguous().numpy().data)
            digest.update(mask.contiguous().numpy().data)
        return digest.hexdigest()

    def _split(self, split: str) -> MaskSplit:
        found: MaskSplit = getattr(self.data, split)
        return found


_WORDS = {"train": "training", "validation": "validation", "test": "test"}


class _Meter(Confusion):
    """The confusion matrix of a task."""

    def __init__(self, task: Segmentation) -> None:
        super().__init__(len(task.classes))
        self._task = task

    def update(self, output: Any, target: Tensor, size: int) -> None:
        """Adds a batch of scores and masks."""
        scores = _upsampled(_parts(output)["out"], tuple(target.shape[1:]))
        if scores.shape[1] != self._classes:
            raise InputError(
                f"The network gives scores of {scores.shape[1]} classes and the masks have {self._classes}: build it "
                f"with classes={self._classes}."
            )
        self.add(scores, target, float(_cross_entropy(scores, target)), int((target != IGNORED).sum()))


def _size(data: MaskSet, size: int | None) -> tuple[int, int]:
    if size is not None:
        if size < 8:
            raise InputError(f"Segmentation(size=…) is pixels of a side, at least 8; got {size}.")
        return size, size
    sizes = {s for split in (data.train, data.validation, data.test) for s in split.sizes}
    if len(sizes) != 1:
        some = ", ".join(f"{w}×{h}" for h, w in sorted(sizes)[:3])
        raise InputError(f"The images of {data.name} have {len(sizes)} sizes ({some} …): give Segmentation(size=…).")
    return sizes.pop()


def _parts(output: Any) -> dict[str, Tensor]:
    """The scores among what a network returns, by torchvision's names."""
    found = dict(output) if hasattr(output, "keys") else {"out": output}
    if not isinstance(found.get("out"), Tensor) or found["out"].ndim != 4:
        raise InputError(
            f"Segmentation wants scores (B, classes, H, W), or a dict with them as 'out'; the network gives "
            f"{shapes(output)}."
        )
    return {name: found[name] for name in ("out", "aux") if isinstance(found.get(name), Tensor)}


def _upsampled(scores: Tensor, size: tuple[int, ...]) -> Tensor:
    scores = scores.float()
    if tuple(scores.shape[2:]) == tuple(size):
        return scores
    return F.interpolate(scores, tuple(size), mode="bilinear", align_corners=False)


def _cross_entropy(scores: Tensor, mask: Tensor) -> Tensor:
    scores = _upsampled(scores, tuple(mask.shape[1:]))
    total = F.cross_entropy(scores, mask, ignore_index=IGNORED, reduction="sum")
    return total / (mask != IGNORED).sum().clamp(min=1)


def _open(request: Request, **options: Any) -> Segmentation:
    if request.image_size is not None:
        options.setdefault("size", request.image_size)
    classes = options.pop("classes", None)
    if request.name == "digits":
        limit = request.limit
        data = digits_with_masks(**({} if limit is None else {"train": limit, "validation": limit, "test": limit}))
        # A mirrored digit is none.
        return Segmentation(data, **{"flip": 0.0, **options})
    data = load_masks(
        request.name, classes=classes, validation=request.validation, seed=request.seed, limit=request.limit
    )
    return Segmentation(data, **options)


TASKS.add("segmentation", TaskKind(_open, "a class for every pixel: mIoU, pixel accuracy", "digits", "unet"))
