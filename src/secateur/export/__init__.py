"""Networks as files for other runtimes."""

from __future__ import annotations

from secateur.export import executorch, litert, onnx, openvino, pt2  # noqa: F401 (each adds its format)
from secateur.export.checks import ExportCheck
from secateur.export.exports import export

__all__ = ["ExportCheck", "export"]
