"""The kinds of steps; importing this package registers them."""

from __future__ import annotations

from secateur.recipe.schema import Settings
from secateur.recipe.steps import (
    alternating,
    experts,
    layers,
    measuring,
    pruning,
    recovering,
    rewinding,
    scoring,
    shipping,
    sparsifying,
    training,
    vocabulary,
    zeros,
)
from secateur.recipe.steps.base import STEPS, Context, State, Step, StepResult, derive_seed, descent, step, title_of

__all__ = [
    "STEPS",
    "Context",
    "Settings",
    "State",
    "Step",
    "StepResult",
    "alternating",
    "derive_seed",
    "descent",
    "experts",
    "layers",
    "measuring",
    "pruning",
    "recovering",
    "rewinding",
    "scoring",
    "shipping",
    "sparsifying",
    "step",
    "title_of",
    "training",
    "vocabulary",
    "zeros",
]
