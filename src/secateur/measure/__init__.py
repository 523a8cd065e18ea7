"""Size, memory, time and scores of networks.

1 FLOP pair (one multiplication and one addition) is 1 MAC; FLOPs = 2 × MACs.
"""

from __future__ import annotations

from secateur.measure.energy import Energy, energy
from secateur.measure.latency import latency
from secateur.measure.machine import Machine, machine
from secateur.measure.measurement import Measurement, measurement
from secateur.measure.memory import peak_memory, size_on_disk
from secateur.measure.ratios import compression_ratio, mac_reduction, netscore, nonzero_params
from secateur.measure.timings import Speedup, Spread, Timing, speedups, spread

__all__ = [
    "Energy",
    "Machine",
    "Measurement",
    "Speedup",
    "Spread",
    "Timing",
    "compression_ratio",
    "energy",
    "latency",
    "mac_reduction",
    "machine",
    "measurement",
    "netscore",
    "nonzero_params",
    "peak_memory",
    "size_on_disk",
    "speedups",
    "spread",
]
