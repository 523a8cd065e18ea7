"""Surgery: a model and a plan become a smaller model, and the proof that it is the right one."""

from secateur.surgery.graph import finished, prune_graph
from secateur.surgery.module import prune_module
from secateur.surgery.verify import verify

__all__ = ["finished", "prune_graph", "prune_module", "verify"]
