"""Networks as files for other runtimes."""

from __future__ import annotations

from secateur.deploy import executorch, litert, onnx, openvino, pt2  # noqa: F401 (each adds its format)
from secateur.deploy.checks import ExportCheck
from secateur.deploy.exports import export

__all__ = ["ExportCheck", "export"]
