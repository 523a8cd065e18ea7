"""Budgets: scores and an aim become a choice of units."""

from secateur.budget.aim import Aim, Choice, Ratio, by_group, target_of
from secateur.budget.choose import choose
from secateur.budget.earlier import LATENCY, before_cut
from secateur.budget.order import Step, removal_order
from secateur.budget.step import AUTO, step_of

__all__ = ["AUTO", "LATENCY", "Aim", "Choice", "Ratio", "Step", "before_cut", "by_group", "choose", "removal_order",
           "step_of", "target_of"]  # fmt: skip
