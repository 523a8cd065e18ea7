"""Sparsity in training: penalties that push weights to zero, masks that hold them there."""

from secateur.sparsify.cluster import HoldShared, share_weights
from secateur.sparsify.lc import LC
from secateur.sparsify.masks import HoldMasks, masks_of
from secateur.sparsify.storage import Compressed, compress, decompress
from secateur.sparsify.weights import LayerSparsity, Sparse, sparsify

__all__ = [
    "LC",
    "Compressed",
    "HoldMasks",
    "HoldShared",
    "LayerSparsity",
    "Sparse",
    "compress",
    "decompress",
    "masks_of",
    "share_weights",
    "sparsify",
]
