"""Recipes by name or file."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from secateur.core.errors import DataError, InputError, UnknownNameError
from secateur.core.reading import read_text
from secateur.recipe.iterate import IterateSettings, inner_steps
from secateur.recipe.schema import ITERATE, Recipe, StepEntry, split_step
from secateur.recipe.trust import places_of_code
from secateur.recipe.validation import validate
from secateur.recipe.yamltree import Place, YamlTree, parse

__all__ = ["LARGEST", "RecipeEntry", "builtin_recipes", "load_recipe"]

LARGEST = 200_000
"""Bytes of a recipe, which has a dozen lines."""


@dataclass(frozen=True)
class RecipeEntry:
    """A built-in recipe.

    Attributes:
        name: What `secateur run` calls it.
        description: Its description, in one line.
        steps: Kinds of its steps, in order; rounds of steps are one entry, like ``6 × (prune, finetune)``.
    """

    name: str
    description: str
    steps: tuple[str, ...]


def builtin_recipes() -> tuple[RecipeEntry, ...]:
    """Returns the built-in recipes in alphabetical order.

    >>> "transfer-channel" in [entry.name for entry in builtin_recipes()]
    True
    """
    entries = []
    for name in sorted(_builtin()):
        recipe = load_recipe(name)
        description = " ".join(recipe.description.split())
        entries.append(RecipeEntry(name, description, _outline(parse(_text(name), name).data["steps"])))
    return tuple(entries)


def _outline(steps: list[Any]) -> tuple[str, ...]:
    """Kinds of steps as they are written.

    >>> _outline(["adapt", {"iterate": {"over": "layers", "steps": [{"prune": {"ratio": 0.5}}, "finetune"]}}])
    ('adapt', 'each layer (prune, finetune)')
    """
    found = []
    for kind, settings in map(split_step, steps):
        if kind == ITERATE:
            often = f"{settings['rounds']} ×" if "rounds" in settings else f"each {settings['over'].removesuffix('s')}"
            found.append(f"{often} ({', '.join(_outline(settings['steps']))})")
        else:
            found.append(str(kind))
    return tuple(found)


def load_recipe(
    source: str | Path, *, edit: Callable[[YamlTree], YamlTree] | None = None, name: str | None = None
) -> Recipe:
    """Reads and checks a recipe.

    Args:
        source: A built-in name, or a YAML file.
        edit: Changes the parsed file before it is checked (settings from the command line).
        name: What error messages call the file.

    Raises:
        UnknownNameError: Neither a file nor a built-in recipe.
        DataError: The file cannot be read.
        InputError: Something in it is wrong; the message names the line and what is allowed.
    """
    from secateur.recipe.steps import STEPS

    tree = parse(_text(source), name or _label(source))
    if edit is not None:
        tree = edit(tree)
    recipe = validate(tree, {kind: STEPS[kind].config for kind in STEPS})
    if str(source) not in _builtin() and not all(tree.typed(place) for place in places_of_code(recipe)):
        recipe = replace(recipe, origin=Path(source).absolute())
    _check_order(recipe, tree)
    return recipe


def _check_order(recipe: Recipe, tree: YamlTree) -> None:
    from secateur.recipe.steps import STEPS

    seen: set[str] = set()
    for kind, place in (found for entry in recipe.steps for found in _kinds(entry)):
        after = [earlier for earlier in STEPS[kind].after if earlier in STEPS]
        if after and not seen & set(after):
            raise InputError(f"{tree.where(place)}: {kind} needs a {' or '.join(after)} step before it.")
        seen.add(kind)


def _kinds(entry: StepEntry) -> list[tuple[str, Place]]:
    """Kinds of the steps that an entry stands for, and where they are written."""
    if not isinstance(entry.config, IterateSettings):
        return [(entry.kind, entry.place)]
    inner = (*entry.place, ITERATE, "steps")
    return [(kind, (*inner, number)) for number, (kind, _) in enumerate(inner_steps(entry.config))]


def _builtin() -> Mapping[str, str]:
    """Text of the built-in recipes by name."""
    folder = resources.files("secateur.recipe") / "recipes"
    return {
        file.name.removesuffix(".yaml"): file.read_text(encoding="utf-8")
        for file in folder.iterdir()
        if file.name.endswith(".yaml")
    }


def _label(source: str | Path) -> str:
    return f"{source}.yaml" if str(source) in _builtin() else str(source)


def _text(source: str | Path) -> str:
    builtin, path = _builtin(), Path(source)
    if str(source) in builtin:
        return builtin[str(source)]
    if not os.path.lexists(path):
        if path.suffix in (".yaml", ".yml"):
            raise DataError(f"There is no recipe file {path}.")
        raise UnknownNameError("recipe", str(source), builtin, "A recipe of your own is a .yaml file.")
    return read_text(path, DataError, largest=LARGEST)
