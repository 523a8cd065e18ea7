"""Mixtures of experts in a labelled network: which router chooses among which experts, and what holds them.

Experts whose weights are stacked in one tensor go as channels do. Where every expert is an element of a list of
modules, code asks for them one by one (``numbers == 3``), which pins them: an element that leaves its list is another
cut than fewer channels. Inside of :func:`experts_in_lists` such a question asks for that expert alone, so it may go.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import nn

from secateur.graph.labels import Labels, Vector
from secateur.graph.schema import arguments

if TYPE_CHECKING:
    from torch.fx import Node

    from secateur.core.types import Member
    from secateur.graph.groups import Groups

__all__ = ["Mixture", "are_in_lists", "experts_in_lists", "find_mixtures"]

_IN_LISTS: ContextVar[bool] = ContextVar("experts_in_lists", default=False)


@contextlib.contextmanager
def experts_in_lists(on: bool = True) -> Iterator[None]:
    """Whatever is labelled inside takes elements of lists, asked for one by one, for experts that may go."""
    before = _IN_LISTS.set(on or _IN_LISTS.get())
    try:
        yield
    finally:
        _IN_LISTS.reset(before)


def are_in_lists() -> bool:
    """Whether :func:`experts_in_lists` is around."""
    return _IN_LISTS.get()


@dataclass(frozen=True, eq=False)
class Mixture:
    """A router with the experts that it chooses among.

    Attributes:
        name: The smallest module that holds both; empty for the network itself.
        group: Number of the group whose units the experts are.
        places: The unit, by its position in the group, that every expert belongs to, shape (experts,).
        labels: Labels of the experts, shape (experts,).
        router: Name of the router's weight, shape (experts, width).
        lists: Lists of modules with one element an expert; empty where the experts are stacked in tensors.
        chosen: Experts that compute a token.
    """

    name: str
    group: int
    places: NDArray[np.int64]
    labels: Vector
    router: str
    lists: tuple[str, ...]
    chosen: int

    @property
    def experts(self) -> int:
        """How many there are."""
        return len(self.places)

    @property
    def units(self) -> int:
        """How many can go one by one."""
        return int(self.places.max()) + 1

    @property
    def at_once(self) -> int:
        """Experts that are one unit: 1, or as many as a router takes for one group."""
        return self.experts // self.units


def find_mixtures(model: nn.Module, groups: Groups) -> tuple[Mixture, ...]:
    """The mixtures whose experts are units, in the order of execution.

    Args:
        model: The network that was labelled.
        groups: Its groups.
    """
    found: dict[int, Mixture] = {}
    for node, labels in _choices(groups):
        mixture = _mixture(model, groups, node, labels)
        if mixture is not None and (old := found.get(mixture.group)) is not None:
            mixture = max(old, mixture, key=lambda one: one.experts)  # a choice of groups of experts comes before
        if mixture is not None:
            found[mixture.group] = mixture
    return tuple(found.values())


def _choices(groups: Groups) -> Iterator[tuple[Node, Vector]]:
    """Operators that choose the largest along a labelled dimension, with its labels."""
    for node, found in groups.flow.labels.items():
        for part in found if isinstance(found, list) else []:
            if isinstance(part, Labels) and part.points is not None and "k" in arguments(node):
                yield node, part.points


def _mixture(model: nn.Module, groups: Groups, node: Node, labels: Vector) -> Mixture | None:
    units = groups.unit_of(labels)
    number = next((n for n, g in enumerate(groups.items) if units.min() >= 0 and set(units) == set(g.units)), None)
    if number is None:
        return None
    group = groups.items[number]
    tensors = groups.flow.tensors
    router = next((m for m in group.members if not m.dim and not m.consumes and tensors[m.parameter].ndim == 2), None)
    if router is None:
        return None
    stacked = [_home(m.parameter) for m in group.members if tensors[m.parameter].ndim > 2]
    lists = [] if stacked else _lists(model, router, len(labels))
    if not stacked and not lists:
        return None
    order = {int(unit): place for place, unit in enumerate(group.units)}
    name = _around([_home(router.parameter), *stacked, *lists])
    k = arguments(node)["k"]
    return Mixture(name, number, np.array([order[int(u)] for u in units]), labels, router.parameter, tuple(lists),
                   k if isinstance(k, int) else group.least)  # fmt: skip


def _home(parameter: str) -> str:
    return parameter.rpartition(".")[0]


def _around(paths: Sequence[str]) -> str:
    """The smallest module that holds all of them."""
    columns = itertools.takewhile(lambda names: len(set(names)) == 1, zip(*(p.split(".") for p in paths), strict=False))
    return ".".join(names[0] for names in columns)


def _lists(model: nn.Module, router: Member, length: int) -> list[str]:
    """Lists of so many elements in the smallest module around the router that has any."""
    path = _home(router.parameter)
    while path:
        path = path.rpartition(".")[0]
        inside = model.get_submodule(path).named_modules()
        found = [f"{path}.{n}".lstrip(".") for n, m in inside if isinstance(m, nn.ModuleList) and len(m) == length]
        if found:
            return found
    return []
