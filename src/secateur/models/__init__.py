"""Networks by name, their weights, and new heads for them."""

from __future__ import annotations

from secateur.models._torchvision import import_torchvision
from secateur.models.create import MODELS, ModelEntry, create, normalisation
from secateur.models.darknet_weights import DarknetHeader, read_header
from secateur.models.darknet_writing import write_darknet
from secateur.models.head import replace_head
from secateur.models.onnx_file import read_onnx
from secateur.models.torchvision_detector import TorchvisionDetector
from secateur.models.weights import load_weights, read_weights

__all__ = [
    "MODELS", "DarknetHeader", "ModelEntry", "TorchvisionDetector", "create", "import_torchvision",
    "load_weights", "normalisation", "read_header", "read_onnx", "read_weights", "replace_head", "write_darknet",
]  # fmt: skip
