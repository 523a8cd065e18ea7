"""Artifacts: a pruned network in a folder, from which it is loaded anywhere and from which nothing else can come."""

from secateur.cut.artifact.folder import load, read_inputs, read_plan, save, save_what_fits
from secateur.cut.artifact.hub import from_pretrained, push_to_hub, save_pretrained
from secateur.cut.artifact.shards import cut_shards, plan_at

__all__ = [
    "cut_shards",
    "from_pretrained",
    "load",
    "plan_at",
    "push_to_hub",
    "read_inputs",
    "read_plan",
    "save",
    "save_pretrained",
    "save_what_fits",
]
