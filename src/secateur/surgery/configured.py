"""A library's configuration is made true, so that its own save and load work on the smaller network.

The network's class is built from its configuration (without memory for weights) with numbers that remember which entry
they are. What the attributes of its layers are made of says what the entries have to become. A class built from the
new configuration then has to have exactly the shapes of the smaller network; every number in which it differs from the
class as it was built before is carried over.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from secateur.core.plan import Place
from secateur.graph.calling import preserved_rng
from secateur.graph.numbers import Free, Log
from secateur.graph.outside import packages_of, undisturbed
from secateur.graph.places import number_at, numbers_of, reader, remembering, with_numbers
from secateur.surgery.adapted import bare
from secateur.surgery.building import Asked, Unsayable, agree, built, described, instance, same_shapes, shapes_of
from secateur.surgery.shorten import Shortened, shorten_entries
from secateur.surgery.sizes import Equation, Sizes, Solver, leaves

__all__ = ["Configured", "configured", "configured_depth"]

MOST_TRIED = 16
"""Configurations that are built, at most."""


@dataclass(frozen=True)
class Configured:
    """A configuration that describes the smaller network.

    Attributes:
        entries: Its entries that change: before and after.
        numbers: What the class has in its attributes when it is built from it, where that is other than before.
    """

    entries: Mapping[str, tuple[float, float]]
    numbers: Mapping[Place, float]

    @property
    def notes(self) -> list[str]:
        """What changes, in words."""
        words = ", ".join(f"{name} {before} → {after}" for name, (before, after) in self.entries.items())
        return [f"configuration: {words}"] if words else []


def configured(model: nn.Module, small: nn.Module, sizes: Sizes) -> Configured:
    """Finds the configuration of the smaller network.

    Args:
        model: The dense network; it is not touched.
        small: Its copy that is cut; it is not touched.
        sizes: What its attributes have to be for its code to run.

    Raises:
        Unsayable: No configuration has these sizes, or the class computes another table from it.
    """
    found = Configured({}, {})
    for whole in described(model):
        part = bare(small.get_submodule(whole.path))
        one = _configured(whole.network, part.network, replace(sizes, read=whole.inside(sizes.read)))
        found = _together(found, replace(one, numbers=whole.outside(one.numbers)), whole.path)
    return found


def _configured(model: nn.Module, small: nn.Module, sizes: Sizes) -> Configured:
    config: Any = model.config
    with preserved_rng(), undisturbed(model):
        before = built(model, config)
        if not agree(before, model):
            raise Unsayable("it does not describe the network as it was before the cut")
        for entries in itertools.islice(_candidates(model, config, small, sizes), MOST_TRIED):
            try:
                after = built(model, with_numbers(config, entries))
            except Unsayable:
                continue
            known = reader(after)
            if agree(after, small) and all(known(p) == n for p, n in sizes.read.items()):
                if other := _other_table(after, small, before):
                    raise Unsayable(f"its class computes {other} anew, which the cut made another one")
                return _differences(config, entries, before, after, small)
    raise Unsayable(_why(before, small))


def configured_depth(model: nn.Module, lists: Shortened) -> Configured:
    """Finds the configuration of a network whose lists of modules are shorter.

    Args:
        model: The dense network; it is not touched.
        lists: Elements that stay, by the list's name.

    Raises:
        Unsayable: No configuration has so many layers of this kind.
    """
    found = Configured({}, {})
    for whole in described(model):
        if own := whole.named(lists):
            one = _configured_depth(whole.network, own)
            found = _together(found, replace(one, numbers=whole.outside(one.numbers)), whole.path)
    return found


def _together(one: Configured, other: Configured, path: str) -> Configured:
    named = {f"{path}: {name}" if path else name: entry for name, entry in other.entries.items()}
    return Configured({**one.entries, **named}, {**one.numbers, **other.numbers})


def _configured_depth(model: nn.Module, lists: Shortened) -> Configured:
    config: Any = model.config
    lengths = {length: kept for path, kept in lists.items() if (length := _length(model, path))}
    holder = nn.Module()
    holder.config = config
    places = [Place("", p.steps[1:]) for p, n in numbers_of(holder).items() if type(n) is int and n in lengths]
    wanted = _shapes_left(model, lists)
    with preserved_rng(), undisturbed(model):
        for several in itertools.islice(_some(places), MOST_TRIED):
            entries: dict[Place, float] = {p: len(lengths[int(_entry(config, p))]) for p in several}
            shorter = with_numbers(config, entries)
            for length, kept in lengths.items():
                shorten_entries(shorter, length, kept)
            try:
                if same_shapes(shapes_of(built(model, shorter)), wanted, model):
                    words = {str(p): (_entry(config, p), n) for p, n in entries.items()}
                    return Configured(words, _everywhere(model, entries))
            except Unsayable:
                continue
    raise Unsayable("no entry of it is the number of these layers")


def _length(model: nn.Module, path: str) -> int:
    held = model.get_submodule(path)
    assert isinstance(held, nn.ModuleList)
    return len(held)


def _some(places: list[Place]) -> Iterator[tuple[Place, ...]]:
    """One of them, then two …"""
    for count in range(1, len(places) + 1):
        yield from itertools.combinations(places, count)


def _shapes_left(model: nn.Module, lists: Shortened) -> dict[str, tuple[int, ...]]:
    """Shapes when lists are shorter, by the new names."""
    shapes = shapes_of(model)
    for path, kept in lists.items():
        new = {f"{path}.{old}.": f"{path}.{k}." for k, old in enumerate(kept)}
        own = {n for n in shapes if n.startswith(f"{path}.")}
        left = {n: s for n, s in shapes.items() if n not in own}
        for old, now in new.items():
            left |= {now + n.removeprefix(old): shapes[n] for n in own if n.startswith(old)}
        shapes = left
    return shapes


def _everywhere(model: nn.Module, entries: Mapping[Place, float]) -> dict[Place, float]:
    """The entries in the configuration of every module that holds the same one."""
    homes = [path for path, m in model.named_modules() if vars(m).get("config") is model.config]
    return {Place(path, (("attribute", "config"), *p.steps)): n for path in homes for p, n in entries.items()}


def _other_table(after: nn.Module, small: nn.Module, before: nn.Module) -> str | None:
    """A buffer that no file holds, and that the class would fill otherwise.

    Of a network on the meta device the values are those that its class made before the cut, where nothing of them went.
    """
    stored, built = set(small.state_dict()), dict(after.named_buffers(remove_duplicate=False))
    dense = dict(before.named_buffers(remove_duplicate=False))
    for name, buffer in small.named_buffers(remove_duplicate=False):
        held = dense.get(name, buffer) if buffer.is_meta else buffer
        if name not in stored and (name not in built or held.shape != buffer.shape or not _same(built[name], held)):
            return name
    return None


def _same(made: torch.Tensor, held: torch.Tensor) -> bool:
    """Whether a table is what a class makes, to the precision in which the network holds it."""
    if made.is_meta or held.is_meta:  # a class that makes its tables without values says nothing of them
        return False
    there = made.to(held.dtype).double()
    return made.shape == held.shape and torch.allclose(there, held.detach().cpu().double(), rtol=1e-6, atol=0)


# ------------------------------------------------------------------------------------------------------- candidates


def _candidates(model: nn.Module, config: Any, small: nn.Module, sizes: Sizes) -> Iterator[dict[Place, float]]:
    """Entries that may be right: those that change least first."""
    log = Log(lenient=True, packages=packages_of(model))
    asked = Asked()
    built = instance(model, remembering(copy.deepcopy(config), log), asked)
    equations, known = list(_of_parameters(built, asked, small)), reader(small)
    for place, number in numbers_of(built).items():
        if not isinstance(number, Free):
            continue
        wanted = sizes.read.get(place, known(place) if _is_layer(built, place.module) else None)
        if wanted is not None:
            equations.append(Equation(number.expression, int(wanted), place.module))
    unknown = {p: int(_entry(config, p)) for e in equations for _, p in leaves(e.made)}
    solver = Solver(equations, (), unknown)
    solver.solve()
    found = {p: n for p in unknown if (n := solver.known.get(("attribute", p), unknown[p])) != unknown[p]}
    for count in range(len(found), -1, -1):  # an entry that may stay as it was does
        for left in itertools.combinations(found, len(found) - count) if len(found) < 8 else [()]:
            yield {p: n for p, n in found.items() if p not in left}


def _of_parameters(built: nn.Module, asked: Asked, small: nn.Module) -> Iterator[Equation]:
    """What the sizes are made of that a class gives its own parameters, and what they have to be."""
    wanted = dict(small.named_parameters(remove_duplicate=False))
    for path, module in built.named_modules():
        for name, sizes in ((n, asked.of.get((id(module), n))) for n in module._parameters):
            full = f"{path}.{name}".lstrip(".")
            if sizes is None or full not in wanted or wanted[full].ndim != len(sizes):
                continue
            pairs = zip(sizes, wanted[full].shape, strict=True)
            yield from (Equation(s.expression, int(w), path) for s, w in pairs if isinstance(s, Free))


def _is_layer(model: nn.Module, path: str) -> bool:
    return type(model.get_submodule(path)).__module__.startswith("torch.nn.")


def _entry(config: Any, place: Place) -> float:
    holder = nn.Module()
    holder.config = config
    found = number_at(holder, Place("", (("attribute", "config"), *place.steps)))
    return 0 if found is None else found


# ------------------------------------------------------------------------------------------------------ differences


def _differences(
    config: Any, entries: Mapping[Place, float], before: nn.Module, after: nn.Module, small: nn.Module
) -> Configured:
    old, new, known = numbers_of(before), numbers_of(after), reader(small)
    numbers = {
        place: number
        for place, number in new.items()
        if type(old.get(place)) is type(number) and old[place] != number and type(known(place)) is type(number)
    }
    words = {str(place): (_entry(config, place), number) for place, number in entries.items()}
    return Configured(words, {place: number for place, number in numbers.items() if number is not None})


def _why(before: nn.Module, small: nn.Module) -> str:
    """Layers that are one size in the configuration and several in the plan, where that is it."""
    old, new = shapes_of(before), shapes_of(small)
    alike: dict[tuple[str, tuple[int, ...]], set[tuple[int, ...]]] = {}
    for name, shape in old.items():
        parts = tuple(p for p in name.split(".") if not p.isdigit())
        alike.setdefault((".".join(parts), shape), set()).add(new.get(name, ()))
    for (name, _), shapes in alike.items():
        if len(shapes) > 1:
            listed = ", ".join(str(s) for s in sorted(shapes)[:3])
            return f"{name} has several sizes ({listed}), of which it knows one for all layers"
    kept = [name for name, shape in old.items() if len(shape) == 1 and new.get(name) == shape]
    lost = [name for name, shape in old.items() if len(shape) == 1 and new.get(name) != shape]
    if kept and lost:
        return f"no entries of it give these sizes: {lost[0]} was cut, {kept[0]} stays"
    return "no entries of it give these sizes"
