"""Recipes: a list of steps in YAML, run into a folder, that can be stopped and gone on with at any moment."""

from __future__ import annotations

from secateur.recipe.load import RecipeEntry, builtin_recipes, load_recipe
from secateur.recipe.overrides import override, shortcuts
from secateur.recipe.runner import Event, RunResult, reopen, resume, run
from secateur.recipe.schema import Recipe
from secateur.recipe.shelf import add_recipes, recipe_text

__all__ = [
    "Event",
    "Recipe",
    "RecipeEntry",
    "RunResult",
    "add_recipes",
    "builtin_recipes",
    "load_recipe",
    "override",
    "recipe_text",
    "reopen",
    "resume",
    "run",
    "shortcuts",
]
