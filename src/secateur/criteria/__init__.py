"""Criteria: one score per channel, weight or branch, higher = keep."""

from secateur.criteria.base import CRITERIA, KINDS, Criterion, GroupView, NotApplicable, criterion

from secateur.criteria import (  # isort: skip
    activation,
    contribution,
    energy,
    gradient,
    lasso,
    magnitude,
    reconstruction,
    responses,
    scale,
    similarity,
)
from secateur.criteria import branches, weights  # isort: skip  # further kinds of what is registered above

from secateur.criteria.statistics import NEEDS, needed_data  # isort: skip

__all__ = [
    "CRITERIA",
    "KINDS",
    "NEEDS",
    "Criterion",
    "GroupView",
    "NotApplicable",
    "activation",
    "branches",
    "contribution",
    "criterion",
    "energy",
    "gradient",
    "lasso",
    "magnitude",
    "needed_data",
    "reconstruction",
    "responses",
    "scale",
    "similarity",
    "weights",
]
