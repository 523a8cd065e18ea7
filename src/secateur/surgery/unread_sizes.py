"""Sizes that no code reads: attributes that only say how large a module is, ``out_channels`` of a layer of the user's.

Which dimensions such a number stands for is found out by building the module once more with twice the number (without
memory): what doubles is described by it. The new number follows these dimensions, if they all agree. A number that
shares a dimension with another one (heads and the size of a head) stays, for nothing says which of the two changed.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.core.plan import Place
from secateur.core.types import ExampleInputs
from secateur.graph.calling import cloned, plain_outputs, preserved_rng, to_args
from secateur.graph.chance import seeded
from secateur.graph.copies import running_copy
from secateur.graph.places import changed, number_at
from secateur.surgery.attempt import Built
from secateur.surgery.living import numbers_in_words

__all__ = ["with_unread_sizes"]

Shapes = Mapping[str, tuple[int, ...]]


def with_unread_sizes(model: nn.Module, built: Built, inputs: ExampleInputs) -> Built:
    """The smaller network with attributes that say its sizes, where nothing it computes depends on them.

    Args:
        model: The dense network; it is not touched.
        built: The smaller one; attributes of it are changed.
        inputs: What both are called with.
    """
    dense = dict(model.named_modules())
    numbers, before = dict[Place, int](), dict[Place, int]()
    with preserved_rng():
        for path, small in built.model.named_modules():
            for name, number in _sizes_of(dense.get(path), small).items():
                place = Place(path, (("attribute", name),))
                numbers[place], before[place] = number, vars(small)[name]
        if not numbers or any(p.is_meta for p in built.model.parameters()):
            return built
        numbers = _unread(built.model, numbers, before, inputs)
    return replace(built, unread=numbers, notes=(*built.notes, *numbers_in_words(numbers, before)))


def _unread(
    small: nn.Module, numbers: dict[Place, int], before: dict[Place, int], inputs: ExampleInputs
) -> dict[Place, int]:
    """The numbers that can be other ones without a change of what the network computes; it has them then."""
    first = _outputs(small, inputs)
    if first is None:
        return {}
    for some in (list(numbers), *([place] for place in numbers)):
        changed(small, {place: numbers[place] for place in some})
        if _equal(first, _outputs(small, inputs)):
            if len(some) == len(numbers):
                return numbers
            continue
        changed(small, {place: before[place] for place in some})
    return {place: number for place, number in numbers.items() if number_at(small, place) == number}


def _sizes_of(dense: nn.Module | None, small: nn.Module) -> dict[str, int]:
    """New numbers of attributes that the constructor takes too."""
    if dense is None or type(dense) is not type(small) or type(small).__module__.partition(".")[0] == "torch":
        return {}
    old, new = _shapes(dense), _shapes(small)
    given = _given(dense) if old != new and old.keys() == new.keys() else None
    names = [] if given is None else [
        name for name, value in given.items() if type(value) is int and value > 1 and vars(small).get(name) == value
    ]  # fmt: skip
    if not names or given is None or _built_with(type(dense), given) != old:
        return {}
    stands_for = {name: _doubling(old, _built_with(type(dense), {**given, name: 2 * given[name]})) for name in names}
    found = dict[str, int]()
    for name, dims in stands_for.items():
        shared = any(dims & others for other, others in stands_for.items() if other != name)
        sizes = {given[name] * new[key][d] / old[key][d] for key, d in dims}
        if not shared and len(sizes) == 1 and (size := sizes.pop()) == int(size) and size != given[name]:
            found[name] = int(size)
    return found


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    named = (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False))
    return {name: tuple(tensor.shape) for name, tensor in named}


def _given(module: nn.Module) -> dict[str, Any] | None:
    """What the module was made with, as far as its attributes are called as the constructor's arguments; ``None``
    where one that it needs is not among them."""
    found = dict[str, Any]()
    for name, parameter in [*inspect.signature(type(module).__init__).parameters.items()][1:]:
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        value = vars(module).get(name, parameter.empty)
        if _is_plain(value):
            found[name] = value
        elif parameter.default is parameter.empty:
            return None
    return found


def _is_plain(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(map(_is_plain, value))
    return value is None or type(value) in (int, float, bool, str)


def _built_with(kind: type[nn.Module], given: Mapping[str, Any]) -> dict[str, tuple[int, ...]] | None:
    """Shapes of a module of the class; ``None`` where it cannot be made so."""
    try:
        with torch.device("meta"):
            return _shapes(kind(**given))
    except (Exception, SystemExit):  # the user's code raises what it likes, and is given numbers that nobody gave it
        return None


def _doubling(old: Shapes, new: Shapes | None) -> set[tuple[str, int]]:
    """Dimensions that are twice as large; none where anything else is different too."""
    if new is None or old.keys() != new.keys() or any(len(old[k]) != len(new[k]) for k in old):
        return set()
    return {(key, d) for key in old for d, size in enumerate(old[key]) if new[key][d] == 2 * size}


def _outputs(small: nn.Module, inputs: ExampleInputs) -> list[Any] | None:
    """What it gives in eval mode and, where it runs so, in train mode, in which code may read what it else does not."""
    first = _run(small, inputs, training=False)
    return None if first is None else [*first, *(_run(small, inputs, training=True) or ())]


def _run(small: nn.Module, inputs: ExampleInputs, *, training: bool) -> list[Any] | None:
    args, kwargs = cloned(to_args(inputs))
    try:
        with torch.no_grad():
            seeded()
            torch.manual_seed(0)
            return pytree.tree_leaves(plain_outputs(running_copy(small).train(training)(*args, **kwargs)))
    except Exception:  # the network raises what it likes
        return None


def _equal(one: list[Any], other: list[Any] | None) -> bool:
    if other is None or len(one) != len(other):
        return False
    pairs = [(a, b) for a, b in zip(one, other, strict=True) if isinstance(a, Tensor) or isinstance(b, Tensor)]
    return all(isinstance(a, Tensor) and isinstance(b, Tensor) and torch.equal(a, b) for a, b in pairs)
