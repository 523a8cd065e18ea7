"""Networks as files for other runtimes: checked against PyTorch before they get their names."""

from __future__ import annotations

from secateur.export.checks import ExportCheck
from secateur.export.exports import export

__all__ = ["ExportCheck", "export"]
