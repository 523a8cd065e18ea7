"""Settings from the command line, laid over a recipe file before it is checked."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import yaml

from secateur.core.errors import InputError, UnknownNameError
from secateur.core.yamltree import Place, YamlTree
from secateur.recipe.schema import ITERATE, as_list, split_step
from secateur.recipe.steps import STEPS
from secateur.task.registry import TASKS

__all__ = ["aim", "override", "settings_of", "shortcuts"]

AMOUNTS = ("ratio", "params", "macs", "energy", "size", "latency", "latency_ms", "std", "count", "names")
"""Settings of which a step that removes takes one."""


def shortcuts(
    tree: YamlTree,
    *,
    model: str | None = None,
    weights: str | None = None,
    data: str | None = None,
    task: str | None = None,
    ratio: float | None = None,
    epochs: int | None = None,
    seed: int | None = None,
    params: float | None = None,
    macs: float | None = None,
    use: Sequence[str] = (),
) -> YamlTree:
    """Applies the options that have a name of their own (``--model``, ``--weights``, …); ``use`` adds plug-ins.

    ``epochs`` speaks to every step that trains; ``ratio``, ``params`` and ``macs`` to the steps that remove, see
    :func:`aim`. A network that is exchanged loses the file's weights and factory options, which were meant for the
    other one; likewise a data set its mean and standard deviation. A task that is exchanged brings its own network and
    data set, where no others are named.
    """
    tree = YamlTree(copy.deepcopy(tree.data), tree.source, tree.lines)
    tree = _with_plugins(tree, use)
    if task is not None:
        tree = _with_task(tree, task, known_model=model is not None, known_data=data is not None)
    if model is not None:
        _forget(tree, "model", ("weights", "options", "adapted"))
        tree = _set(tree, "model.name", model, "--model")
    if weights is not None:
        tree = _set(tree, "model.weights", weights, "--weights")
    if data is not None:
        _forget(tree, "data", ("mean", "std"))
        tree = _set(tree, "data.name", data, "--data")
    if seed is not None:
        tree = _set(tree, "seed", seed, "--seed")
    for key, value in (("ratio", ratio), ("params", params), ("macs", macs)):
        if value is not None:
            tree = aim(tree, key, value)
    if epochs is not None:
        training = [kind for kind in STEPS if STEPS[kind].trains]
        tree = _set_kinds(tree, training, "epochs", epochs, "--epochs")
    return tree


def _with_task(tree: YamlTree, task: str, *, known_model: bool, known_data: bool) -> YamlTree:
    before = tree.data.get("task", "classification")
    if (before.get("name") if isinstance(before, dict) else before) == task:
        return tree
    tree = _set(tree, "task", {"name": task}, "--task")
    if task in TASKS and not (known_model or (TASKS[task].model and (known_data or TASKS[task].data))):
        raise InputError(f"--task {task} has no network and no data of its own: name yours, --model and --data.")
    _forget(tree, "data", ("mean", "std", "image_size", "name"))
    if task in TASKS and not known_model:
        _forget(tree, "model", ("weights", "options", "adapted", "head"))
        tree = _set(tree, "model.name", TASKS[task].model, "--task")
    if task in TASKS and not known_data:
        tree = _set(tree, "data.name", TASKS[task].data, "--task")
    return tree


def _with_plugins(tree: YamlTree, plugins: Sequence[str]) -> YamlTree:
    known = as_list(tree.data.get("use"))
    new = [plugin for plugin in plugins if plugin not in known]
    if new:
        places = range(len(known), len(known) + len(new))
        tree = YamlTree(tree.data, tree.source, {**tree.lines, **{("use", place): "--use" for place in places}})
        tree.data["use"] = [*known, *new]
    return tree


def aim(tree: YamlTree, key: str, value: float) -> YamlTree:
    """Says how much the steps that remove are to remove, in place of what they say themselves.

    The first kind of step in the recipe that has such a setting is spoken to, in all its places. Shares of
    parameters and MACs are of the dense network. Where only single weights are removed, ``params`` is the share of
    them that stays.

    Args:
        tree: The parsed file.
        key: ``ratio`` (share removed), ``params`` or ``macs`` (to keep).
        value: The number.

    Raises:
        InputError: No step of the recipe has such a setting.
    """
    tree, option = YamlTree(copy.deepcopy(tree.data), tree.source, tree.lines), f"--{key}"
    present = dict.fromkeys(kind for _, kind in _entries(tree.data))
    known = {kind: STEPS[kind].config.model_fields for kind in present if kind in STEPS}
    kind = next((kind for kind in known if key in known[kind]), None)
    single = next((k for k in known if STEPS[k].cuts == "weights" and "ratio" in known[k]), None)
    if kind is None and key == "params" and single is not None:
        kind, key, value = single, "ratio", 1 - value
    if kind is None:
        able = [name for name in STEPS if key in STEPS[name].config.model_fields]
        raise InputError(f"{option} has nothing to set: the recipe has no {' or '.join(able)} step.")
    for settings in settings_of(tree, kind):
        for other in AMOUNTS:
            settings.pop(other, None)
        settings.pop("tolerance" if key == "ratio" else "ratio_of", None)  # of a target, and of a ratio
        if key != "ratio" and "of" in known[kind]:
            settings["of"] = "dense"
    return _set(tree, f"steps.{kind}.{key}", value, option)


def settings_of(tree: YamlTree, kind: str) -> list[dict[str, Any]]:
    """The settings of every step of that kind, to be changed in place."""
    found = []
    for place, name in _entries(tree.data):
        entry: Any = tree.data
        for part in (*place, name):
            entry = entry[part]
        found += [entry] if name == kind and isinstance(entry, dict) else []
    return found


def _forget(tree: YamlTree, part: str, keys: Iterable[str]) -> None:
    settings = tree.data.get(part)
    if isinstance(settings, dict):
        for key in keys:
            settings.pop(key, None)


def override(tree: YamlTree, assignments: Iterable[str]) -> YamlTree:
    """Applies ``key=value`` settings; the value is read as YAML.

    ``steps.prune.ratio=0.3`` speaks to every prune step, ``steps.2.prune.ratio=0.3`` to the third step.

    Raises:
        InputError: No ``=``, a step that the recipe does not have, or a value that is not YAML.

    >>> from secateur.core.yamltree import parse
    >>> tree = parse("name: a\\nsteps: [prune: {ratio: 0.1}]", "a.yaml")
    >>> override(tree, ["steps.prune.ratio=0.3", "seed=7"]).data
    {'name': 'a', 'steps': [{'prune': {'ratio': 0.3}}], 'seed': 7}
    """
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key.strip():
            raise InputError(f"--set wants key=value, like steps.prune.ratio=0.3; got {assignment!r}.")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise InputError(f"--set {assignment}: {text!r} is not a YAML value.") from error
        tree = _set(tree, key.strip(), value, f"--set {key.strip()}")
    return tree


def _set_kinds(tree: YamlTree, kinds: Iterable[str], key: str, value: Any, option: str) -> YamlTree:
    kinds = tuple(kinds)
    present = [kind for _, kind in _entries(copy.deepcopy(tree.data)) if kind in kinds]
    if not present:
        raise InputError(f"{option} has nothing to set: the recipe has no {' or '.join(kinds)} step.")
    for kind in dict.fromkeys(present):
        tree = _set(tree, f"steps.{kind}.{key}", value, option)
    return tree


def _set(tree: YamlTree, key: str, value: Any, option: str) -> YamlTree:
    """Returns a copy with ``value`` at the dotted ``key``, remembering ``option`` as its origin."""
    data, lines = copy.deepcopy(tree.data), dict(tree.lines)
    for place in _places(data, key.split("."), option):
        inner: Any = data
        for part in place[:-1]:
            if not isinstance(inner, list) and inner.get(part) is None:
                inner[part] = {}
            inner = inner[part]
            if not isinstance(inner, dict | list):
                raise InputError(f"{option}: {part} is a single value, nothing can be set inside it.")
        inner[place[-1]] = value
        for known in [k for k in lines if k[: len(place)] == place]:
            del lines[known]
        lines[place] = option
    return YamlTree(data, tree.source, lines)


def _places(data: dict[str, Any], parts: list[str], option: str) -> list[Place]:
    """Turns dotted parts into places, with a step's kind standing for the positions that have it."""
    if parts[0] != "steps":
        return [tuple(parts)]
    steps = data.get("steps")
    if not isinstance(steps, list) or len(parts) < 2:
        raise InputError(f"{option}: say which step, like steps.prune.ratio.")
    entries = dict(_entries(data))
    if parts[1].isdecimal():
        return [_numbered(steps, parts, option)]
    if len(parts) < 3:
        raise InputError(f"{option}: say which setting of the step, like steps.prune.ratio.")
    found = [place for place, kind in entries.items() if kind == parts[1]]
    if not found:
        raise UnknownNameError("step of this recipe", parts[1], entries.values())
    return [(*place, *parts[1:]) for place in found]


