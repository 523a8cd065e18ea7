"""Artifacts: a pruned network in a folder, from which it is loaded anywhere and from which nothing else can come."""

from secateur.cut.artifact.folder import load, read_inputs, read_plan, save

__all__ = ["load", "read_inputs", "read_plan", "save"]
