"""One small generic registry, used for criteria, data sets, networks, operators, steps and the like.

What is registered by installed packages is looked for when a name is not found or the names are listed, and not before:
see :mod:`secateur.core.plugins`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar
from weakref import WeakSet

from secateur.core.errors import PluginError, UnknownNameError

__all__ = ["Origin", "Registry", "is_shipped"]

T = TypeVar("T")

_HOUSE = Path(__file__).resolve().parents[1]


class Origin(NamedTuple):
    """The line of code that registered something."""

    file: str
    line: int

    def __str__(self) -> str:
        """The place in words."""
        return f"{self.file}, line {self.line}"


def is_shipped(file: str) -> bool:
    """Whether a file is one of Secateur's own.

    >>> is_shipped(__file__), is_shipped("my_module.py")
    (True, False)
    """
    return Path(file).is_relative_to(_HOUSE)


class Registry(Generic[T]):
    """Named things of one kind, looked up with an error that offers the nearest names.

    Attributes:
        kind: The word that error messages use.
        check: Where the function is that tries one item, as ``module:function`` of name and item; it raises an error.
        everything: All registries there are.

    >>> colours: Registry[int] = Registry("colour")
    >>> _ = colours.add("red", 1)
    >>> colours["red"], list(colours)
    (1, ['red'])
    >>> colours["rad"]
    Traceback (most recent call last):
    secateur.core.errors.UnknownNameError: There is no colour named 'rad'. Did you mean 'red'?
    """

    everything: ClassVar[WeakSet[Registry[Any]]] = WeakSet()

    def __init__(self, kind: str, *, check: str = "") -> None:
        """See the class."""
        self.kind, self.check = kind, check
        self._items: dict[str, T] = {}
        self._origins: dict[str, Origin] = {}
        Registry.everything.add(self)

    def add(self, name: str, item: T) -> T:
        """Registers ``item`` under ``name`` and returns it; a name is given only once.

        Raises:
            PluginError: The name is taken; the message says where by.
        """
        here = _registering_line()
        if name in self._items:
            raise PluginError(
                f"The {self.kind} {name!r} is registered twice: in {self._origins[name]}, and in {here}. Give one of "
                "them another name."
            )
        self._items[name], self._origins[name] = item, here
        return item

    def replace(self, name: str, item: T) -> None:
        """Puts ``item`` in the place of what is registered under ``name``."""
        if name not in self._items:
            raise UnknownNameError(self.kind, name, self._items)
        self._items[name] = item

    def register(self, *names: str) -> Callable[[T], T]:
        """Decorator form of :meth:`add`, for one or several names."""

        def decorate(item: T) -> T:
            for name in names:
                self.add(name, item)
            return item

        return decorate

    def remove(self, name: str) -> None:
        """Takes ``name`` out again."""
        del self._items[name], self._origins[name]

    def origin(self, name: str) -> Origin:
        """The line of code that registered ``name``."""
        self[name]
        return self._origins[name]

    @property
    def present(self) -> tuple[str, ...]:
        """The names that are registered so far, in order; nothing is loaded to find more."""
        return tuple(sorted(self._items))

    def __getitem__(self, name: str) -> T:
        """Returns the item called ``name``; raises :class:`UnknownNameError`."""
        if name not in self:
            raise UnknownNameError(self.kind, name, self._items)
        return self._items[name]

    def __contains__(self, name: object) -> bool:
        """Whether ``name`` is registered."""
        if name not in self._items:
            _load_installed()
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        """Iterates over the names in alphabetical order."""
        _load_installed()
        return iter(self.present)

    def get(self, name: str) -> T | None:
        """Returns the item or ``None``."""
        return self._items[name] if name in self else None


def _load_installed() -> None:
    from secateur.core.plugins import load_installed  # which knows of this module

    load_installed()


def _registering_line() -> Origin:
    """The innermost line that belongs to no function of Secateur's: that of a decorator's use, not of its body."""
    frame: Any = sys._getframe(2)
    while frame.f_back is not None and frame.f_code.co_name != "<module>" and is_shipped(frame.f_code.co_filename):
        frame = frame.f_back
    return Origin(frame.f_code.co_filename, frame.f_lineno)
