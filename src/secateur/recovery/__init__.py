"""Recovery: what a cut broke is repaired without labels, gradients or training."""

from secateur.recovery.api import METHODS, recover
from secateur.recovery.unused import purify

__all__ = ["METHODS", "purify", "recover"]
