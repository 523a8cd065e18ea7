"""Budgets: scores and a ratio or target become a choice of units."""

from secateur.budget.choose import choose
from secateur.budget.earlier import before_cut, gone_before, of_dense
from secateur.budget.order import Step, removal_order

__all__ = ["Step", "before_cut", "choose", "gone_before", "of_dense", "removal_order"]
