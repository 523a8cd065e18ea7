"""`secateur export` and `secateur report`: what is handed on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur.cli.commands.networks import Opened, labelled, tell_random
from secateur.cli.commands.show import console, say, table, tell
from secateur.core.errors import InputError
from secateur.core.files import disk_errors, refuse_existing, write_json
from secateur.core.metric import LOSS
from secateur.core.progress import working
from secateur.core.types import ExampleInputs
from secateur.cut.metadata import read_metadata
from secateur.exports import bundle as write_bundle
from secateur.exports import export as write
from secateur.exports import write_c_array
from secateur.exports.scored import scored
from secateur.models.create import is_onnx_name
from secateur.recipe.folder import RunFolder
from secateur.recipe.results import collect
from secateur.report import picture as draw
from secateur.report import write_report
from secateur.runtimes.formats import writer_for
from secateur.task import ModelMetadata

__all__ = ["ExportRequest", "export", "report", "shows_file"]

_CALIBRATION = 256
_COMPARED = 64
_TRIED = 32


@dataclass(frozen=True)
class ExportRequest:
    """What kind of file is wanted.

    Attributes:
        to: The format; ``None`` for what the file's ending says.
        int8: Whether to quantise.
        calibration: Data set with whose training images to quantise; ``None`` for ``data``.
        data: Data set on whose test images to check and score; ``None`` for ``calibration``, or the run's.
        images: Test samples for the metrics; ``None`` for all. Of a bundle, how many it is tried on.
        task: The kind of task that ``data`` is for; ``None`` for the run's, or classification.
        dynamic: What the file takes others of.
        integer: Whether an int8 file computes in integers alone.
        c_array: Whether to write it as a C array too.
    """

    to: str | None = None
    int8: bool = False
    calibration: str | None = None
    data: str | None = None
    images: int | None = None
    task: str | None = None
    dynamic: str = "sizes"
    integer: bool = False
    c_array: bool = False


def export(opened: Opened, path: Path, wanted: ExportRequest) -> None:
    """Exports a network to ``path`` and says how well the file agrees with it, and its accuracy on labelled images.

    Raises:
        InputError: The file is there already, or quantisation without images to calibrate on.
        SecateurError: What exporting raises.
    """
    refuse_existing(path, "PATH")
    to = writer_for(path, wanted.to).format
    if wanted.c_array and not wanted.integer:
        raise InputError("--c-array is for files that compute in integers alone: add --integer.")
    data = labelled([opened], wanted.data or wanted.calibration, opened.inputs, task=wanted.task)
    images = opened.images if data is None or opened.images is not None else data.sample(_COMPARED, split="test")
    with disk_errors(path.parent), working(f"Writing and checking {path.name}", after_s=0):
        check = write(
            opened.model,
            opened.called_with if opened.more else opened.inputs[:1],
            path,
            to=to,
            calibration=_calibration(opened, wanted) if wanted.int8 else None,
            check_inputs=opened.called_with if images is None else images,
            dynamic=wanted.dynamic,
            metadata=None if data is None or (wanted.data is None and opened.task is None) else ModelMetadata.of(data),
            integer=wanted.integer,
        )
        arrays = write_c_array(path) if wanted.c_array else ()
    tell(check, "random inputs" if images is None else "test images")
    if arrays:
        say(f"As a C array: {', '.join(map(str, arrays))}.")
    if data is not None and wanted.images != 0:
        check = scored(check, data, samples=wanted.images, like=opened.model)
        shown = [m for m in dict.fromkeys((data.leading, LOSS)) if check.quality.get(m.name) is not None]
        found = ", ".join(f"{m.within} {m.words(check.quality[m.name])}" for m in shown)
        say(f"In {check.runtime} on {check.scored:,} test {data.unit}s: {found}.")
    tell_random([opened])


def bundle(opened: Opened, folder: Path, wanted: ExportRequest) -> None:
    """Writes a deployment bundle and says how well what it prints agrees with the network.

    Raises:
        InputError: There are no samples to check it on, or an option that goes with a single file.
        SecateurError: What bundling raises.
    """
    if wanted.c_array:
        raise InputError("--c-array goes with a single file, not with --bundle.")
    data = labelled([opened], wanted.data, opened.inputs, task=wanted.task)
    if data is None:
        raise InputError(
            "--bundle needs the data set: its classes, how images are prepared, and images to check it on. Give --data "
            "DATA (or the folder of a run, which has them)."
        )
    with disk_errors(folder.parent), working(f"Writing and checking {folder.name}", after_s=0):
        check = write_bundle(
            opened.model,
            data,
            folder,
            to=wanted.to or "onnx",
            calibration=_calibration(opened, wanted) if wanted.int8 else None,
            integer=wanted.integer,
            images=_TRIED if wanted.images is None else wanted.images,
        )
    console().print(str(check))
    tell_random([opened])


def _calibration(opened: Opened, wanted: ExportRequest) -> ExampleInputs:
    data = labelled([opened], wanted.calibration or wanted.data, opened.inputs, task=wanted.task)
    if data is None:
        option = "--integer" if wanted.integer else "--int8"
        raise InputError(
            f"{option} needs images to calibrate on: --calibration DATA (or the folder of a run, which has them)."
        )
    return data.sample(_CALIBRATION, split="train")


def shows_file(source: str) -> bool:
    """Shows what a file says of itself; whether that is all there is to show of it (an ONNX file is a network too).

    Raises:
        InputError: It is damaged, or the package that reads its format is missing.
    """
    path = Path(source)
    if not path.is_file() or path.suffix.lower() not in _TOLD:
        return False
    found = read_metadata(path)
    if found:
        rows = [[key, value if isinstance(value, str) else _words(value)] for key, value in found.items()]
        console().print(table(["Metadata", "Value"], rows, words=(0, 1), fold=(1,)))
    alone = not is_onnx_name(source)
    if alone and not found:
        say(f"{path.name} says nothing of itself: Secateur writes metadata into .onnx, .xml, .tflite and .safetensors.")
    return alone


_TOLD = (".onnx", ".xml", ".tflite", ".safetensors")


def _words(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def report(folder: Path, picture: Path | None, *, trust: bool = False) -> None:
    """Writes ``report.html`` from the finished steps of a run, and a picture if one is asked for."""
    if picture is not None:
        refuse_existing(picture, "--picture")
    run = RunFolder.open(folder, trusted=trust)
    results = collect(run.recipe(), run.about, folder, run.done())
    with disk_errors(folder):
        write_json(folder / "results.json", results)
        written = [write_report(results, folder / "report.html")]
        written += [draw(results, picture)] if picture is not None else []
    say(", ".join(map(str, written)))
