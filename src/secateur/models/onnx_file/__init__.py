"""Networks from ONNX files."""

from __future__ import annotations

from secateur.models.onnx_file import ops  # its functions register themselves
from secateur.models.onnx_file.network import OnnxNetwork
from secateur.models.onnx_file.read import read_onnx
from secateur.models.onnx_file.writing import Unwritable, file_of

__all__ = ["OnnxNetwork", "Unwritable", "file_of", "ops", "read_onnx"]
