"""Options of a cut are the same ones in Python, in recipes and on the command line."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import secateur
from secateur.cli.groups import AimOptions, CutOptions
from secateur.recipe.steps.pruning import PruneSettings

NOT_IN_RECIPES = {
    "also": "recipes train forward alone",
    "part": "recipes count and time the whole network, which has to be traced for it",
}
OTHER_NAMES = {"also": "methods are named on the command line", "batch": "of a Target", "threads": "of a Target"}


def fields(*groups: type) -> dict[str, Any]:
    return {f.name: f.default for group in groups for f in dataclasses.fields(group)}


def test_the_three_lists_name_the_same_things_with_the_same_defaults() -> None:
    python = {n: p.default for n, p in inspect.signature(secateur.prune).parameters.items()}
    recipe = {n: f.default for n, f in PruneSettings.model_fields.items()}
    line = fields(AimOptions, CutOptions)
    assert {n for n in line if n not in python} <= OTHER_NAMES.keys()
    assert {n for n in line if n not in recipe} <= NOT_IN_RECIPES.keys()
    for name, default in line.items():
        for other in (python, recipe):
            if name in other and name != "also":
                assert (other[name] or None) == (default or None), name
    assert {n for n in recipe if n not in python} == {"latency_ms", "batch", "threads", "calibration", "mirror"}
    assert all(recipe[n] == python[n] or (recipe[n] or None) is (python[n] or None) for n in recipe if n in python)
