"""What every operator of ONNX that is read computes, one file per family."""

from __future__ import annotations

from secateur.models.onnx_file.ops import (
    activations,
    convolutions,
    elementwise,
    normalise,
    pieces,
    products,
    recurrent,
    reduce,
    resize,
    shapes,
)

__all__ = [
    "activations", "convolutions", "elementwise", "normalise", "pieces", "products", "recurrent", "reduce", "resize",
    "shapes",
]  # fmt: skip
