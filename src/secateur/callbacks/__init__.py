"""Pruning between the epochs of other people's training loops: callbacks for Lightning and for transformers' Trainer.

Each lies in a module of its own, for each needs its library: :mod:`secateur.callbacks.lightning` and
:mod:`secateur.callbacks.transformers`; :func:`cut_in_place` does the same for a loop of one's own.
"""

from __future__ import annotations

from secateur.callbacks.loop import cut_in_place
from secateur.callbacks.schedule import gradually

__all__ = ["cut_in_place", "gradually"]
