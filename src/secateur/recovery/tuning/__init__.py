"""Label-free tuning: gradient steps towards what the dense network computes, block by block and of the whole."""

from secateur.recovery.tuning.api import LOSSES, check_tuning, tune

__all__ = ["LOSSES", "check_tuning", "tune"]
