"""Label-free tuning: gradient steps towards what the dense network computes, block by block and of the whole."""

from secateur.recovery.tuning.api import BLOCK_EPOCHS, EPOCHS, LOSSES, check_tuning, tune

__all__ = ["BLOCK_EPOCHS", "EPOCHS", "LOSSES", "check_tuning", "tune"]
