"""Networks as files for other runtimes: ONNX and ``.pt2``."""

from __future__ import annotations

from secateur.deploy.checks import ExportCheck
from secateur.deploy.exports import export

__all__ = ["ExportCheck", "export"]
