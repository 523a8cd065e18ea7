"""Names of modules and parameters, and the patterns that stand for them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

from secateur.core.errors import UnknownNameError

__all__ = ["checked", "covered", "paths", "without_numbers"]


def checked(patterns: Iterable[str], names: Iterable[str], argument: str = "") -> list[str]:
    """The patterns as a list; raises :class:`UnknownNameError`, which names the argument, for one that fits no name."""
    patterns, names = [patterns] if isinstance(patterns, str) else list(patterns), list(names)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UnknownNameError("module or parameter", pattern, names, argument=argument)
    return patterns


def covered(parameter: str, patterns: Iterable[str]) -> bool:
    """Whether the parameter or a module that contains it matches a pattern.

    >>> covered("layer1.0.conv.weight", ["layer1"]), covered("layer1.0.conv.weight", ["*.conv"])
    (True, True)
    """
    return any(fnmatchcase(path, pattern) for pattern in patterns for path in paths(parameter))


def without_numbers(name: str) -> str:
    """A name without the places of layers in their lists: the same for all layers of a kind.

    >>> without_numbers("layers.3.mlp.weight"), without_numbers("0.conv1")
    ('layers.*.mlp.weight', '*.conv1')
    """
    return re.sub(r"(?<=\.)\d+(?=\.)|^\d+(?=\.)", "*", name)


def paths(parameter: str) -> list[str]:
    """The names of the modules around a parameter, from the outermost, and its own."""
    parts = parameter.split(".")
    return [".".join(parts[: k + 1]) for k in range(len(parts))]
