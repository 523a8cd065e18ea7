"""What is compared: each recipe made to start from the same dense network and to end at the same size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from secateur.core.errors import InputError, SecateurError
from secateur.core.yamltree import YamlTree
from secateur.recipe.load import load_recipe
from secateur.recipe.overrides import aim, override, shortcuts
from secateur.recipe.schema import Recipe, StepEntry
from secateur.recipe.steps import STEPS

__all__ = ["DENSE", "at_budget", "at_ratios", "check_alike", "from_dense", "shared_start"]

DENSE = "dense"
"""Name of the job that adapts the network that all others start from."""


def _as_it_is(tree: YamlTree) -> YamlTree:
    return tree


def at_budget(
    sources: Sequence[str | Path],
    *,
    params: float | None = None,
    macs: float | None = None,
    sets: Sequence[str] = (),
    trust: bool = False,
    edit: Callable[[YamlTree], YamlTree] = _as_it_is,
    **options: Any,
) -> dict[str, Recipe]:
    """Loads recipes to be compared at equal parameters or equal MACs.

    Args:
        sources: Built-in names or YAML files.
        params: Share of the dense network's parameters that every recipe keeps.
        macs: The same for MACs; at most one of the two. Without either, each recipe removes what it says.
        sets: ``key=value`` settings for every recipe that has the step they speak to.
        trust: Whether the recipes may name any plug-in, see `load_recipe`.
        edit: Changes every recipe before it is checked.
        options: Those of `secateur.recipe.shortcuts`, likewise: ``model``, ``weights``, ``data``, ``epochs``, ``seed``,
            ``use``.

    Returns:
        Recipes by name.

    Raises:
        InputError: No recipe or one twice, both budgets, or an option that speaks to no recipe.
        SecateurError: What `load_recipe` raises.
    """
    if not sources:
        raise InputError("There is nothing to compare: name at least one recipe.")
    if params is not None and macs is not None:
        raise InputError("Give one of --params and --macs: networks can be made equal in one of them.")
    for key, value in (("params", params), ("macs", macs)):
        if value is not None and not 0 < value <= 1:
            raise InputError(f"--{key} is the share of the dense network to keep, in (0, 1]; got {value!r}.")
    lenient = _Lenient({key: value for key, value in options.items() if value is not None}, sets)
    recipes: dict[str, Recipe] = {}
    for source in sources:
        asked = partial(_asked, params=params, macs=macs, lenient=lenient, edit=edit)
        recipe = load_recipe(source, edit=asked, trust=trust)
        if recipe.name in recipes:
            raise InputError(f"There are two recipes named {recipe.name!r}; give one of the files another name.")
        recipes[recipe.name] = recipe
    lenient.check()
    return recipes


def at_ratios(
    source: str | Path,
    values: Sequence[float],
    *,
    key: str = "ratio",
    sets: Sequence[str] = (),
    trust: bool = False,
    edit: Callable[[YamlTree], YamlTree] = _as_it_is,
    **options: Any,
) -> dict[str, Recipe]:
    """Loads one recipe at several ratios, or several shares of parameters or MACs.

    Args:
        source: Built-in name or YAML file.
        values: The points.
        key: ``ratio`` (share of units or weights removed), ``params`` or ``macs`` (share kept).
        sets: ``key=value`` settings.
        trust: Whether the recipe may name any plug-in, see `load_recipe`.
        edit: Changes the recipe before it is checked.
        options: Those of `secateur.recipe.shortcuts`.

    Returns:
        Recipes by name: that of the recipe and the point.

    Raises:
        InputError: No points, one twice or out of range, or a recipe without such a setting.
    """
    if not values:
        raise InputError("The sweep has no points: give at least one, like --ratios 0.2,0.4,0.6.")
    recipes: dict[str, Recipe] = {}
    for value in values:
        if not (0 <= value < 1 if key == "ratio" else 0 < value <= 1):
            what = "removed, in [0, 1)" if key == "ratio" else "kept, in (0, 1]"
            raise InputError(f"A point of the sweep is the share {what}; got {value!r}.")
        asked = partial(_at, key=key, value=value, sets=sets, options=options, edit=edit)
        recipe = load_recipe(source, edit=asked, trust=trust)
        name = f"{recipe.name}-{key}-{value:g}"
        if name in recipes:
            raise InputError(f"The point {value:g} is given twice.")
        recipes[name] = replace(recipe, name=name)
    return recipes


def _at(
    tree: YamlTree,
    key: str,
    value: float,
    sets: Sequence[str],
    options: Mapping[str, Any],
    edit: Callable[[YamlTree], YamlTree],
) -> YamlTree:
    return override(edit(aim(shortcuts(tree, **options), key, value)), sets)


def _asked(
    tree: YamlTree,
    params: float | None,
    macs: float | None,
    lenient: Callable[[YamlTree], YamlTree],
    edit: Callable[[YamlTree], YamlTree],
) -> YamlTree:
    return lenient(edit(shortcuts(tree, params=params, macs=macs)))


class _Lenient:
    """Options that speak to the recipes that have what they set; one that speaks to none is an error."""

    def __init__(self, options: Mapping[str, Any], sets: Sequence[str]) -> None:
        self._edits: list[Callable[[YamlTree], YamlTree]] = [
            *(partial(shortcuts, **{key: value}) for key, value in options.items()),
            *(partial(override, assignments=[text]) for text in sets),
        ]
        self._errors: list[SecateurError | None] = [None] * len(self._edits)
        self._met = [False] * len(self._edits)

    def __call__(self, tree: YamlTree) -> YamlTree:
        for number, edit in enumerate(self._edits):
            try:
                tree = edit(tree)
            except InputError as error:
                self._errors[number] = error
            else:
                self._met[number] = True
        return tree

    def check(self) -> None:
        for met, error in zip(self._met, self._errors, strict=True):
            if not met and error is not None:
                raise error


def check_alike(recipes: Mapping[str, Recipe]) -> None:
    """Checks that all recipes are about the same network, data and seed.

    Raises:
        InputError: Names what differs and how to make it the same.
    """
    options = (("model", "--model NAME"), ("task", "--task TASK"), ("data", "--data DATA"), ("seed", "--seed NUMBER"))
    for key, option in options:
        found = {name: getattr(recipe, key) for name, recipe in recipes.items()}
        first = next(iter(found.values()))
        if other := next((name for name, value in found.items() if value != first), None):
            one, two = (getattr(value, "name", value) for value in (first, found[other]))
            differ = f"{one} and {two}" if one != two else f"other settings of {one}"
            raise InputError(
                f"A comparison starts from one dense network, but {next(iter(found))} and {other} name {differ} as "
                f"their {key}. Give {option} for all of them."
            )


def shared_start(recipes: Mapping[str, Recipe]) -> Recipe | None:
    """The run that adapts the dense network once: the first plain ``adapt`` that a recipe begins with."""
    for recipe in recipes.values():
        if _plain_adapt(recipe):
            description = "The dense network that all recipes of the comparison start from."
            return replace(recipe, name=DENSE, description=description, steps=recipe.steps[:1])
    return None


def from_dense(recipe: Recipe, adapted: str | None) -> Recipe:
    """The recipe as it runs in a comparison: from the adapted network, without steps that are done for all at once.

    A plain ``adapt`` has been done. One with a penalty (sparsity training) stays, and trains the shared network on.
    What only shows or ships a network is done once for all of them and with nothing else running, or not at all.
    """
    steps: tuple[StepEntry, ...] = recipe.steps
    if adapted is not None:
        steps = steps[1:] if _plain_adapt(recipe) else steps
        recipe = replace(recipe, model=recipe.model.model_copy(update={"adapted": adapted}))
    left_out = {kind for kind in STEPS if not STEPS[kind].compared}
    return replace(recipe, steps=tuple(step for step in steps if step.kind not in left_out))


def _plain_adapt(recipe: Recipe) -> bool:
    first = recipe.steps[0]
    step = STEPS.get(first.kind)  # none for rounds of steps
    return step is not None and step.trains and step.role == DENSE and not getattr(first.config, "penalty", ())
