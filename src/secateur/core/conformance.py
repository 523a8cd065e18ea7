"""Does what was registered do what its kind has to do? Every kind has a check; this module finds it and asks it.

A registry names the function that checks its items; it is imported when it is asked, and lies in the room of the kind.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from secateur.core import arguments
from secateur.core.errors import PluginError, UnknownNameError, first_line, nearest
from secateur.core.plugins import load_installed, use
from secateur.core.registry import Registry

__all__ = ["Checked", "check", "check_item"]


class Checked(NamedTuple):
    """Something that was checked, and is in order.

    Attributes:
        kind: What it is, for instance ``criterion``.
        name: What it is called.
        tried: Whether there is a check for its kind; without one it was only found.
    """

    kind: str
    name: str
    tried: bool


@arguments.checked
def check(what: str | Path | ModuleType) -> tuple[Checked, ...]:
    """Tries what a plug-in registered, or one registered thing, as the tests try what Secateur comes with.

    Args:
        what: A registered name, or a plug-in as :func:`secateur.use` takes it.

    Returns:
        What was tried, in order.

    Raises:
        PluginError: Something fails, or the plug-in registered nothing; the message names the line that registered it.
        UnknownNameError: Neither is anything registered under this name, nor is there such a plug-in.

    >>> import secateur
    >>> import secateur.criteria
    >>> secateur.check("l2")
    (Checked(kind='criterion', name='l2', tried=True),)
    """
    load_installed()
    found = [(r, what) for r in _registries() if what in r.present] if isinstance(what, str) else []
    if not found:
        try:
            module = use(what)
        except UnknownNameError as error:
            close = nearest(str(what), {name for registry in _registries() for name in registry.present})
            if not close:
                raise
            raise UnknownNameError("registered thing or plug-in", str(what), close) from error
        found = list(_of_module(module))
    if not found:
        raise PluginError(f"The plug-in {what} registers nothing: no criterion, operator, step or the like.")
    return tuple(check_item(registry, name) for registry, name in found)


def check_item(registry: Registry[Any], name: str) -> Checked:
    """Tries one registered thing.

    Raises:
        PluginError: It fails.
    """
    if not registry.check:
        return Checked(registry.kind, name, tried=False)
    module, _, function = registry.check.partition(":")
    try:
        getattr(import_module(module), function)(name, registry[name])
    except Exception as error:
        said = first_line(error).rstrip(".")
        words = said if isinstance(error, AssertionError | PluginError) else f"{type(error).__name__}: {said}"
        where = registry.origin(name)
        raise PluginError(f"The {registry.kind} {name!r} is not in order: {words} ({where}).") from error
    return Checked(registry.kind, name, tried=True)


def _registries() -> list[Registry[Any]]:
    return sorted(Registry.everything, key=lambda registry: registry.kind)


def _of_module(module: ModuleType) -> Iterator[tuple[Registry[Any], str]]:
    """What was registered by a module's file, or by any file of its package."""
    file = Path(str(module.__file__))
    top = file.parent if file.name == "__init__.py" else file
    for registry in _registries():
        for name in registry.present:
            if Path(registry.origin(name).file).is_relative_to(top):
                yield registry, name