def _numbered(steps: list[Any], parts: list[str], option: str) -> Place:
    """The place of ``steps.2.prune.ratio``; a step inside ``iterate`` is ``steps.2.iterate.steps.0.prune.ratio``."""
    if int(parts[1]) >= len(steps):
        raise InputError(f"{option}: the recipe has {len(steps)} steps, numbered from 0.")
    entry = steps[int(parts[1])]
    kind = next(iter(entry)) if isinstance(entry, dict) and entry else entry
    if len(parts) < 4 or parts[2] != kind:
        raise InputError(f"{option}: step {parts[1]} is {kind}; write steps.{parts[1]}.{kind}.…")
    if kind == ITERATE and parts[3] == "steps" and len(parts) > 4 and parts[4].isdecimal():
        inner = _numbered(entry[kind]["steps"], ["steps", *parts[4:]], option)
        return ("steps", int(parts[1]), kind, *inner)
    return ("steps", int(parts[1]), *parts[2:])


def _entries(data: dict[str, Any], place: Place = ()) -> Iterator[tuple[Place, str]]:
    """Place and kind of every step, those inside ``iterate`` included.

    ``- measure`` is rewritten as ``- measure: {}`` on the way, so that it can be set in.
    """
    steps: Any = data.get("steps")
    for index, entry in enumerate(steps if isinstance(steps, list) else ()):
        kind, settings = split_step(entry)
        if kind is None:
            continue
        steps[index] = {kind: settings}
        yield (*place, "steps", index), kind
        if kind == ITERATE and isinstance(settings, dict):
            yield from _entries(settings, (*place, "steps", index, kind))
