"""Sparsity in training: penalties that push weights to zero, masks that hold them there."""

from secateur.sparsity.admm import ADMM
from secateur.sparsity.cluster import HoldShared, share_weights
from secateur.sparsity.converting import Converted, ConvertedLayer, convert_sparse, load_converted
from secateur.sparsity.energy_aware import energy_aware
from secateur.sparsity.group_lasso import GroupLasso
from secateur.sparsity.lc import LC
from secateur.sparsity.masks import HoldMasks, masks_of
from secateur.sparsity.penalties import PENALTIES, BatchNormL1, Penalty
from secateur.sparsity.rewinding import fresh, rewind
from secateur.sparsity.scores import weight_scores
from secateur.sparsity.storage import Compressed, compress, decompress
from secateur.sparsity.weights import LayerSparsity, Sparse, sparsify
from secateur.sparsity.zeros import remove_zeros

__all__ = [
    "ADMM",
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
    "energy_aware",
    "fresh",
    "load_converted",
    "masks_of",
    "remove_zeros",
    "rewind",
    "share_weights",
    "sparsify",
    "weight_scores",
]
