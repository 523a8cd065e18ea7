"""Detection: images with boxes, the loss of YOLOv3, mean average precision."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.core.checks import is_torchvision_detector
from secateur.core.errors import InputError
from secateur.core.metric import Metric
from secateur.core.modes import evaluating
from secateur.core.seeds import generator
from secateur.core.types import call
from secateur.data.boxes import Boxes, BoxSet, BoxSplit, Image, Letterboxed, collate, digits_on_canvas, load_boxes
from secateur.data.boxes.letterbox import GREY
from secateur.data.preprocessing import Preprocessing
from secateur.models import TorchvisionDetector
from secateur.models.darknet import Detection as Scale
from secateur.task.batch import Batch
from secateur.task.detection.anchors import find_anchors
from secateur.task.detection.average_precision import AveragePrecision
from secateur.task.detection.box_augment import BoxAugment
from secateur.task.detection.decoding import Detections, decode, detections
from secateur.task.detection.torchvision_calls import called, is_found, made_of
from secateur.task.detection.yolo_loss import YoloLoss
from secateur.task.numbered import NumberedTask
from secateur.task.registry import TASKS, Request, TaskKind
from secateur.task.shown import Chart, Line, Mark, Picture, Shown, png

__all__ = ["MAP", "MAP50", "Detection"]

MAP50 = Metric(better="higher", format="percent", title="mAP@.5", name="map50")
MAP = Metric(better="higher", format="percent", title="mAP@.5:.95", name="map")

_LEAST = 0.001
"""Score from which on a box counts for average precision."""

_MEMORY = 2 * 2**30
"""Bytes of decoded images that are kept in memory; larger splits are decoded as they are asked for."""

_DRAWN = 0.25
"""Score from which on the report draws a box."""

_PICTURES = 4
"""Test images that the report shows."""

_ANCHORS = {"yolov3": 9, "yolov3_tiny": 6, "mini_yolov3": 9}
"""How many anchors the built-in networks have."""


class Detection(NumberedTask):
    """Objects in images: boxes with classes, found by a network of the YOLOv3 family.

    The network gives a map for every scale; what the maps mean, its ``detections`` say. They are read off the network
    when it is first called, so a graph that was cut out of it needs no ``detections`` of its own; otherwise give
    ``scales``. Or it is one of torchvision's detectors, as :class:`~secateur.models.TorchvisionDetector`, which brings
    losses and decoding of its own.

    Args:
        data: Images with boxes.
        size: Pixels of a side of the square that every image is put into.
        scales: What the network's maps mean; by default what the network says.
        several: See :class:`~secateur.task.detection.YoloLoss`.
        flip: Share of training images that are mirrored.
        scale: Training images are scaled by a factor within 1 ± this.
        shift: … and moved by up to this share of their sides.
        colour: … and brightened, saturated and the like by a factor within 1 ± this.
        mosaic: Share of training images that are put together from parts of four.

    Attributes:
        data: The same.
        size: The same.

    Raises:
        InputError: A size that is no multiple of 32.
    """

    name = "detection"
    unit = "image"
    metrics = (MAP50, MAP)
    largest = 16  # more pixels than where 500 samples make a batch

    def __init__(
        self,
        data: BoxSet,
        *,
        size: int = 416,
        scales: Sequence[Scale] | None = None,
        several: float = 1.0,
        flip: float = 0.5,
        scale: float = 0.3,
        shift: float = 0.1,
        colour: float = 0.1,
        mosaic: float = 0.3,
    ) -> None:
        """Images are decoded when they are first asked for."""
        super().__init__()
        if size < 32 or size % 32:
            raise InputError(f"Detection(size=…) is a multiple of 32, which the network divides it by; got {size}.")
        self.data, self.size, self.classes, self.several = data, size, data.classes, several
        self._augment = BoxAugment(flip=flip, scale=scale, shift=shift, colour=colour, mosaic=mosaic)
        self._scales = None if scales is None else tuple(scales)
        self._kept: dict[str, BoxSplit | Letterboxed] = {}

    # ------------------------------------------------------------------------------------------------ loss and boxes

    @property
    def scales(self) -> tuple[Scale, ...]:
        """What the network's maps mean.

        Raises:
            InputError: No network was called so far that says it.
        """
        if self._scales is None:
            raise InputError(
                "The network does not say what its maps mean (it has no detections): give the task those of the dense "
                "network, Detection(data, scales=dense.detections). (A detector of torchvision has a loss only while "
                "it trains, so criteria that need gradients cannot be taken for it: take l2, bn_scale or "
                "reconstruction.)"
            )
        return self._scales

    def forward(self, model: nn.Module, batch: Batch) -> Any:
        """The maps of the network, (B, A · (5 + C), H, W) each.

        Of a :class:`~secateur.models.TorchvisionDetector` its losses by name where it trains, else the boxes it finds.
        """
        if isinstance(getattr(model, "module", model), TorchvisionDetector):
            return called(model, batch)
        if self._scales is None:
            found = getattr(getattr(model, "module", model), "detections", None)
            self._scales = tuple(found) if found else None
        if is_torchvision_detector(getattr(model, "module", model)):
            raise InputError(
                f"{type(model).__name__} takes lists of images and chooses boxes inside, which no graph describes: "
                "wrap it, secateur.models.TorchvisionDetector(network)."
            )
        output = call(model, batch.inputs)
        return (output,) if isinstance(output, Tensor) else tuple(output)

    def finished(self, model: nn.Module, output: Any, batch: Batch) -> Any:
        """Of torchvision's detectors of one stage, the boxes that their maps mean; of those of two nobody can say."""
        if not isinstance(model, TorchvisionDetector):
            return output
        return made_of(model, output, batch)

    def loss(self, output: Any, target: Any) -> Tensor | None:
        """See :class:`~secateur.task.detection.YoloLoss`; of torchvision's detectors, the sum of their own losses.

        These have none where they do not train: ``None``.
        """
        if isinstance(output, dict):
            return sum(output.values(), torch.zeros((), device=next(iter(output.values())).device))
        if is_found(output):
            return None
        output = (output,) if isinstance(output, Tensor) else output
        return YoloLoss(self.scales, several=self.several)(output, target, self._square).total

    def predictions(self, output: Any) -> list[Detections]:
        """The boxes of every image, in pixels of the square, with all scores that average precision looks at."""
        if is_found(output):
            found: list[Detections] = output
            return found
        output = (output,) if isinstance(output, Tensor) else output
        return detections(*decode([o.float() for o in output], self.scales, self._square), threshold=_LEAST)

    def distillation(self, output: Any, wanted: Any, temperature: float) -> Tensor:
        """The teacher's objectness everywhere, and its boxes and classes as far as it sees an object there.

        Formula: Σ (BCE(oᶻ, σ(oᵗ)) + σ(oᵗ) · (BCE(cᶻ, σ(cᵗ)) + ‖bᶻ − bᵗ‖²)) / max(1, Σ σ(oᵗ)), over all anchors of all
        cells, with objectness o, classes c and the four numbers b of a box, as the maps hold them. Source: Mehta and
        Ozturk 2018, Object detection at 200 Frames Per Second, arXiv:1805.06361, §3.2. The temperature has no say.
        """
        if isinstance(output, dict) or is_found(output):
            raise InputError(
                "Detectors of torchvision cannot be distilled: they give losses where they train, and no maps that "
                "could be held against a teacher's. Leave distill out."
            )
        total, objects = output[0].new_zeros((), dtype=torch.float32), output[0].new_zeros((), dtype=torch.float32)
        for student, teacher, scale in zip(output, wanted, self.scales, strict=True):
            mine, other = (_by_anchor(t.float(), scale) for t in (student, teacher))
            sure = other[:, :, 4].sigmoid()
            told = F.binary_cross_entropy_with_logits(mine[:, :, 4], sure, reduction="sum")
            classes = F.binary_cross_entropy_with_logits(mine[:, :, 5:], other[:, :, 5:].sigmoid(), reduction="none")
            boxes = (mine[:, :, :4] - other[:, :, :4]).square()
            total = total + told + (sure * (classes.sum(2) + boxes.sum(2))).sum()
            objects = objects + sure.sum()
        loss: Tensor = total / objects.clamp(min=1.0)
        return loss

    def meter(self) -> _Precision:
        """Something new that adds up the loss and collects boxes."""
        return _Precision(self)

    # -------------------------------------------------------------------------------------------------------- batches

    def count(self, split: str) -> int:
        """Images of a split."""
        return len(self._boxes(split))

    def made(self, split: str, index: Tensor, seeds: tuple[object, ...] | None = None) -> tuple[Tensor, list[Boxes]]:
        """Images, float32 in 0…1, (B, 3, size, size), and the boxes of each; every image has a generator of its own."""
        images = self._images(split)
        numbers = index.tolist()
        found = [images[i] for i in numbers] if seeds is None else [self._changed(images, i, seeds) for i in numbers]
        pixels, boxes = collate(found)
        return pixels.float() / 255, boxes

    # ------------------------------------------------------------------------------------------------------ for a run

    def show(self, models: Mapping[str, nn.Module]) -> Shown:
        """Test images with every network's boxes beside what is there, precision over recall, and AP@.5 by class."""
        count = min(_PICTURES, self.samples("test"))
        pictures = [picture for index in range(count) for picture in self._side_by_side(index, models)]
        meters = {role: self._scored(model) for role, model in models.items()}
        lines = tuple(Line(role, *meter.curve()) for role, meter in meters.items())
        chart = Chart("Precision over recall", "recall at an IoU of 0.5", "precision, mean over classes", lines)
        found = [meter.per_class() for meter in meters.values()]
        rows = tuple(
            (name, *(_percent(values.get(name)) for values in found))
            for name in self.classes
            if any(name in values for values in found)
        )
        hint = (
            f"The first {count} test images: what the labels say, and what each network finds with a score of at least "
            f"{_DRAWN}."
        )
        return Shown(tuple(pictures), (chart,), ("AP@.5 by class", *meters), rows, hint)

    def _side_by_side(self, index: int, models: Mapping[str, nn.Module]) -> Iterator[Picture]:
        pixels, boxes = self._images("test")[index]
        there = zip(boxes.corners.tolist(), boxes.labels.tolist(), strict=True)
        yield self._picture(index, "labels", pixels, [Mark(_four(box), self.classes[label]) for box, label in there])
        for role, model in models.items():
            with torch.no_grad(), evaluating(model):
                inputs, _ = self.made("test", torch.tensor([index]))
                output = self.forward(model, Batch(inputs.to(_device_of(model)), None, 1))
            (found,) = self._shown(output)
            yield self._picture(index, role, pixels, self._marks(found))

    def _shown(self, output: Any) -> list[Detections]:
        """What is drawn: boxes with a score of at least 0.25."""
        if is_found(output):
            return [one.above(_DRAWN) for one in output]
        return detections(*decode([o.float() for o in output], self.scales, self._square), threshold=_DRAWN)

    def _scored(self, model: nn.Module) -> _Precision:
        meter = self.meter()
        with torch.no_grad(), evaluating(model):
            for batch in self.evaluation("test", device=_device_of(model)):
                meter.update(self.forward(model, batch), batch.target, batch.size)
        return meter

    def _marks(self, found: Detections) -> list[Mark]:
        rows = zip(found.corners.tolist(), found.labels.tolist(), found.scores.tolist(), strict=True)
        return [Mark(_four(corners), self.classes[label], score) for corners, label, score in rows]

    def _picture(self, index: int, role: str, pixels: Tensor, marks: Sequence[Mark]) -> Picture:
        height, width = (int(side) for side in pixels.shape[1:])
        return Picture(f"Test image {index + 1}", role, png(pixels), width, height, tuple(marks))

    def image_preprocessing(self) -> Preprocessing:
        """Letterboxed, 0…1."""
        return Preprocessing(self._square, 3, (0.0,) * 3, (1.0,) * 3, fit="letterbox", fill=GREY)

    def options(self, model: str) -> dict[str, Any]:
        """Classes and anchors of the built-in networks: k-means over the training boxes, with a fixed seed."""
        if model.startswith("torchvision:"):
            return {"classes": len(self.classes)}
        if model not in _ANCHORS:
            return {}
        return {"classes": len(self.classes), "anchors": find_anchors(self._squares("train").boxes, _ANCHORS[model])}

    def settings(self) -> dict[str, Any]:
        """How many images of which size, and how they are changed."""
        counts = {f"{split}_images": self.samples(split) for split in ("train", "validation")}
        return {"task": self.name, "size": self.size, "augment": repr(self._augment), **counts}

    def describe(self) -> str:
        """One line about the data set."""
        train, validation, test = (self.samples(split) for split in ("train", "validation", "test"))
        counts = f"{train:,} training, {validation:,} validation, {test:,} test images"
        return f"{self.data.name}: {counts} with boxes of {len(self.classes)} classes, {self.size}×{self.size}"

    def fingerprint(self, split: str) -> str:
        """SHA-256 of the boxes, and of the images' sizes and (of files) names and bytes."""
        found, digest = self._boxes(split), hashlib.sha256()
        for image, boxes, size in zip(found.images, found.boxes, found.sizes, strict=True):
            digest.update(repr((size, boxes.corners.tolist(), boxes.labels.tolist(), boxes.ignored.tolist())).encode())
            if isinstance(image, Tensor):
                digest.update(image.contiguous().numpy().data)
            else:
                digest.update(image.name.encode() + hashlib.sha256(image.read_bytes()).digest())
        return digest.hexdigest()

    # --------------------------------------------------------------------------------------------------------- inside

    @property
    def _square(self) -> tuple[int, int]:
        return self.size, self.size

    def _boxes(self, split: str) -> BoxSplit:
        found: BoxSplit = getattr(self.data, split)
        return found

    def _squares(self, split: str) -> Letterboxed:
        return Letterboxed(self._boxes(split), self.size)

    def _images(self, split: str) -> BoxSplit | Letterboxed:
        if split not in self._kept:
            squares = self._squares(split)
            small = len(squares) * 3 * self.size**2 <= _MEMORY
            self._kept[split] = squares.in_memory() if small else squares
        return self._kept[split]

    def _changed(self, images: BoxSplit | Letterboxed, index: int, seeds: tuple[object, ...]) -> Image:
        """An image as this epoch sees it, whatever process and step it is in."""
        drawn = generator(*seeds, index)
        others = torch.randint(len(images), (3,), generator=drawn).tolist() if self._augment.mosaic else []
        return self._augment(images[index], drawn, [images[i] for i in others])


