"""The kinds of steps; importing this package registers them."""

from __future__ import annotations

from secateur.recipe.steps import (
    layers,
    measuring,
    pruning,
    recovering,
    rewinding,
    scoring,
    shipping,
    sparsifying,
    training,
    zeros,
)
from secateur.recipe.steps.base import STEPS, Context, State, Step, StepResult, derive_seed

__all__ = [
    "STEPS",
    "Context",
    "State",
    "Step",
    "StepResult",
    "derive_seed",
    "layers",
    "measuring",
    "pruning",
    "recovering",
    "rewinding",
    "scoring",
    "shipping",
    "sparsifying",
    "training",
    "zeros",
]
