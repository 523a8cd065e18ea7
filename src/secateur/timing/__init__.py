"""Clocks: the time of networks, files and operators, measured in turns, and their scores beside it."""

from __future__ import annotations

from secateur.timing.entrants import Entrant
from secateur.timing.latency import latency
from secateur.timing.machine import Machine, machine
from secateur.timing.measurement import Measurement, measurement
from secateur.timing.timings import Speedup, Spread, Timing, speedups, spread

__all__ = [
    "Entrant",
    "Machine",
    "Measurement",
    "Speedup",
    "Spread",
    "Timing",
    "latency",
    "machine",
    "measurement",
    "speedups",
    "spread",
]
