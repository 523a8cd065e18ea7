"""The kinds of task that there are bundles for: which network goes into the file, and which images it is tried on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from secateur.core.errors import InputError
from secateur.data import DataSet
from secateur.models import TorchvisionDetector
from secateur.task import Classification, Detection, Task
from secateur.task.detection import DecodedDetector

__all__ = ["network_of", "samples_of"]


def network_of(model: nn.Module, dense: nn.Module | None, task: Task) -> nn.Module:
    """What goes into the file: the network, of a detector with its decoding.

    Raises:
        InputError: There are no bundles for such a task or network.
    """
    if isinstance(task, Classification):
        return model
    if not isinstance(task, Detection):
        raise InputError(
            f"There are bundles for classification and detection; the task is {task.name!r}. Export the network alone "
            "(secateur.export) and write what runs it yourself."
        )
    if isinstance(model, TorchvisionDetector):
        raise InputError(
            "There are no bundles of torchvision's detectors, which choose boxes outside of what a file holds; of the "
            "YOLOv3 family there are."
        )
    known = next((found for one in (model, dense) if (found := getattr(one, "detections", None))), None)
    whole = DecodedDetector(model, known or task.scales)
    whole.training = model.training  # alone: the modes inside are the user's
    return whole


def samples_of(task: Task, count: int, folder: Path) -> Iterator[tuple[Path, Tensor]]:
    """Test images: files (those in memory are written into ``folder``) and what the task makes of them.

    Yields:
        The file, and the network's input, float32, (1, C, H, W).

    Raises:
        InputError: There are no test images.
    """
    if not task.samples("test"):
        raise InputError(f"A bundle is tried on test images, and {task.name} has none.")
    if isinstance(task, Detection):
        split = task.data.test
        for number in range(min(count, len(split))):
            source = split.images[number]
            file = _png(source, folder / f"{number}.png") if isinstance(source, Tensor) else source
            yield file, task.made("test", torch.tensor([number]))[0]
        return
    assert isinstance(task, Classification)
    yield from _labelled(task.data, count, folder)


def _labelled(data: DataSet, count: int, folder: Path) -> Iterator[tuple[Path, Tensor]]:
    order = torch.randperm(len(data.test), generator=torch.Generator().manual_seed(0))[:count]
    files = getattr(data.test, "files", None)
    number = 0
    for images, _ in data.test.batches(64, order=order):
        for image in images:
            file = _png(image, folder / f"{number}.png") if files is None else files[int(order[number])]
            yield file, data.normalise(image[None])
            number += 1


def _png(pixels: Tensor, file: Path) -> Path:
    from PIL import Image

    array = pixels.permute(1, 2, 0).contiguous().numpy()
    Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array).save(file)
    return file
