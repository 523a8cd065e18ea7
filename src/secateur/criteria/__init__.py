"""Criteria: one score per unit, higher = keep."""

from secateur.criteria.base import CRITERIA, Criterion, GroupView, NotApplicable, criterion

from secateur.criteria import (  # isort: skip
    activation,
    energy,
    gradient,
    magnitude,
    reconstruction,
    scale,
    similarity,
)

from secateur.criteria.statistics import NEEDS, needed_data  # isort: skip

__all__ = [
    "CRITERIA",
    "NEEDS",
    "Criterion",
    "GroupView",
    "NotApplicable",
    "activation",
    "criterion",
    "energy",
    "gradient",
    "magnitude",
    "needed_data",
    "reconstruction",
    "scale",
    "similarity",
]
