"""One function that makes a folder which runs a network without PyTorch, and tries it first."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor, nn

import secateur
from secateur.core import arguments
from secateur.core.errors import InputError
from secateur.core.files import new_folder
from secateur.core.modes import evaluating
from secateur.core.tables import Shown, Table
from secateur.core.types import ExampleInputs
from secateur.cut.pruned import Pruned
from secateur.data import DataSet
from secateur.exports.bundles.kinds import network_of, samples_of
from secateur.exports.bundles.script import script
from secateur.exports.bundles.trial import Trial, tried
from secateur.exports.checks import ExportCheck
from secateur.exports.exports import export
from secateur.runtimes import Runtime
from secateur.runtimes.formats import writer, writers
from secateur.runtimes.packages import need, version_of
from secateur.runtimes.writing import TOLERANCE
from secateur.task import Detection, ModelMetadata, Task, as_task

__all__ = ["BundleCheck", "bundle"]

SCHEMA = 1
_SHOWN = 2
"""Sample images that a bundle of embedded data has."""


@dataclass(frozen=True, repr=False)
class BundleCheck(Shown):
    """Proof that a bundle's script, without PyTorch, says what the network says.

    Attributes:
        folder: Where it lies.
        files: What lies in it.
        bytes: Of all of it.
        file: How well the network's file does, see :class:`~secateur.exports.ExportCheck`.
        images: Test images that the script was run on.
        max_difference: Largest |script − PyTorch| on what the script prepared, divided by the largest |PyTorch| of that
            output (or by 1 where that is smaller).
        snr_db: Signal-to-noise ratio of an int8 bundle, in decibels; ``None`` for float32.
        same_labels: Share of the images whose most probable class is PyTorch's, through the task's own preparation of
            images; of detectors, of the boxes.
        shades: Largest difference of a prepared pixel from the task's, in shades of 0 to 255.
    """

    folder: str
    files: tuple[str, ...]
    bytes: int
    file: ExportCheck
    images: int
    max_difference: float
    snr_db: float | None
    same_labels: float
    shades: float

    def table(self) -> Table:
        """The folder, and how far its script is from the network."""
        rows = [
            ("folder", f"{self.folder} ({self.bytes / 1e6:.2f} MB)"),
            ("files", ", ".join(self.files)),
            ("same labels", f"{self.same_labels:.1%} on {self.images} test images"),
            ("largest difference", f"{self.max_difference:.1e}"),
            ("prepared pixels differ by", f"{self.shades:.2f} shades of 255 at most"),
        ]
        rows += [("signal to noise", f"{self.snr_db:.1f} dB")] if self.snr_db is not None else []
        return Table(f"Bundle for {self.file.runtime}, run without PyTorch", ("", ""), rows, words=(0, 1))


@arguments.checked
def bundle(
    model: nn.Module | Pruned,
    data: DataSet | Task,
    folder: str | PathLike[str],
    *,
    to: str = "onnx",
    calibration: ExampleInputs | None = None,
    integer: bool = False,
    images: int = 32,
) -> BundleCheck:
    """Makes a folder that runs a network where there is no PyTorch: file, labels, preparation of images, script.

    ``run.py`` needs NumPy, Pillow and the runtime, whose versions ``requirements.txt`` has. Before the folder gets its
    name, the script is run on test images in a process that can import neither PyTorch nor Secateur, and its outputs
    are compared with PyTorch's. Images of the data are in the folder only where the data set is an embedded one.

    Args:
        model: A network, or the result of a cut; of detectors those of the YOLOv3 family, whose decoding goes into the
            file.
        data: A data set of images, or a task: classification or detection.
        folder: A new folder.
        to: The format: ``onnx``, ``openvino`` or ``litert``.
        calibration: Samples to quantise with, see :func:`secateur.export`.
        integer: Whether the file shall compute in integers alone, see :func:`secateur.export`.
        images: Test images to try it on.

    Raises:
        UnknownNameError: There is no such format.
        InputError: The folder exists, the runtime does not run without PyTorch or is not installed, the task is of
            another kind, its samples are no images of 8 bits, a class's name does not fit into a line, there are not as
            many classes as outputs, or there are no test images.
        ExportError: The file or the script does not compute what the network does; nothing is left then.

    >>> import secateur
    >>> secateur.bundle(nn.Linear(2, 2), secateur.data.load("digits"), "here", to="pt2")
    Traceback (most recent call last):
    secateur.core.errors.InputError: A bundle runs without PyTorch, and 'pt2' files do not; there are bundles for ...
    """
    folder, task = Path(folder), as_task(data)
    runtime = _runtime(to)
    if folder.exists():
        raise InputError(f"{folder} exists already; a bundle is a new folder.")
    if images < 1:
        raise InputError(f"bundle(images=…) is how many test images it is tried on, at least 1; got {images}.")
    network = network_of(*_opened(model), task)
    metadata = ModelMetadata.of(task)
    _check_metadata(metadata, task)
    need(("PIL",), "train", "A bundle")
    runtime.need(f"A bundle of the format {to!r}", int8=calibration is not None)
    with tempfile.TemporaryDirectory(prefix="secateur-") as place, new_folder(folder) as new:
        samples = list(samples_of(task, images, Path(place)))
        inputs = samples[0][1]
        if isinstance(task, Detection):
            _check_boxes(network, inputs, metadata)
        given = _named(model, network)
        file = new / f"model{runtime.suffix}"
        made = export(given, inputs, file, to, calibration=calibration, metadata=metadata, integer=integer)
        _write(new, metadata, runtime, file.name)
        trial = _tried(new, network, samples, metadata, calibration)
        shown = _samples(new, samples) if _embedded(task) else []
        (new / "README.md").write_text(_readme(metadata, made, trial, shown), encoding="utf-8")
        files = tuple(sorted(str(path.relative_to(new).as_posix()) for path in new.rglob("*") if path.is_file()))
        size = sum(path.stat().st_size for path in new.rglob("*") if path.is_file())
    made = replace(made, path=str(folder / file.name))
    snr = None if calibration is None or not math.isfinite(trial.snr_db) else trial.snr_db
    return BundleCheck(
        str(folder), files, size, made, trial.images, trial.max_difference, snr, trial.same_labels, trial.shades
    )


def _runtime(to: str) -> Runtime:
    runtime = writer(to)
    if not runtime.script:
        able = ", ".join(name for name, one in writers().items() if one.script)
        raise InputError(f"A bundle runs without PyTorch, and {to!r} files do not; there are bundles for {able}.")
    return runtime


def _opened(model: nn.Module | Pruned) -> tuple[nn.Module, nn.Module | None]:
    return (model.model, model.dense) if isinstance(model, Pruned) else (model, None)


def _named(model: nn.Module | Pruned, network: nn.Module) -> nn.Module | Pruned:
    """The result of the cut where that is what goes into the file, so that plan and sizes do too."""
    return replace(model, model=network) if isinstance(model, Pruned) and model.model is network else network


def _check_metadata(metadata: ModelMetadata, task: Task) -> None:
    if metadata.preprocessing is None:
        raise InputError(f"A bundle decodes image files of 8 bits; the samples of {task.name} are none.")
    bad = next((name for name in metadata.classes if name.splitlines() != [name]), None)
    if bad is not None:
        raise InputError(f"labels.txt has one class a line; the class {bad!r} is empty or has a line break in it.")


def _check_boxes(network: nn.Module, inputs: Tensor, metadata: ModelMetadata) -> None:
    with evaluating(network), torch.no_grad():
        found = int(network(inputs)[1].shape[2])
    if found != len(metadata.classes):
        raise InputError(f"The detector has {found} classes and the data set {len(metadata.classes)}.")


def _write(new: Path, metadata: ModelMetadata, runtime: Runtime, file: str) -> None:
    how = metadata.preprocessing
    assert how is not None
    texts = {
        "labels.txt": "".join(f"{name}\n" for name in metadata.classes),
        "preprocessing.json": json.dumps({"schema": SCHEMA, **how.to_json()}, indent=2) + "\n",
        "requirements.txt": "".join(f"{line}\n" for line in _requirements(runtime)),
        "run.py": script(metadata.task, how, runtime, file),
    }
    for name, text in texts.items():
        (new / name).write_text(text, encoding="utf-8")


def _requirements(runtime: Runtime) -> list[str]:
    packages = ("numpy", "pillow", runtime.packages[0])
    return [f"{name.replace('_', '-')}=={version_of(name).partition('+')[0]}" for name in packages]


def _tried(
    new: Path, network: nn.Module, samples: Sequence[tuple[Path, Tensor]], metadata: ModelMetadata,
    calibration: ExampleInputs | None,
) -> Trial:  # fmt: skip
    assert metadata.preprocessing is not None
    return tried(new, network, samples, metadata.preprocessing.std, TOLERANCE if calibration is None else None)


def _embedded(task: Task) -> bool:
    return getattr(getattr(task, "data", None), "source", "") == "embedded"


def _samples(new: Path, samples: Sequence[tuple[Path, Tensor]]) -> list[str]:
    (new / "samples").mkdir()
    for number, (file, _) in enumerate(samples[:_SHOWN], start=1):
        shutil.copyfile(file, new / "samples" / f"{number}{file.suffix}")
    return [f"samples/{number}{file.suffix}" for number, (file, _) in enumerate(samples[:_SHOWN], start=1)]


def _readme(metadata: ModelMetadata, made: ExportCheck, trial: Trial, shown: Sequence[str]) -> str:
    precision = "full-integer int8" if made.integer else "int8" if made.int8 else "float32"
    images = " ".join(shown) or "IMAGE…"
    return f"""# {metadata.task.capitalize()} with {len(metadata.classes)} classes

```bash
pip install -r requirements.txt
python run.py {images}
```

| file | holds |
|---|---|
| `{Path(made.path).name}` | the network, {precision} ({made.bytes:,} bytes with all that belongs to it) |
| `labels.txt` | a class a line, in the order of the outputs |
| `preprocessing.json` | how an image becomes the network's input, float32 of 1×C×H×W |
| `run.py` | decodes images, prepares them, runs the network in {made.runtime}; needs neither PyTorch nor Secateur |

Before it was handed over, `run.py` was run on {trial.images} test images and compared with the network in PyTorch:
{trial.same_labels:.1%} of the labels agree, the largest difference is {trial.max_difference:.1e} of the largest output.

Made by Secateur {secateur.__version__}.
"""
