"""Budgets: scores and a ratio or target become a choice of units."""

from secateur.budget.choose import choose, reached
from secateur.budget.earlier import LATENCY, before_cut, gone_before, latency_of_dense, of_dense
from secateur.budget.order import Step, removal_order
from secateur.budget.step import AUTO, step_of

__all__ = ["AUTO", "LATENCY", "Step", "before_cut", "choose", "gone_before", "latency_of_dense", "of_dense",
           "reached", "removal_order", "step_of"]  # fmt: skip
