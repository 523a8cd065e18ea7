"""Criteria: one score per unit, higher = keep."""

from secateur.criteria.base import CRITERIA, Criterion, GroupView, criterion

from secateur.criteria import magnitude, scale  # isort: skip

__all__ = ["CRITERIA", "Criterion", "GroupView", "criterion", "magnitude", "scale"]
