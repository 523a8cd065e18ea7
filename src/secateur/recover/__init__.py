"""Recovery: what a cut broke is repaired without labels, gradients or training."""

from secateur.recover.api import METHODS, recover
from secateur.recover.choice import select

__all__ = ["METHODS", "recover", "select"]
