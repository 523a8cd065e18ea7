"""Recovery: what a cut broke is repaired without labels; without gradients, too, except by `tune`."""

from secateur.recovery.api import METHODS, recover
from secateur.recovery.candidates import closest
from secateur.recovery.tuning import tune
from secateur.recovery.unused import purify
from secateur.recovery.within import prune_to

__all__ = ["METHODS", "closest", "prune_to", "purify", "recover", "tune"]
