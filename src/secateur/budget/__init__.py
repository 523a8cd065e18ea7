"""Budgets: scores and a ratio or target become a choice of units."""

from secateur.budget.choose import choose, reached
from secateur.budget.earlier import LATENCY, before_cut, gone_before, latency_of_dense, of_dense
from secateur.budget.order import Step, removal_order
from secateur.budget.step import AUTO, step_of

__all__ = ["AUTO", "LATENCY", "Aim", "Choice", "Ratio", "Step", "before_cut", "choose", "removal_order", "step_of",
           "target_of"]  # fmt: skip
