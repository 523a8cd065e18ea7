"""``only``, ``ignore`` and ``groups``: which modules, by name or pattern, and which groups a cut may touch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import overload

from torch import nn

from secateur.core.errors import BudgetError, InputError, UnknownNameError
from secateur.core.patterns import checked, covered
from secateur.graph.copies import unwrapped
from secateur.graph.flow import Flow
from secateur.graph.groups import Groups
from secateur.graph.labels import Vector

__all__ = ["Selection", "groups_named", "names_in", "pinned_by_selection"]

Selection = str | nn.Module | Iterable[str | nn.Module]
"""Modules of the network, or names and patterns of modules and parameters."""


@overload
def names_in(model: nn.Module, given: Selection, argument: str) -> list[str]: ...


@overload
def names_in(model: nn.Module, given: Selection | None, argument: str) -> list[str] | None: ...


def names_in(model: nn.Module, given: Selection | None, argument: str) -> list[str] | None:
    """Names and patterns as they are, and the names of modules that are handed over themselves.

    Args:
        model: The network as the user has it: copies hold other modules.
        given: What :data:`Selection` says; ``None`` stays ``None``.
        argument: What the argument is called.

    Raises:
        InputError: A module that is not one of the network's.

    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    >>> names_in(net, net[0], "only"), names_in(net, ["1", net], "only")
    (['0'], ['1', '*'])
    """
    if given is None:
        return None
    several = [given] if isinstance(given, (str, nn.Module)) else list(given)
    return [name for one in several for name in ([one] if isinstance(one, str) else _names(model, one, argument))]


def _names(model: nn.Module, module: nn.Module, argument: str) -> list[str]:
    found = [name or "*" for name, other in unwrapped(model).named_modules(remove_duplicate=False) if other is module]
    if not found and module is not model:
        kind = type(module).__name__
        alike = [name for name, other in unwrapped(model).named_modules() if name and type(other) is type(module)]
        offer = f"it has a {kind} at {', '.join(map(repr, alike[:3]))}" if alike else f"it has no {kind}"
        raise InputError(
            f"{argument}=…: the {kind} that was given is not a module of the network ({offer}; a copy is another "
            f"module). Give one of the network's own, as net.get_submodule(name), or its name."
        )
    return found or ["*"]


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
    modules = dict(model.named_modules())

    def embeds(name: str) -> bool:
        return isinstance(modules.get(name.rpartition(".")[0]), (nn.Embedding, nn.EmbeddingBag))

    pinned: list[Vector] = []
    for name, labels in flow.tensors.items():
        kept = covered(name, ignore) or (only is not None and not covered(name, only) and labels.ndim > 1)
        if kept:
            pinned += [v[0] for v in labels.dims.values() if len(v[0]) and int(v[0][0]) not in flow.consumed]
            pinned += labels.at(1) if embeds(name) else ()  # read by a head that shares the weight, too
    return pinned


def groups_named(groups: Groups, names: Iterable[str] | None) -> set[str] | None:
    """Names of the groups that may be pruned, ``None`` for all.

    Raises:
        UnknownNameError: There is no group of that name.
        BudgetError: No name at all.
    """
    if names is None:
        return None
    known = {group.name for group in groups.items}
    wanted = {names} if isinstance(names, str) else set(names)
    for name in wanted - known:
        raise UnknownNameError("group", name, known, argument="groups")
    if not wanted:
        raise BudgetError("groups is empty: name the groups that may be cut, or leave it out for all of them.")
    return wanted
