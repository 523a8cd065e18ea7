"""Where a network's objects keep numbers: attributes of modules, of configurations that they hold, in closures.

A number there may be a size that a cut changes. The recorder is run with numbers in these places that remember where
they are from, and a smaller network gets other ones.
"""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Any

from torch import Tensor, nn

from secateur.core.errors import PlanError
from secateur.core.plan import Place, Step
from secateur.graph.numbers import Free, FreeFloat, Log

__all__ = ["changed", "number_at", "numbers_of", "reader", "remembering", "tagged", "with_numbers"]

DEPTH = 4
"""How deep lists, dictionaries and configurations are looked through."""

NESTED = 2
"""How deep configurations hold others: that of the words in that of the whole, say."""


def reader(model: nn.Module) -> Callable[[Place], float | None]:
    """What reads the number in a place of ``model``, ``None`` where there is none."""
    modules = dict(model.named_modules(remove_duplicate=False))

    def number_at(place: Place) -> float | None:
        value: Any = modules.get(place.module)
        for step in place.steps:
            value = _Walk.inside(value, step)
        return value if type(value) in (int, float) else None

    return number_at


def number_at(model: nn.Module, place: Place) -> float | None:
    """The number in one place, ``None`` where there is none."""
    return reader(model)(place)


def numbers_of(model: nn.Module) -> dict[Place, Any]:
    """All numbers that a network's modules hold, by place; those that remember where they are from among them."""
    found: dict[Place, Any] = {}

    def note(value: Any, place: Place) -> Any:
        found[place] = value
        return value

    for path, module in model.named_modules():
        _Walk(note).attributes(module, path)
    return found


def tagged(twin: nn.Module, log: Log) -> dict[Place, int]:
    """Puts numbers that remember their place into a copied network; whatever it shares with the original is copied.

    Args:
        twin: The copy; it is changed.
        log: Where what is asked of the numbers is written.

    Returns:
        The places, with the numbers that are there.
    """
    found: dict[Place, int] = {}
    for path, module in twin.named_modules():
        _Walk(_tags(log, found)).attributes(module, path)
    return found


def _tags(log: Log, found: dict[Place, int]) -> Callable[[Any, Place], Any]:
    """What puts a number that remembers its place in the place of a whole one; ``found`` gets what was there."""

    def tag(value: Any, place: Place) -> Any:
        if type(value) is not int or value < 2:
            return value
        found[place] = value
        return Free(value, value, ("attribute", place), log)

    return tag


def remembering(value: Any, log: Log) -> Any:
    """A copy of a configuration whose whole numbers remember their place; the same object where it holds none."""
    return _Walk(_tags(log, {})).value(value, Place("", ()))


def with_numbers(value: Any, numbers: Mapping[Place, float]) -> Any:
    """A copy of a configuration with other numbers, by the places of :func:`remembering`."""
    return _Walk(lambda held, place: numbers.get(place, held), {p.steps for p in numbers}).value(value, Place("", ()))


def changed(model: nn.Module, numbers: Mapping[Place, float]) -> None:
    """Puts other numbers in their places; objects that hold them are copied first, modules are not.

    Args:
        model: A network of one's own; it is changed.
        numbers: What comes where.

    Raises:
        PlanError: There is no number of that kind in a place.
    """
    by_module: dict[str, dict[Place, float]] = {}
    known = reader(model)
    for place, number in numbers.items():
        if type(known(place)) is not type(number):
            raise PlanError(f"The plan gives {place} another number, but this network has no such number there.")
        by_module.setdefault(place.module, {})[place] = number
    shared: dict[tuple[int, frozenset[Any]], Any] = {}
    for path, own in by_module.items():
        walk = _Walk(lambda value, place, own=own: own.get(place, value), {p.steps for p in own}, shared)
        walk.attributes(model.get_submodule(path), path)


