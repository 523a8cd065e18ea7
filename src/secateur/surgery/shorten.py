"""Lists of modules become shorter where every branch of an element is removed: a decoder of twelve layers has nine.

An element whose branches are all gone hands on what it gets, so it can leave its list. The configuration's number of
layers, and what it lists for every layer, follow; so do the numbers by which layers know their places.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.errors import VerificationError
from secateur.graph.branches import Branch
from secateur.graph.calling import cloned, plain_outputs, preserved_rng
from secateur.graph.copies import running_copy
from secateur.graph.outside import undisturbed
from secateur.graph.traced import Traced
from secateur.surgery.adapted import number_adapters_anew
from secateur.surgery.agreement import NEAR, apart
from secateur.surgery.inputs import tensors

__all__ = ["Shortened", "drop_elements", "elements_of", "lists_of", "number_anew", "same_as_before", "shorten_entries"]

Shortened = Mapping[str, Sequence[int]]
"""Elements that stay, by the name of the list."""


def lists_of(model: nn.Module, branches: Sequence[Branch], gone: Sequence[Branch]) -> dict[str, tuple[int, ...]]:
    """The lists that become shorter: those of which elements lose all their branches.

    Args:
        model: The dense network.
        branches: All its residual branches.
        gone: Those that are removed.

    Returns:
        What stays of each list; empty where a branch that goes lies in no such element.
    """
    names, lists, branches = {b.name for b in gone}, _lists(model), _outer(branches)
    dropped: dict[str, set[int]] = {}
    for branch in gone:
        if branch.element:  # it is an element of a list
            path, _, number = branch.element.rpartition(".")
            if path not in lists:
                return {}
            dropped.setdefault(path, set()).add(int(number))
            continue
        homes = (h for h in _homes(branch, lists) if names >= {b.name for b in branches if _inside(b, *h)})
        home = next((h for h in homes if not _emptied(h[0], lists[h[0]], branches, names)), None)
        if home is None:
            return {}
        dropped.setdefault(home[0], set()).add(home[1])
    kept = {path: tuple(k for k in range(lists[path]) if k not in numbers) for path, numbers in dropped.items()}
    return kept if all(kept.values()) else {}


def elements_of(
    model: nn.Module, branches: Sequence[Branch], layers: Collection[str] = ()
) -> dict[str, tuple[Branch, ...]]:  # fmt: skip
    """Elements of lists and chains of modules that can go whole, by name, with their branches.

    Args:
        model: The network.
        branches: Its residual branches.
        layers: Elements that are nothing but branches, in lists of such: then no element inside one of these lists is
            another one. Of other lists and chains the innermost elements count.
    """
    chains = [n for n, m in model.named_modules() if isinstance(m, (nn.ModuleList, nn.Sequential))]
    names = [f"{n}.{key}".lstrip(".") for n in chains for key in model.get_submodule(n)._modules]
    names.sort(key=lambda name: -name.count("."))
    above = {name.rpartition(".")[0] for name in layers}
    found: dict[str, tuple[Branch, ...]] = {}
    for branch in _outer(branches):
        around = [n for n in names if _holds(n, branch)]
        within = [n for n in around if n.rpartition(".")[0] in above]
        home = next(iter(within[-1:] or around[:1]), None)
        if home is not None and (not within or home in layers):
            found[home] = (*found.get(home, ()), branch)
    return {name: several for name, several in found.items() if not any(b.reason for b in several)}


def _holds(path: str, branch: Branch) -> bool:
    return all(name.startswith(f"{path}.") for name in branch.parameters)


def _emptied(path: str, length: int, branches: Sequence[Branch], gone: set[str]) -> bool:
    """Whether every element of a list loses all that it is: then it is an element around it that goes."""
    inside = [[b.name for b in branches if _inside(b, path, number)] for number in range(length)]
    return all(own and gone >= set(own) for own in inside)


def _outer(branches: Sequence[Branch]) -> list[Branch]:
    """Branches that lie in no other (an adapter beside a layer looks like one)."""
    inside = {name for branch in branches for name in branch.inside}
    return [branch for branch in branches if branch.name not in inside]


def _lists(model: nn.Module) -> dict[str, int]:
    """Lists of modules that are in one place alone, the innermost first, with their lengths."""
    found = [(path, m) for path, m in model.named_modules(remove_duplicate=False) if isinstance(m, nn.ModuleList)]
    once = [(path, m) for path, m in found if sum(m is other for _, other in found) == 1]
    return {path: len(m) for path, m in sorted(once, key=lambda item: -item[0].count("."))}


def _homes(branch: Branch, lists: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    """Elements that hold a branch."""
    for path, length in lists.items():
        for number in range(length):
            if _inside(branch, path, number):
                yield path, number


def _inside(branch: Branch, path: str, number: int) -> bool:
    return _holds(f"{path}.{number}", branch)


def drop_elements(pruned: nn.Module, lists: Shortened, *, configurations: bool = True) -> None:
    """Takes elements out of their lists; the others keep their names, but not the number that they know their place by.

    Args:
        pruned: A network of one's own; it is changed.
        lists: What stays.
        configurations: Whether what configurations list for every element follows; that is of layers, not of experts.
    """
    for path, kept in lists.items():
        held = pruned.get_submodule(path)
        assert isinstance(held, nn.ModuleList)
        length = len(held)
        for number in set(range(length)) - set(kept):
            del held._modules[str(number)]
        _count_anew(held, kept)
        if configurations:
            _shorten_configurations(pruned, length, kept)
        number_adapters_anew(pruned, path, length, kept)


def _shorten_configurations(pruned: nn.Module, length: int, kept: Sequence[int]) -> None:
    """What configurations list for every layer is left for those that stay; each is changed in a copy of its own."""
    made: dict[int, Any] = {}
    for module in pruned.modules():
        config: Any = vars(module).get("config")
        if hasattr(config, "to_dict"):
            if id(config) not in made:
                made[id(config)] = copy.copy(config)
                shorten_entries(made[id(config)], length, kept)
            module.__dict__["config"] = made[id(config)]


def shorten_entries(config: Any, length: int, kept: Sequence[int]) -> None:
    """Shortens what a configuration lists for every layer (``layer_types``)."""
    for name, value in list(vars(config).items()):
        if isinstance(value, (list, tuple)) and len(value) == length:
            setattr(config, name, type(value)(value[k] for k in kept))


def number_anew(pruned: nn.Module, lists: Shortened) -> None:
    """Names the elements that stay 0, 1, 2 …"""
    for path in sorted(lists, key=lambda path: -path.count(".")):  # lists inside others first: their names are dense
        held = pruned.get_submodule(path)
        elements = list(held._modules.values())
        held._modules.clear()
        held._modules.update({str(number): element for number, element in enumerate(elements)})


def _count_anew(held: nn.Module, kept: Sequence[int]) -> None:
    """Attributes that are each element's own number (its place in a cache) become its new one."""
    elements = {number: held._modules[str(number)] for number in kept}
    first = elements[kept[0]]
    if first is None or kept == tuple(range(len(kept))):
        return
    for inner, module in first.named_modules():
        for name in list(vars(module)):
            if all(_number(element, inner, name) == number for number, element in elements.items()):
                for now, element in enumerate(elements.values()):
                    setattr(element.get_submodule(inner), name, now)  # type: ignore[union-attr]


