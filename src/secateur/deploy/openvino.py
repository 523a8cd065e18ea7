"""Writing OpenVINO's own format: an ``.xml`` file with the weights in a ``.bin`` file beside it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from secateur.deploy.formats import FORMATS, Format
from secateur.deploy.onnx import write_onnx
from secateur.deploy.tracing import first_line
from secateur.errors import ExportError
from secateur.graph.trace import Exported

__all__ = ["save_ir", "write_openvino"]


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
        save_ir(model, path)


def save_ir(model: Any, path: Path) -> None:
    """Writes an OpenVINO model with its weights as they are: by default they would be halved to float16.

    Raises:
        ExportError: The ending is not ``.xml``, which OpenVINO knows its files by.
    """
    import openvino

    if path.suffix != ".xml":
        raise ExportError(f"OpenVINO knows its files by their ending .xml; got the name {path.name!r}.")
    openvino.save_model(model, path, compress_to_fp16=False)


FORMATS.add("openvino", Format(".xml", "OpenVINO's own: .xml with its .bin beside it", write_openvino, "openvino"))