class _Walk:
    """Goes through what a module holds; ``leaf`` says what comes in the place of every number.

    Args:
        leaf: Takes a value and its place.
        only: The ways that are gone, ``None`` for all.
        shared: Copies of objects that several modules hold, by ``id`` and what changed in them.
    """

    def __init__(
        self, leaf: Any, only: Iterable[tuple[Step, ...]] | None = None,
        shared: dict[tuple[int, frozenset[Any]], Any] | None = None,
    ) -> None:  # fmt: skip
        self.leaf, self.shared = leaf, {} if shared is None else shared
        self.only = None if only is None else {way[:k] for way in only for k in range(len(way) + 1)}

    @staticmethod
    def inside(value: Any, step: Step) -> Any:
        """What lies one step further; ``None`` for nothing."""
        kind, name = step
        if kind == "attribute":
            return getattr(value, "__dict__", {}).get(name)
        if kind == "item":
            held = type(value) in (list, tuple, dict)
            try:
                return value[name] if held else None
            except (LookupError, TypeError):
                return None
        if kind == "argument" and type(value) is functools.partial:
            known = dict(enumerate(value.args)) | dict(value.keywords)
            return known.get(name)
        if kind == "closure" and isinstance(value, types.FunctionType):
            return _cells(value).get(str(name))
        return None

    def attributes(self, module: nn.Module, path: str) -> None:
        """Changes the attributes of one module in place."""
        for name, value in list(vars(module).items()):
            if name in _OWN:
                continue
            made = self.value(value, Place(path, (("attribute", name),)))
            if made is not value:
                module.__dict__[name] = made

    def value(self, value: Any, place: Place) -> Any:
        """What comes in the place of a value: itself, where nothing in it changes."""
        if self.only is not None and place.steps not in self.only:
            return value
        kind = type(value)
        if kind in (int, float) or isinstance(value, (Free, FreeFloat)):
            return self.leaf(value, place)
        if len(place.steps) > DEPTH or kind in _ATOMS:
            return value
        if kind in (list, tuple, dict):
            return self._container(value, place)
        if isinstance(value, types.FunctionType):
            return self._function(value, place)
        if kind is functools.partial:
            return self._partial(value, place)
        return self._object(value, place)

    def _items(self, items: Iterable[tuple[Any, Any]], kind: str, place: Place) -> dict[Any, Any]:
        """Those that change."""
        made = {
            key: self.value(held, Place(place.module, (*place.steps, (kind, key))))
            for key, held in items
            if type(key) in (str, int)
        }
        return {key: made[key] for key, held in items if key in made and made[key] is not held}

    def _container(self, value: Any, place: Place) -> Any:
        if len(value) > MOST_ITEMS:
            return value
        new = self._items(list(value.items() if type(value) is dict else enumerate(value)), "item", place)
        if not new:
            return value
        if type(value) is dict:
            return value | new
        return type(value)(new.get(k, held) for k, held in enumerate(value))

    def _function(self, value: types.FunctionType, place: Place) -> Any:
        new = self._items(list(_cells(value).items()), "closure", place)
        if not new:
            return value
        names = value.__code__.co_freevars
        cells = [types.CellType(new[n]) if n in new else c for n, c in zip(names, value.__closure__ or (), strict=True)]
        made = types.FunctionType(value.__code__, value.__globals__, value.__name__, value.__defaults__, tuple(cells))
        made.__kwdefaults__ = value.__kwdefaults__
        return functools.update_wrapper(made, value, updated=("__dict__",))

    def _partial(self, value: Any, place: Place) -> Any:
        new = self._items([*enumerate(value.args), *value.keywords.items()], "argument", place)
        args = [new.get(k, held) for k, held in enumerate(value.args)]
        keywords = {key: new.get(key, held) for key, held in value.keywords.items()}
        return functools.partial(value.func, *args, **keywords) if new else value

    def _object(self, value: Any, place: Place) -> Any:
        """A configuration: an object of plain attributes."""
        held = getattr(value, "__dict__", None)
        inside = sum(step[0] == "attribute" for step in place.steps)
        if not isinstance(held, dict) or isinstance(value, _NO_CONFIGURATION) or callable(value) or inside > NESTED:
            return value
        new = self._items(list(held.items()), "attribute", place)
        if not new:
            return value
        key = id(value), frozenset((n, v) for n, v in new.items() if type(v) is int)
        if len(key[1]) == len(new) and key in self.shared:
            return self.shared[key][1]
        try:
            made = copy.copy(value)
        except Exception:  # its class raises what it likes
            return value
        if made is value:  # there is one of it in the whole process
            return value
        made.__dict__.update(new)
        self.shared[key] = value, made  # the first is kept, so that its id stays its own
        return made


MOST_ITEMS = 64
"""Of a list or a dictionary that holds sizes; longer ones are data."""

_ATOMS = {complex, str, bytes, bool, type(None)}
_NO_CONFIGURATION = (type, types.ModuleType, types.MethodType, nn.Module, Tensor, Enum)
_OWN = {*vars(nn.Module()), "secateur_plan"}


def _cells(function: types.FunctionType) -> dict[str, Any]:
    """What a function remembers from around it; cells that are still empty are left out."""
    found = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        try:
            found[name] = cell.cell_contents
        except ValueError:
            continue
    return found
