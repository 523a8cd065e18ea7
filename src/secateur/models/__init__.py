"""Networks by name, their weights, and new heads for them."""

from __future__ import annotations

from secateur.models.create import MODELS, ModelEntry, create, normalisation
from secateur.models.head import replace_head
from secateur.models.onnx_file import read_onnx
from secateur.models.weights import load_weights, read_weights

__all__ = [
    "MODELS", "ModelEntry", "create", "load_weights", "normalisation", "read_onnx", "read_weights", "replace_head",
]  # fmt: skip
