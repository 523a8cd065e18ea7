"""What a network keeps outside of itself: caches of its functions, dictionaries of its modules and classes.

A network is run on tensors without values, in double precision and in inference mode. What its code remembers of such a
run, in a ``functools.cache`` or in a dictionary beside the class, would be found by the user's next run.
"""

from __future__ import annotations

import functools
import gc
import sys
import types
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from secateur.graph.numbers import Free, FreeFloat

__all__ = ["packages_of", "undisturbed"]

MOST_MODULES = 100
"""Python modules that are looked through, at most: those of the network's classes and what these use of their own."""

DEPTH = 4
"""How deep a cache is looked through for tensors."""

_CACHE = functools._lru_cache_wrapper
_PARTS = {"dict", "list", "set", "tuple", "frozenset", "OrderedDict", "_lru_list_elem"}


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """What is run inside finds no tensors in caches, and leaves none there.

    Args:
        model: The network whose code is run.
    """
    caches, containers = _found(model)
    before = [(container, _copied(container)) for container in containers]
    _cleared(caches)
    try:
        yield
    finally:
        _cleared(caches)
        for container, held in before:
            _restored(container, held)


def packages_of(model: nn.Module) -> frozenset[str]:
    """Packages of the network's own classes: those that are looked through."""
    classes = {base for kind in set(map(type, model.modules())) for base in kind.__mro__}
    return frozenset(c.__module__.partition(".")[0] for c in classes if _own(c.__module__))


def _cleared(caches: Iterable[Any]) -> None:
    for cache in caches:
        known = cache.cache_info()
        if not known.currsize or _WITHOUT.get(id(cache)) == known.misses:
            continue
        if _holds_tensors(cache, DEPTH, first=True):
            cache.cache_clear()
        else:
            _WITHOUT[id(cache)] = known.misses


_WITHOUT: dict[int, int] = {}
"""Caches that held no tensors when they were looked through, with the number of misses then: each brings one entry."""


def _holds_tensors(value: Any, depth: int, *, first: bool = False) -> bool:
    """Whether there are tensors, or numbers of a second recording, in it."""
    if isinstance(value, (Tensor, Free, FreeFloat)):
        return True
    if not depth or not (first or type(value).__name__ in _PARTS):
        return False
    return any(_holds_tensors(part, depth - 1) for part in gc.get_referents(value))


def _copied(container: Any) -> Any:
    return dict(container) if isinstance(container, dict) else list(container)


def _restored(container: Any, held: Any) -> None:
    """Takes back what was changed, where it has to do with tensors."""
    now = _copied(container)
    if isinstance(held, dict):
        changed = [part for k, v in now.items() if k not in held or held[k] is not v for part in (k, v)]
        same = not changed and len(now) == len(held)
    else:
        known = {id(value) for value in held}
        changed = [value for value in now if id(value) not in known]
        same = not changed and len(now) == len(held)
    if same or not any(_holds_tensors(part, DEPTH) for part in changed):
        return
    container.clear()
    if isinstance(container, list):
        container.extend(held)
    else:
        container.update(held)


def _found(model: nn.Module) -> tuple[list[Any], list[Any]]:
    """Caches of functions, and dictionaries, lists and sets, of the modules of the network's code and its classes."""
    classes = frozenset(base for kind in set(map(type, model.modules())) for base in kind.__mro__)
    if classes not in _KNOWN:
        if len(_KNOWN) >= MOST_KNOWN:
            _KNOWN.clear()
        _KNOWN[classes] = _of_classes({c for c in classes if _own(c.__module__)})
    return _KNOWN[classes]


MOST_KNOWN = 32
_KNOWN: dict[frozenset[type], tuple[list[Any], list[Any]]] = {}
"""What was found for the classes of a network; a class that is defined anew is another one."""


def _of_classes(classes: set[type]) -> tuple[list[Any], list[Any]]:
    left = list(dict.fromkeys(c.__module__ for c in sorted(classes, key=lambda c: (c.__module__, c.__qualname__))))
    seen: set[str] = set(left)
    held: list[Any] = [value for c in classes for value in vars(c).values()]
    while left:
        name = left.pop(0)
        space = getattr(sys.modules.get(name), "__dict__", {})
        values = list(space.values())
        held += values
        further = {home for value in values if (home := _home(value)) and home not in seen}
        further = {home for home in further if home.partition(".")[0] == name.partition(".")[0]}
        for home in sorted(further)[: MOST_MODULES - len(seen)]:
            seen.add(home)
            left.append(home)
    caches, containers = {}, {}
    for value in held:
        inner = getattr(value, "__func__", value) if isinstance(value, (staticmethod, classmethod)) else value
        if isinstance(inner, _CACHE):
            caches[id(inner)] = inner
        elif type(value) in (dict, list, set) and type(value).__name__ in _PARTS:
            containers[id(value)] = value
    return list(caches.values()), list(containers.values())


def _home(value: Any) -> str | None:
    """The module of a function or class of the user's, or of a module."""
    if isinstance(value, types.ModuleType):
        return value.__name__ if _own(value.__name__) else None
    name = getattr(value, "__module__", None) if isinstance(value, (types.FunctionType, type, _CACHE)) else None
    return name if isinstance(name, str) and _own(name) else None


def _own(module: str) -> bool:
    """Whether a module is neither Python's, PyTorch's nor ours."""
    head = module.partition(".")[0]
    return (head not in _OTHERS and head not in sys.stdlib_module_names) or module == "__main__"


_OTHERS = {"torch", "secateur", "numpy", "scipy", "builtins"}
