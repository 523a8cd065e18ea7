"""Sparsity in training: penalties that push weights to zero, masks that hold them there."""

from secateur.sparsify.cluster import HoldShared, share_weights
from secateur.sparsify.converting import Converted, ConvertedLayer, convert_sparse, load_converted
from secateur.sparsify.group_lasso import GroupLasso
from secateur.sparsify.lc import LC
from secateur.sparsify.masks import HoldMasks, masks_of
from secateur.sparsify.penalties import PENALTIES, BatchNormL1, Penalty
from secateur.sparsify.rewinding import fresh, rewind
from secateur.sparsify.storage import Compressed, compress, decompress
from secateur.sparsify.weights import LayerSparsity, Sparse, sparsify
from secateur.sparsify.zeros import remove_zeros

__all__ = [
    "LC",
    "PENALTIES",
    "BatchNormL1",
    "Compressed",
    "Converted",
    "ConvertedLayer",
    "GroupLasso",
    "HoldMasks",
    "HoldShared",
    "LayerSparsity",
    "Penalty",
    "Sparse",
    "compress",
    "convert_sparse",
    "decompress",
    "fresh",
    "load_converted",
    "masks_of",
    "remove_zeros",
    "rewind",
    "share_weights",
    "sparsify",
]
