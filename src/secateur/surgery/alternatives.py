"""Sizes that only a module's other forwards read.

Libraries put a method of the module in the place of its ``forward`` before they export or fuse it, one that computes
the same in another way (``m.forward = m.forward_split``). No trace of the network sees it, so an attribute that it
alone reads would keep its dense number. Such a method is known by its name, ``forward_...``, and by computing what the
forward does. The new number is one that a dimension of the module's own tensors has now where it had the old one; it is
taken if more of these methods agree with the forward then, and the forward still gives what it gave.
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.core.plan import Place
from secateur.core.types import ExampleInputs
from secateur.graph.calling import cloned, preserved_rng, to_args
from secateur.graph.copies import deep_copy
from secateur.graph.places import changed
from secateur.surgery.attempt import Built
from secateur.surgery.living import numbers_in_words

__all__ = ["with_alternatives"]

MOST_TRIES = 64
"""Combinations of numbers that are tried for one module."""

TOLERANCE = 1e-4
"""Of the largest entry: both are computed in the network's own precision."""


def with_alternatives(model: nn.Module, built: Built, inputs: ExampleInputs) -> Built:
    """The smaller network whose modules' other forwards take the new sizes as well.

    Args:
        model: The dense network; it is not touched.
        built: The smaller one; attributes of it are changed.
        inputs: What both are called with.
    """
    doubtful = {
        path: found for path, module in built.model.named_modules() if (found := _doubtful(model, path, module))
    }
    if not doubtful or any(p.is_meta for p in built.model.parameters()):
        return built
    numbers, before = dict[Place, int](), dict[Place, int]()
    twin = deep_copy(built.model).eval()
    with torch.no_grad(), preserved_rng(*_tensors(inputs)):
        for path, call in _calls(twin, doubtful, inputs).items():
            for name, number in _better(call, doubtful[path]).items():
                place = Place(path, (("attribute", name),))
                numbers[place], before[place] = number, getattr(built.model.get_submodule(path), name)
    if not numbers:
        return built
    changed(built.model, numbers)
    return replace(built, numbers={**built.numbers, **numbers},
                   notes=(*built.notes, *numbers_in_words(numbers, before)))  # fmt: skip


def _methods(module: nn.Module) -> list[str]:
    """Other forwards that are called as the forward is."""
    kind = type(module)
    names = [n for n in dir(kind) if n.startswith("forward_") and inspect.isfunction(getattr(kind, n))]
    if not names or kind.__module__.partition(".")[0] == "torch":
        return []
    taken = list(inspect.signature(kind.forward).parameters)
    return [n for n in names if list(inspect.signature(getattr(kind, n)).parameters) == taken]


def _doubtful(model: nn.Module, path: str, small: nn.Module) -> dict[str, list[int]]:
    """Attributes that are still what a size of the module was, with the sizes that took its place."""
    if not _methods(small):
        return {}
    dense = model.get_submodule(path)
    tensors = dict(dense.named_parameters()) | dict(dense.named_buffers())
    found = dict[str, list[int]]()
    for name, value in vars(small).items():
        if type(value) is not int or value < 2 or vars(dense).get(name) != value:
            continue
        new = (after for key, tensor in (*small.named_parameters(), *small.named_buffers()) if key in tensors
               for before, after in zip(tensors[key].shape, tensor.shape, strict=False)
               if before == value != after)  # fmt: skip
        if several := list(dict.fromkeys(new)):
            found[name] = several
    return found


# ------------------------------------------------------------------------------------------------------- trying


@dataclass
class _Call:
    """A module of a copy of the network, with what it is called with and what it gives."""

    module: nn.Module
    args: Any
    kwargs: Any
    output: Any

    def agrees(self, method: str) -> bool:
        """Whether a method computes what the forward did."""
        try:
            output = getattr(self.module, method)(*cloned(self.args), **cloned(self.kwargs))
        except Exception:  # code of the network's, called with sizes that it may not take
            return False
        ours, theirs = pytree.tree_leaves(output), pytree.tree_leaves(self.output)
        return len(ours) == len(theirs) and all(map(_alike, ours, theirs))


def _alike(ours: Any, theirs: Any) -> bool:
    if not isinstance(theirs, Tensor):
        return not isinstance(ours, Tensor)
    if not isinstance(ours, Tensor) or ours.shape != theirs.shape:
        return False
    most = theirs.abs().max().item() if theirs.numel() else 0.0
    return math.isfinite(most) and bool((ours - theirs).abs().le(TOLERANCE * most).all())


def _calls(twin: nn.Module, paths: Mapping[str, Any], inputs: ExampleInputs) -> dict[str, _Call]:
    """What some modules are called with first, from a run."""
    found = dict[str, _Call]()
    args, kwargs = cloned(to_args(inputs))
    for path in paths:
        _watch(twin.get_submodule(path), path, found)
    try:
        twin(*args, **kwargs)
    except Exception:  # the proof will say what is wrong with it
        return {}
    return found


def _watch(module: nn.Module, path: str, found: dict[str, _Call]) -> None:
    given: tuple[Any, Any] = (), {}  # as it was before the module wrote into it

    def before(_: nn.Module, args: Any, kwargs: Any) -> None:
        nonlocal given
        given = cloned(args), cloned(kwargs)

    def after(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        found.setdefault(path, _Call(module, given[0], given[1], cloned(output)))
        for hook in hooks:
            hook.remove()

    hooks = [
        module.register_forward_pre_hook(before, with_kwargs=True),
        module.register_forward_hook(after, with_kwargs=True),
    ]


def _tensors(inputs: ExampleInputs) -> Iterator[Tensor]:
    return (t for t in pytree.tree_leaves(inputs) if isinstance(t, Tensor))


def _better(call: _Call, doubtful: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Numbers with which more methods agree with the forward, and none that did falls away."""
    methods = ["forward", *_methods(call.module)]
    old = {name: getattr(call.module, name) for name in doubtful}
    best, most = dict[str, int](), {m for m in methods if call.agrees(m)}
    if "forward" not in most or len(most) == len(methods):
        return {}
    options = itertools.product(*((old[name], *several) for name, several in doubtful.items()))
    for values in itertools.islice(options, 1, MOST_TRIES):
        tried = dict(zip(doubtful, values, strict=True))
        vars(call.module).update(tried)
        if (agree := {m for m in methods if call.agrees(m)}) > most:
            best, most = {n: v for n, v in tried.items() if v != old[n]}, agree
    return best
