"""What a network costs, counted: parameters, MACs, energy by a model, bytes and memory.

1 FLOP pair (one multiplication and one addition) is 1 MAC; FLOPs = 2 × MACs.
"""

from __future__ import annotations

from secateur.cost.counts import count
from secateur.cost.energy import Energy, energy
from secateur.cost.memory import peak_memory, size_on_disk
from secateur.cost.ratios import compression_ratio, mac_reduction, netscore, nonzero_params

__all__ = [
    "Energy",
    "compression_ratio",
    "count",
    "energy",
    "mac_reduction",
    "netscore",
    "nonzero_params",
    "peak_memory",
    "size_on_disk",
]
