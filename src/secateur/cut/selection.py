"""``only`` and ``ignore``: module names and patterns become labels that must stay."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from torch import nn

from secateur.core.errors import UnknownNameError
from secateur.graph.flow import Flow
from secateur.graph.labels import Vector

__all__ = ["checked", "covered", "pinned_by_selection"]


def pinned_by_selection(
    flow: Flow, model: nn.Module, only: Iterable[str] | None, ignore: Iterable[str]
) -> list[Vector]:
    """Labels of the output channels that ``only`` and ``ignore`` keep from being pruned.

    A name stands for a parameter, or for a module and everything inside it; ``*`` and ``?`` match as in file
    names. A layer that is ignored keeps its output channels; its input channels follow the layers before it.

    Raises:
        UnknownNameError: A name or pattern that fits no module.
    """
    names = [n for n, _ in model.named_modules() if n] + list(flow.tensors)
    if only is not None:
        only = checked(only, names, "only")
    ignore = checked(ignore, names, "ignore")
    pinned: list[Vector] = []
    for name, labels in flow.tensors.items():
        kept = covered(name, ignore) or (only is not None and not covered(name, only) and labels.ndim > 1)
        if kept:
            pinned += [v[0] for v in labels.dims.values() if len(v[0]) and int(v[0][0]) not in flow.consumed]
    return pinned


def checked(patterns: Iterable[str], names: list[str], argument: str = "") -> list[str]:
    """The patterns as a list; raises :class:`UnknownNameError`, which names the argument, for one that fits no name."""
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UnknownNameError("module or parameter", pattern, names, argument=argument)
    return patterns


def covered(parameter: str, patterns: Iterable[str]) -> bool:
    """Whether the parameter or a module that contains it matches a pattern."""
    parts = parameter.split(".")
    paths = [".".join(parts[: k + 1]) for k in range(len(parts))]
    return any(fnmatchcase(path, pattern) for pattern in patterns for path in paths)
