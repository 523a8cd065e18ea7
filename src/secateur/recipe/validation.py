"""From a parsed recipe file to a recipe, or to all that is wrong with it, line by line."""

from __future__ import annotations

from collections.abc import Mapping

from secateur.core.errors import InputError, UnknownNameError
from secateur.core.yamltree import Place, YamlTree
from secateur.recipe.iterate import check_iterate
from secateur.recipe.problems import check
from secateur.recipe.schema import ITERATE, Recipe, RecipeHead, Settings, StepEntry, split_step
from secateur.task.registry import TASKS

__all__ = ["validate"]


def validate(tree: YamlTree, kinds: Mapping[str, type[Settings]]) -> Recipe:
    """Checks plain data against the schema.

    Args:
        tree: The parsed file.
        kinds: The known kinds of steps and the class of each one's settings.

    Raises:
        InputError: Names file, line, key, what was got and what is allowed; all problems at once.
    """
    problems: list[str] = []
    top = {key: value for key, value in tree.data.items() if key != "steps"}
    head = check(RecipeHead, top, (), tree, problems, also=("steps",))
    steps = _check_steps(tree, kinds, problems)
    if problems or head is None:
        raise InputError("\n".join(problems))
    data = head.data
    if data.name is None and head.task.name in TASKS:
        data = data.model_copy(update={"name": TASKS[head.task.name].data})
    return Recipe(head.name, head.description, head.seed, head.model, data, tuple(steps), head.use, head.task)


def _check_steps(tree: YamlTree, kinds: Mapping[str, type[Settings]], problems: list[str]) -> list[StepEntry]:
    entries = tree.data.get("steps")
    if not isinstance(entries, list) or not entries:
        known = ", ".join([*kinds, ITERATE])
        problems.append(f"{tree.where(('steps',))}: steps wants a list of at least one step, of: {known}.")
        return []
    steps = []
    for index, entry in enumerate(entries):
        kind, settings = split_step(entry)
        place: Place = ("steps", index)
        if kind is None:
            problems.append(f"{tree.where(place)}: a step is one name with its settings; got {entry!r:.60}.")
        elif kind == ITERATE:
            steps += check_iterate(tree, (*place, kind), settings, kinds, problems)
        elif kind not in kinds:
            problems.append(f"{tree.where(place)}: {UnknownNameError('step', kind, [*kinds, ITERATE])}")
        else:
            config = check(kinds[kind], settings, (*place, kind), tree, problems)
            steps += [StepEntry(kind, config, place)] if config is not None else []
    return steps