class _Precision:
    """Adds up the loss, and collects the boxes of every image for average precision."""

    sums: Tensor | None = None

    def __init__(self, task: Detection) -> None:
        self._task, self._precision = task, AveragePrecision(task.classes)
        self._losses: float | None = 0.0
        self._images = 0

    def update(self, output: Any, target: Any, size: int) -> None:
        """Adds a batch of maps and boxes."""
        loss = self._task.loss(output, target)
        self._losses = None if self._losses is None or loss is None else self._losses + float(loss) * size
        self._images += size
        self._precision.update(self._task.predictions(output), target)

    def curve(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Recall and, at an IoU of 0.5, the precision as the mean over the classes that have objects."""
        return self._precision.curve()

    def per_class(self) -> Mapping[str, float]:
        """Average precision at an IoU of 0.5 by class, in 0…1; only of classes that have objects."""
        return self._precision.compute().per_class50

    def compute(self) -> dict[str, float]:
        """Both mean average precisions in percent, and the mean loss where there is one."""
        found = self._precision.compute()
        scores = {"map50": 100 * found.map50, "map": 100 * found.map}
        return scores if self._losses is None else {**scores, "loss": self._losses / max(1, self._images)}


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.2f} %"


def _four(corners: Sequence[float]) -> tuple[float, float, float, float]:
    left, top, right, bottom = (round(value, 1) for value in corners)
    return left, top, right, bottom


def _device_of(model: nn.Module) -> torch.device:
    return next((tensor.device for tensor in model.parameters()), torch.device("cpu"))


def _by_anchor(maps: Tensor, scale: Scale) -> Tensor:
    """(B, A · (5 + C), H, W) → (B, A, 5 + C, H, W)."""
    batch, _, height, width = maps.shape
    return maps.view(batch, len(scale.anchors), 5 + scale.classes, height, width)


def _open(request: Request, **options: Any) -> Detection:
    if request.image_size is not None:
        options.setdefault("size", request.image_size)
    faulty = options.pop("faulty", "refuse")
    if request.name == "digits":
        limit = request.limit
        data = digits_on_canvas(**({} if limit is None else {"train": limit, "validation": limit, "test": limit}))
        # A mirrored digit is none; the canvases are small.
        return Detection(data, **{"size": 64, "flip": 0.0, "mosaic": 0.0, **options})
    data = load_boxes(
        request.name, validation=request.validation, seed=request.seed, limit=request.limit, faulty=faulty
    )
    return Detection(data, **options)


TASKS.add("detection", TaskKind(_open, "objects in images: boxes, mAP@.5 and @.5:.95", "digits", "yolov3_tiny"))
