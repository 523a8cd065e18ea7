"""The recipes that have a name: those that Secateur comes with, and those of plug-ins."""

from __future__ import annotations

from pathlib import Path

from secateur.core.errors import DataError, PluginError, UnknownNameError
from secateur.core.reading import read_text
from secateur.core.registry import Registry

__all__ = ["LARGEST", "RECIPES", "add_recipes", "recipe_text"]

LARGEST = 200_000
"""Bytes of a recipe, which has a dozen lines."""

RECIPES: Registry[Path] = Registry("recipe", check="secateur.recipe.conformance:check_recipe")
"""Files of recipes by name."""


def add_recipes(folder: str | Path) -> tuple[str, ...]:
    """Registers every ``.yaml`` file of a folder as a recipe, under the file's name; for plug-ins.

    Args:
        folder: In a plug-in, mostly ``Path(__file__).parent / "recipes"``.

    Returns:
        The names.

    Raises:
        PluginError: There are no such files, or a name is taken.
    """
    files = sorted(Path(folder).glob("*.yaml"))
    if not files:
        raise PluginError(f"There are no recipes (.yaml files) in {folder}.")
    for file in files:
        RECIPES.add(file.stem, file)
    return tuple(file.stem for file in files)


def recipe_text(name: str) -> str:
    """The YAML of the recipe called ``name``, to run or to start from.

    Raises:
        UnknownNameError: There is none; the message offers the nearest names.
        DataError: A plug-in's file cannot be read.

    >>> recipe_text("thinet").splitlines()[0]
    'name: thinet'
    """
    if name not in RECIPES:
        raise UnknownNameError("recipe", name, RECIPES, "A recipe of your own is a .yaml file.")
    return read_text(RECIPES[name], DataError, largest=LARGEST)


add_recipes(Path(__file__).parent / "recipes")
