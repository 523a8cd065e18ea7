"""Recipes by name or file."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from secateur.core.errors import DataError, InputError, PluginError, SecateurError
from secateur.core.plugins import PluginWarning, use
from secateur.core.reading import read_text
from secateur.core.registry import is_shipped
from secateur.core.yamltree import Place, YamlTree, parse
from secateur.recipe.iterate import IterateSettings, inner_steps
from secateur.recipe.schema import ITERATE, Recipe, StepEntry, as_list, split_step
from secateur.recipe.shelf import LARGEST, RECIPES, recipe_text
from secateur.recipe.steps import STEPS
from secateur.recipe.trust import permit_plugins, places_of_code
from secateur.recipe.validation import validate

__all__ = ["RecipeEntry", "builtin_recipes", "load_recipe"]


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
    """Returns the built-in recipes, and those of plug-ins, in alphabetical order.

    One of a plug-in's that cannot be read is left out with a warning.

    >>> "transfer-channel" in [entry.name for entry in builtin_recipes()]
    True
    """
    entries = []
    for name in RECIPES:
        try:
            recipe = load_recipe(name)
        except SecateurError as error:
            if is_shipped(str(RECIPES[name])):
                raise
            warnings.warn(f"The recipe {RECIPES[name]} is left out: {error}", PluginWarning, stacklevel=2)
            continue
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
    source: str | Path,
    *,
    edit: Callable[[YamlTree], YamlTree] | None = None,
    name: str | None = None,
    home: Path | None = None,
    trust: bool = False,
    project: bool = True,
) -> Recipe:
    """Reads and checks a recipe.

    Args:
        source: A built-in name, or a YAML file.
        edit: Changes the parsed file before it is checked (settings from the command line).
        name: What error messages call the file.
        home: Where the plug-ins that it names are looked for; by default the working directory.
        trust: Whether it may name any plug-in (those of your own project it may anyway, see
            ``secateur.recipe.trust``).
        project: Whether plug-ins of the project that the recipe lies in are your own; not those of a run's folder.

    Raises:
        UnknownNameError: Neither a file nor a built-in recipe.
        DataError: The file cannot be read.
        InputError: Something in it is wrong; the message names the line and what is allowed. Or it names a plug-in
            that is not trusted, or broken.
    """
    tree = parse(_text(source), name or _label(source))
    if edit is not None:
        tree = edit(tree)
    if not trust and str(source) not in RECIPES:
        permit_plugins(tree, Path(source).absolute(), project=project)
    _use_plugins(tree, home)
    recipe = validate(tree, {kind: STEPS[kind].config for kind in STEPS})
    if str(source) not in RECIPES and not all(tree.typed(place) for place in places_of_code(recipe)):
        recipe = replace(recipe, origin=Path(source).absolute())
    _check_order(recipe, tree)
    return recipe


def _use_plugins(tree: YamlTree, home: Path | None) -> None:
    """Imports what a recipe names under ``use``, for its steps may be of these; what is no name is told later."""
    for place, plugin in enumerate(as_list(tree.data.get("use"))):
        if isinstance(plugin, str) and plugin:
            try:
                use(plugin, folder=home)
            except SecateurError as error:
                raise PluginError(f"{tree.where(('use', place))}: use: {error}") from error


def _check_order(recipe: Recipe, tree: YamlTree) -> None:
    seen: set[str] = set()
    for kind, place in (found for entry in recipe.steps for found in _kinds(entry)):
        after = [earlier for earlier in STEPS if STEPS[kind].builds_on(STEPS[earlier])]
        after.sort(key=lambda earlier: not STEPS[earlier].repairable)  # what most recipes cut with comes first
        if after and not seen & set(after):
            either = " or ".join([", ".join(after[:-1]), after[-1]] if len(after) > 1 else after)
            raise InputError(f"{tree.where(place)}: {kind} needs a {either} step before it.")
        seen.add(kind)


def _kinds(entry: StepEntry) -> list[tuple[str, Place]]:
    """Kinds of the steps that an entry stands for, and where they are written."""
    if not isinstance(entry.config, IterateSettings):
        return [(entry.kind, entry.place)]
    inner = (*entry.place, ITERATE, "steps")
    return [(kind, (*inner, number)) for number, (kind, _) in enumerate(inner_steps(entry.config))]


def _label(source: str | Path) -> str:
    return f"{source}.yaml" if str(source) in RECIPES else str(source)


def _text(source: str | Path) -> str:
    path = Path(source)
    if str(source) in RECIPES or not (os.path.lexists(path) or path.suffix in (".yaml", ".yml")):
        return recipe_text(str(source))
    if not os.path.lexists(path):
        raise DataError(f"There is no recipe file {path}.")
    return read_text(path, DataError, largest=LARGEST)
