"""Writing OpenVINO's own format: an ``.xml`` file with the weights in a ``.bin`` file beside it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from secateur.core.batches import chunks
from secateur.core.errors import ExportError
from secateur.core.types import ExampleInputs
from secateur.export.formats import FORMATS, Format
from secateur.export.onnx import write_onnx
from secateur.export.tracing import first_line
from secateur.graph.trace import Exported
from secateur.runtimes.files import feed_in_order

__all__ = ["quantise_openvino", "write_openvino"]


def write_openvino(traced: Exported, path: Path) -> None:
    """Converts by way of ONNX, which keeps the names and all sizes but the batch (a direct conversion frees them all).

    Raises:
        ExportError: The ending is not ``.xml``, or an operator cannot be converted.
    """
    import openvino

    with tempfile.TemporaryDirectory(prefix="secateur-") as folder:
        between = Path(folder) / "net.onnx"
        write_onnx(traced, between)
        try:
            model = openvino.Core().read_model(between)  # convert_model does the same and reports it to its makers
        except RuntimeError as error:
            raise ExportError(f"The conversion to OpenVINO failed: {first_line(error)}") from error
        _save(model, path)


def quantise_openvino(dense: Path, calibration: ExampleInputs, batch: int | None, path: Path) -> None:
    """Quantises with NNCF: weights and activations to 8 bits, biases corrected for what that shifts.

    Raises:
        ExportError: The ending is not ``.xml``.
    """
    os.environ.setdefault("NNCF_CI", "1")  # else every call is reported to its makers
    import nncf
    import openvino

    model = openvino.Core().read_model(dense)
    names = [port.get_any_name() for port in model.inputs]
    parts = [feed_in_order(part, names, dense) for part in chunks(calibration, batch or 1, fill=True)]
    samples = [dict(zip(names, arrays, strict=True)) for arrays in parts]
    _save(nncf.quantize(model, nncf.Dataset(samples), subset_size=len(samples)), path)


def _save(model: Any, path: Path) -> None:
    """Writes an OpenVINO model with its weights as they are: by default they would be halved to float16.

    Raises:
        ExportError: The ending is not ``.xml``, which OpenVINO knows its files by.
    """
    import openvino

    if path.suffix != ".xml":
        raise ExportError(f"OpenVINO knows its files by their ending .xml; got the name {path.name!r}.")
    openvino.save_model(model, path, compress_to_fp16=False)


FORMATS.add(
    "openvino",
    Format(
        ".xml",
        "OpenVINO's own: .xml with its .bin beside it",
        write_openvino,
        "openvino",
        quantise=quantise_openvino,
        quantise_needs=("nncf",),
    ),
)
