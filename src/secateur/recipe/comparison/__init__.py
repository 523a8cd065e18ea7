"""Several recipes from one dense network, side by side: in parallel processes, resumable, one table at the end."""

from __future__ import annotations

from secateur.recipe.comparison.jobs import Job, JobEvent
from secateur.recipe.comparison.plan import at_budget, at_ratios
from secateur.recipe.comparison.run import compare_recipes, is_comparison, refuse_jobs, resume_comparison
from secateur.recipe.comparison.table import Comparison, Row

__all__ = [
    "Comparison",
    "Job",
    "JobEvent",
    "Row",
    "at_budget",
    "at_ratios",
    "compare_recipes",
    "is_comparison",
    "refuse_jobs",
    "resume_comparison",
]