def _number(element: nn.Module | None, inner: str, name: str) -> int | None:
    try:
        found = vars(element.get_submodule(inner)).get(name) if element is not None else None
    except AttributeError:
        return None
    return found if type(found) is int else None


def same_as_before(
    pruned: nn.Module, lists: Shortened, view: Traced, put_back: Sequence[Callable[[], None]] = ()
) -> None:
    """Numbers anew, and makes sure that nothing but names has changed.

    Args:
        pruned: A network of one's own, with gaps in its lists.
        lists: What stays of them.
        view: What it is called with.
        put_back: What undoes that lists with gaps worked.

    Raises:
        VerificationError: The network gives something else, or no longer runs.
    """
    before = _outputs(pruned, view)
    for undo in put_back:
        undo()
    number_anew(pruned, lists)
    try:
        after = _outputs(pruned, view)
    except Exception as error:  # the network raises what it likes
        raise VerificationError(
            f"Without the gaps in its lists it does not run: {type(error).__name__}: {error}."
        ) from error
    if len(before) != len(after) or any(_differ(a, b) for a, b in zip(after, before, strict=True)):
        raise VerificationError("It gives something else when its layers are numbered anew.")


def _differ(after: Tensor, before: Tensor) -> bool:
    """Whether results are others; of those without values only the shapes are known."""
    return after.shape != before.shape if after.is_meta or before.is_meta else apart(after, before) > NEAR


def _outputs(pruned: nn.Module, view: Traced) -> list[Tensor]:
    """Results without what a cache holds."""
    args, kwargs = cloned(view.given)
    state: list[Tensor] = []
    with preserved_rng(), torch.no_grad(), undisturbed(pruned):
        torch.manual_seed(0)
        found = tensors(plain_outputs(running_copy(pruned).eval()(*args, **kwargs), None, state))
    return [t for t in found if all(t is not other for other in state)]
