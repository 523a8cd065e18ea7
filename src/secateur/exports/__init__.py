"""Networks as files for other runtimes: checked against PyTorch before they get their names."""

from __future__ import annotations

from secateur.exports.bundles import BundleCheck, bundle
from secateur.exports.c_array import write_c_array
from secateur.exports.checks import ExportCheck
from secateur.exports.exports import export

__all__ = ["BundleCheck", "ExportCheck", "bundle", "export", "write_c_array"]
