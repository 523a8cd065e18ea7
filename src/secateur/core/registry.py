"""One small generic registry, used for criteria, data sets, networks and operators."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from secateur.core.errors import InputError, UnknownNameError

T = TypeVar("T")


class Registry(Generic[T]):
    """Named things of one kind, looked up with an error that offers the nearest names.

    >>> colours: Registry[int] = Registry("colour")
    >>> _ = colours.add("red", 1)
    >>> colours["red"], list(colours)
    (1, ['red'])
    >>> colours["rad"]
    Traceback (most recent call last):
    secateur.core.errors.UnknownNameError: There is no colour named 'rad'. Did you mean 'red'?
    """

    def __init__(self, kind: str) -> None:
        """``kind`` is the word that error messages use."""
        self.kind = kind
        self._items: dict[str, T] = {}

    def add(self, name: str, item: T) -> T:
        """Registers ``item`` under ``name`` and returns it; a name is given only once."""
        if name in self._items:
            raise InputError(f"The {self.kind} {name!r} is registered twice (name={name!r}); give it another name.")
        self._items[name] = item
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

    def __getitem__(self, name: str) -> T:
        """Returns the item called ``name``; raises :class:`UnknownNameError`."""
        if name not in self._items:
            raise UnknownNameError(self.kind, name, self._items)
        return self._items[name]

    def __contains__(self, name: object) -> bool:
        """Whether ``name`` is registered."""
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        """Iterates over the names in alphabetical order."""
        return iter(sorted(self._items))

    def get(self, name: str) -> T | None:
        """Returns the item or ``None``."""
        return self._items.get(name)
