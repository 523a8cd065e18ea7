"""Experts that are elements of a list of modules leave it; the others are numbered anew, as routers count them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from secateur.core.plan import Place
from secateur.core.types import Counts
from secateur.graph.groups import Groups
from secateur.graph.mixtures import Mixture, are_in_lists, find_mixtures
from secateur.graph.places import changed
from secateur.surgery.attempt import Built, Rung
from secateur.surgery.living import numbers_in_words
from secateur.surgery.shorten import Shortened, drop_elements, same_as_before

__all__ = ["counts_without", "leaving_lists", "shorter_lists"]

Mask = NDArray[np.bool_]


def leaving_lists(model: nn.Module, groups: Groups, label_keep: Mask) -> dict[Mixture, Shortened]:
    """Elements that stay of lists of experts, for every mixture that loses some; empty where nobody asked for it.

    Args:
        model: The dense network.
        groups: Its groups.
        label_keep: Which labels stay.
    """
    if not are_in_lists():
        return {}
    kept = {m: tuple(np.flatnonzero(label_keep[m.labels]).tolist()) for m in find_mixtures(model, groups) if m.lists}
    return {m: dict.fromkeys(m.lists, stays) for m, stays in kept.items() if len(stays) < m.experts}


def shorter_lists(
    model: nn.Module, ways: Sequence[Rung], gone: Mapping[Mixture, Shortened], groups: Groups
) -> list[Rung]:
    """The same ways to a smaller network, each with fewer elements in its lists of experts.

    Where code asks for experts by number, an attribute says how many there are, which no operator's sizes tell: each
    way is tried with such attributes changed that are called after experts, with all of that number, and with none.

    Args:
        model: The dense network.
        ways: How its tensors become smaller.
        gone: What stays of lists.
        groups: The groups of the dense network.
    """

    def shorter(way: Rung, named: str | None) -> Rung:
        return replace(way, build=lambda: _shorter(model, way.build(), gone, groups, named))

    return [shorter(way, named) for way in ways for named in ("expert", "", None)]


def _shorter(
    model: nn.Module, built: Built, gone: Mapping[Mixture, Shortened], groups: Groups, named: str | None
) -> Built:
    lists = {path: tuple(kept) for several in gone.values() for path, kept in several.items()}
    numbers = {} if named is None else _counters(model, gone, named)
    numbers = {p: n for p, n in numbers.items() if p not in built.numbers}
    before = {place: mixture for place, (mixture, _) in numbers.items()}
    after = {place: kept for place, (_, kept) in numbers.items()}
    changed(built.model, after)
    drop_elements(built.model, lists, configurations=False)
    put_back = [_by_position(built.model.get_submodule(path)) for path in lists]
    view = groups.flow.traced

    def finish() -> None:
        built.finish()
        same_as_before(built.model, lists, view, put_back)

    notes = [f"experts of {p}: {len(model.get_submodule(p))} → {len(k)}" for p, k in lists.items()]  # type: ignore[arg-type]
    return replace(built, numbers={**built.numbers, **after}, shortened={**built.shortened, **lists}, finish=finish,
                   notes=(*built.notes, *notes, *numbers_in_words(after, before)))  # fmt: skip


def _counters(model: nn.Module, gone: Mapping[Mixture, Shortened], named: str) -> dict[Place, tuple[int, int]]:
    """Attributes around the experts that are their number, with it before and after."""
    found: dict[Place, tuple[int, int]] = {}
    for mixture, lists in gone.items():
        left = len(next(iter(lists.values())))
        start = f"{mixture.name}." if mixture.name else ""
        for path, module in model.named_modules():
            if path != mixture.name and not path.startswith(start):
                continue
            if path.startswith(tuple(f"{one}." for one in lists)) or isinstance(module, (nn.Linear, nn.ModuleList)):
                continue
            for name, value in vars(module).items():
                if type(value) is int and value == mixture.experts and named in name and not name.startswith("_"):
                    found[Place(path, (("attribute", name),))] = (value, left)
    return found


class _ByPosition(nn.ModuleList):
    """A list with gaps in its names, whose elements are asked for by their position."""

    def __getitem__(self, idx: Any) -> Any:
        found = list(self._modules.values())[idx]
        return nn.ModuleList(found) if isinstance(idx, slice) else found


def _by_position(held: nn.Module) -> Callable[[], None]:
    """Lets a list be asked by position while its elements still have their old names; returns what undoes it."""
    kind = held.__class__
    if kind is nn.ModuleList:
        held.__class__ = _ByPosition

    def undo() -> None:
        held.__class__ = kind

    return undo


def counts_without(small: nn.Module, after: Counts, gone: Mapping[Mixture, Shortened]) -> Counts:
    """Counts of the network without the layers in the elements that left.

    Args:
        small: The smaller network.
        after: Counts of the dense network with fewer channels.
        gone: What stays of lists.
    """
    left = tuple(
        f"{path}.{number}."
        for mixture, lists in gone.items()
        for path, kept in lists.items()
        for number in set(range(mixture.experts)) - set(kept)
    )
    layers = tuple(layer for layer in after.layers if not f"{layer.name}.".startswith(left))
    return Counts(sum(p.numel() for p in small.parameters()), sum(layer.macs for layer in layers), layers)
