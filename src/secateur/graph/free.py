"""Sizes besides the batch that a graph can leave free: length, height, width.

A network that was recorded is recorded again with inputs of other sizes. Where it calls the same operators, every whole
number that they are called with is either the same in both runs, or a size of a tensor, a product of some, or what the
user's Python computed from them. A third run at yet other sizes has to agree. Comparisons that the user's Python makes
become guards; where anything cannot be expressed, the size stays as it was.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, Interpreter, Node

from secateur.core.errors import InputError
from secateur.core.rounding import rounding
from secateur.core.types import ExampleInputs
from secateur.graph.again import NUMBERS, Again, Path
from secateur.graph.batch import Batch, Unfollowed, with_value
from secateur.graph.calling import cloned, plain_outputs, preserved_rng
from secateur.graph.copies import deep_copy, shallow_copy
from secateur.graph.guard import Size, Sizes, require
from secateur.graph.internals import pytree
from secateur.graph.numbers import COMPARISONS, Expression, Guard, call_of
from secateur.graph.outside import undisturbed
from secateur.graph.record import record, record_again
from secateur.graph.traced import Traced
from secateur.graph.writes import written_names

__all__ = ["free_sizes", "other_inputs", "other_sizes"]

STEPS = (224, 32, 16, 1, -1)
"""By how much sizes are changed in a second run, the first that works: a multiple of what networks divide images by and
of the usual windows; less, for tables of positions; as little as can be, and less than they were."""

LEAST = 16
"""A step is at least one part in so many of a size, or else it is the size itself: behind a few strides a smaller one
would change nothing, and what depends on it would not be seen."""

ALIKE = 1e-3
"""What the graph and the network may differ by at other sizes in their own precision; a size that is computed wrongly
makes them differ by as much as they are."""

aten = torch.ops.aten

Place = tuple[int, int]
"""Number of an input among the leaves, and its dimension."""


@dataclass(frozen=True)
class _Found:
    """What has to be written in the place of numbers, what has to hold, and which dimensions of which nodes vary."""

    numbers: Mapping[tuple[Node, Path], Expression]
    guards: Sequence[Guard]
    varying: Sequence[tuple[Node, int]]


def free_sizes(
    model: nn.Module, traced: Traced, cut: Callable[[Node], Collection[int]] = lambda node: (), *, thorough: bool = True
) -> None:  # fmt: skip
    """Frees the sizes of inputs besides the batch that the network takes others of; changes the graph of ``traced``.

    Args:
        model: The network.
        traced: What was recorded of it; a graph that ``torch.export`` traced stays as it is.
        cut: Along which dimensions a plan cuts what a node gives. Which entries stay is known for one size alone, so
            none of these may vary (tokens that were put before the others, say).
        thorough: Whether every choice of sizes and steps is tried, or the likeliest alone.
    """
    if not traced.recorded:
        return
    if traced.freed is None:
        traced.freed = _freed(model, traced, thorough) or (Freed(traced.sizes) if thorough else None)
    freed = traced.freed
    if not isinstance(freed, Freed):
        return
    freed.undo(traced)
    if freed.found is not None and not any(dim in cut(node) for node, dim in freed.found.varying):
        freed.write(traced)


@dataclass
class Freed:
    """What was found out about the sizes of a traced network, and where it is written.

    Attributes:
        fixed: Sizes as they were recorded.
        sizes: With those that are free.
        found: What is written into the graph for them; ``None`` where none is free.
        writing: What was written.
    """

    fixed: Sizes
    sizes: Sizes | None = None
    found: _Found | None = None
    writing: _Writing | None = None

    def write(self, traced: Traced) -> None:
        """Frees them."""
        assert self.found is not None
        assert self.sizes is not None
        self.writing = _Writing(traced.module.graph)
        self.writing.write(self.found)
        traced.module.recompile()
        traced.sizes = self.sizes

    def undo(self, traced: Traced) -> None:
        """The graph as it was recorded."""
        if self.writing is not None:
            self.writing.undo()
            traced.module.recompile()
            self.writing, traced.sizes = None, self.fixed


def _freed(model: nn.Module, traced: Traced, thorough: bool) -> Freed | None:
    for symbols in itertools.islice(_choices(traced), None if thorough else 1):
        found = _tried(model, traced, symbols, STEPS if thorough else STEPS[:1])
        if found is not None:
            freed = Freed(traced.sizes, _sizes(traced.sizes, symbols), found)
            freed.write(traced)
            agree = _agree(model, traced)
            freed.undo(traced)
            if agree:
                return freed
    return None


# ------------------------------------------------------------------------------------------------ which sizes to try


def _choices(traced: Traced) -> Iterator[list[list[Place]]]:
    """Places that change together, for every size that may be free; one choice after the other, each once."""
    places = _places(traced)
    shapes = {place: _leaves(traced)[place[0]].shape[place[1]] for place in places}
    seen: set[Any] = set()

    def new(symbols: list[list[Place]]) -> bool:
        key = tuple(tuple(places) for places in symbols)
        return bool(symbols) and not (key in seen or seen.add(key))  # type: ignore[func-returns-value]

    by_dim, by_size = _grouped(places, lambda p: (p[1], shapes[p])), _grouped(places, lambda p: shapes[p])
    for symbols in (by_dim, by_size, *([one] for one in by_dim), *([one] for one in by_size)):
        if new(symbols):
            yield symbols


def _grouped(places: Sequence[Place], key: Callable[[Place], Any]) -> list[list[Place]]:
    found: dict[Any, list[Place]] = {}
    for place in places:
        found.setdefault(key(place), []).append(place)
    return list(found.values())


def _places(traced: Traced) -> list[Place]:
    """Dimensions of inputs that may be a length, a height or a width."""
    found = []
    for number, (leaf, shape) in enumerate(zip(_leaves(traced), traced.sizes.shapes, strict=True)):
        if isinstance(leaf, Tensor) and shape is not None:
            first = 2 if leaf.ndim > 3 else 1  # the channels of images are not
            found += [(number, d) for d in range(first, leaf.ndim) if isinstance(shape[d], int) and leaf.shape[d] > 1]
    return found


def _leaves(traced: Traced) -> list[Any]:
    return pytree.tree_leaves((traced.args, traced.kwargs))


# ------------------------------------------------------------------------------------------------ second, third run


def _tried(model: nn.Module, traced: Traced, symbols: list[list[Place]], steps: Sequence[int]) -> _Found | None:
    for step in steps:
        try:
            again, batch = _again(model, traced, symbols, step)
            found = _Found(
                dict(_expressions(again, batch, traced)), tuple(again.log.guards), list(_varying(again, batch))
            )
            _confirmed(found, *_again(model, traced, symbols, step, 2), traced)
        except Exception:  # the network raises what it likes where a size is fixed
            continue
        return found
    return None


def _again(
    model: nn.Module, traced: Traced, symbols: list[list[Place]], step: int, turn: int = 1
) -> tuple[Again, Batch]:
    """A run in which every size is longer by another number; ``turn`` steps for the first of them."""
    leaves, spec = pytree.tree_flatten((traced.args, traced.kwargs))

    def by(place: Place) -> int:
        size = leaves[place[0]].shape[place[1]]
        return step if abs(step) * LEAST >= size else int(size)

    longer = {place: by(place) * (turn + k) for k, places in enumerate(symbols) for place in places}
    for number, leaf in enumerate(leaves):
        if isinstance(leaf, Tensor):
            shape = [size + longer.get((number, d), 0) for d, size in enumerate(leaf.shape)]
            leaves[number] = leaf.new_zeros(()).expand(shape) if shape != list(leaf.shape) else leaf
    given = pytree.tree_unflatten(leaves, spec)
    return record_again(model, traced.module, given, traced.dynamic, method=traced.method, training=traced.training)


def _expressions(again: Again, batch: Batch, traced: Traced) -> Iterator[tuple[tuple[Node, Path], Expression]]:
    """An expression for every number that is another one in the second run."""
    before = traced.odd
    assert before is not None
    for first, second in again.pairs:
        numbers = zip(first.meta[NUMBERS], second.meta[NUMBERS], strict=True)
        for (path, then), (other, now) in numbers:
            if path != other:
                raise ValueError("the operators are called with other arguments")
            (share, rest), (new_share, new_rest) = before.parts(then), batch.parts(now)
            if (share, rest) == (new_share, new_rest):
                continue
            sizes = list(_known(first, second, again, batch))
            if bool(share) != bool(new_share) or not (share.denominator == new_share.denominator == 1):
                raise ValueError("a size is a part of the batch")
            made: Expression = _fitted(rest, new_rest, sizes)
            if share:
                made = ("add", ("mul", ("batch",), _fitted(int(share), int(new_share), sizes)), made)
            yield (first, path), made
        if _other_floats(first.args, second.args) or _other_floats(first.kwargs, second.kwargs):
            raise ValueError("a broken number is another one")


def _known(first: Node, second: Node, again: Again, batch: Batch) -> Iterator[tuple[Expression, int, int]]:
    """Sizes at hand with their values in both runs: what Python computed, those of the operands, of the inputs."""
    for number in again.tags[second]:
        yield number.expression, number.first, int.__index__(number)
    places = [pair for pair in again.pairs if pair[0].op == "placeholder"]
    for one, other in (*zip(first.all_input_nodes, second.all_input_nodes, strict=False), *places):
        then, now = one.meta.get("val"), other.meta.get("val")
        if isinstance(then, Tensor) and isinstance(now, Tensor):
            for dim, (a, b) in enumerate(zip(then.shape, now.shape, strict=False)):
                if a != b and not batch.parts(b)[0]:
                    yield ("dim", one.name, dim), a, b


def _fitted(then: int, now: int, sizes: Sequence[tuple[Expression, int, int]]) -> Expression:
    """What a number is made of.

    Raises:
        ValueError: Of nothing that is at hand.
    """
    if then == now:
        return then
    distinct = {(a, b): made for made, a, b in reversed(sizes)}
    known = [(made, a, b) for (a, b), made in reversed(distinct.items())]
    for made, a, b in known:
        if (a, b) == (then, now):
            return made
    for count in (1, 2, 3):
        for several in itertools.combinations_with_replacement(known, count):
            a, b = math.prod(s[1] for s in several), math.prod(s[2] for s in several)
            if a and then * b == now * a:
                share = Fraction(then, a)
                product: Expression = several[0][0]
                for further in several[1:]:
                    product = ("mul", product, further[0])
                product = product if share.numerator == 1 else ("mul", product, share.numerator)
                return product if share.denominator == 1 else ("floordiv", product, share.denominator)
    for made, a, b in known:
        if then - a == now - b:
            return ("add", made, then - a)
    raise ValueError(f"{then} became {now}")


def _varying(again: Again, batch: Batch) -> Iterator[tuple[Node, int]]:
    for first, second in again.pairs:
        then, now = first.meta.get("val"), second.meta.get("val")
        if isinstance(then, Tensor) and isinstance(now, Tensor):
            for dim, (a, b) in enumerate(zip(then.shape, now.shape, strict=True)):
                if batch.real(b) != a:
                    yield first, dim


def _other_floats(first: Any, second: Any) -> bool:
    pairs = zip(pytree.tree_leaves(first), pytree.tree_leaves(second), strict=False)
    return any(isinstance(a, float) and a != b and not (a != a and b != b) for a, b in pairs)


def _confirmed(found: _Found, third: Again, batch: Batch, traced: Traced) -> None:
    """A run at yet other sizes has the numbers that the expressions say.

    Raises:
        ValueError: It has others.
    """
    shapes = {first.name: node.meta["val"] for first, node in third.pairs}

    def value(expression: Expression) -> Any:
        if not isinstance(expression, tuple):
            return expression
        if expression[0] == "batch":
            return batch.odd
        if expression[0] == "dim":
            return shapes[expression[1]].shape[expression[2]]
        function, taken = call_of(expression[0], value(expression[1]), value(expression[2]))
        return function(*taken)

    before = traced.odd
    assert before is not None
    for first, node in third.pairs:
        for (path, then), (_, now) in zip(first.meta[NUMBERS], node.meta[NUMBERS], strict=True):
            made = found.numbers.get((first, path))
            same = before.parts(then) == batch.parts(now) if made is None else value(made) == now
            if not same:
                raise ValueError("an expression does not hold")
    for guard in found.guards:
        if COMPARISONS[guard.comparison](value(guard.left), value(guard.right)) is not guard.outcome:
            raise ValueError("a guard does not hold")


# ---------------------------------------------------------------------------------------------------------- a check


def other_sizes(traced: Traced) -> list[tuple[Any, Any]]:
    """The user's inputs, shorter wherever a length, a height or a width besides the batch is free."""
    shapes: Iterator[Any] = iter(traced.sizes.shapes)
    free = [
        [d for d, size in enumerate(next(shapes) or ()) if d and not isinstance(size, int)]
        for _ in pytree.tree_leaves(traced.given)
    ]
    if not any(free):
        return []

    def shorter(parts: int, of: int) -> tuple[Any, Any]:
        leaves, spec = pytree.tree_flatten(traced.given)
        for number, dims in enumerate(free):
            for d in dims:
                size = leaves[number].shape[d]
                leaves[number] = leaves[number].narrow(d, 0, max(1, size * parts // of))
        found: tuple[Any, Any] = pytree.tree_unflatten(leaves, spec)
        return found

    return [shorter(1, 2), shorter(3, 4)]


def other_inputs(model: nn.Module, inputs: ExampleInputs) -> tuple[list[list[int]], list[ExampleInputs]]:
    """Which dimensions of a network's inputs besides the batch are free, by input, and shorter inputs to try."""
    try:
        traced = record(model, inputs)
    except Unfollowed:
        return [], []
    free_sizes(model, traced)
    free = [
        [d for d, size in enumerate(shape or ()) if d and not isinstance(size, int)] for shape in traced.sizes.shapes
    ]
    return free, [dict(kwargs) if kwargs and not args else args for args, kwargs in other_sizes(traced)]


def _agree(model: nn.Module, traced: Traced) -> bool:
    """Whether the graph and the network compute the same on shorter inputs, or the graph refuses them."""
    copied = deep_copy if written_names(traced.module) else shallow_copy
    for args, kwargs in other_sizes(traced):
        leaves = pytree.tree_leaves((args, kwargs))
        with preserved_rng(*(v for v in leaves if isinstance(v, Tensor))), torch.no_grad(), undisturbed(model):
            try:
                torch.manual_seed(0)
                got = Interpreter(copied(traced.module)).run(*cloned(leaves), enable_io_processing=False)
            except InputError:  # a guard
                continue
            except Exception:  # what the operators say to sizes that do not go together
                return _refuses(model, traced, args, kwargs)
            torch.manual_seed(0)
            try:
                want = plain_outputs(traced.enter(copied(model))(*cloned(args), **cloned(kwargs)))
            except Exception:
                return False
        both = pytree.tree_leaves(got), pytree.tree_leaves(want)
        if len(both[0]) != len(both[1]) or not all(map(_alike, *both)):
            return False
    return True


def _refuses(model: nn.Module, traced: Traced, args: Any, kwargs: Any) -> bool:
    """Whether the network itself does not take these inputs."""
    try:
        traced.enter(deep_copy(model))(*cloned(args), **cloned(kwargs))
    except Exception:
        return True
    return False


def _alike(got: Any, want: Any) -> bool:
    if not (isinstance(got, Tensor) and isinstance(want, Tensor)):
        return isinstance(got, Tensor) == isinstance(want, Tensor)
    if got.shape != want.shape or got.dtype != want.dtype:
        return False
    near = rounding(want.dtype, ALIKE)
    return torch.allclose(got.double(), want.double(), rtol=near, atol=near * _size(want), equal_nan=True)


def _size(value: Tensor) -> float:
    return float(value.double().abs().nan_to_num(0, 0, 0).max()) if value.numel() else 0.0


# -------------------------------------------------------------------------------------------------------- the graph


class _Writing:
    """Writes expressions into a graph in the place of numbers."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        # What was recorded has one size alone: that of the batch, where anything follows it.
        self.batch = next((node for node in graph.nodes if node.target is aten.sym_size.int), None)
        self.named = {node.name: node for node in graph.nodes}
        self.order = {node: number for number, node in enumerate(graph.nodes)}
        self.sizes: dict[tuple[str, int], Node] = {}
        self.before = {node: (node.args, node.kwargs) for node in graph.nodes}

    def undo(self) -> None:
        """The graph as it was."""
        for node, (args, kwargs) in self.before.items():
            node.args, node.kwargs = args, kwargs
        for node in reversed(list(self.graph.nodes)):
            if node not in self.before:
                self.graph.erase_node(node)

    def write(self, found: _Found) -> None:
        """All of it."""
        for (node, path), made in found.numbers.items():
            with self.graph.inserting_before(node):
                value = self.node(made)
            if isinstance(path[0], int):
                node.update_arg(path[0], _replaced(node.args[path[0]], path[1:], value))
            else:
                node.update_kwarg(path[0], _replaced(node.kwargs[path[0]], path[1:], value))
        for guard in found.guards:
            last = max(self._dims((guard.left, guard.right)), key=lambda n: self.order[n], default=None)
            if last is not None:
                with self.graph.inserting_before(self._behind(last)):
                    left, right = self.node(guard.left), self.node(guard.right)
                    self.graph.call_function(require, (left, guard.comparison, right, guard.outcome))
        self.graph.lint()

    def node(self, made: Expression) -> Any:
        """Nodes that compute an expression."""
        if not isinstance(made, tuple):
            return made
        if made[0] == "dim":
            return self._size(made[1], made[2])
        if made[0] == "batch":
            return self.batch
        function, taken = call_of(made[0], self.node(made[1]), self.node(made[2]))
        now = function(*(v.meta["val"] if isinstance(v, Node) else v for v in taken))
        return with_value(self.graph.call_function(function, taken), now)

    def _size(self, name: str, dim: int) -> Node:
        if (name, dim) not in self.sizes:
            source = self.named[name]
            with self.graph.inserting_before(self._behind(source)):
                node = self.graph.call_function(aten.sym_size.int, (source, dim))
            self.sizes[name, dim] = with_value(node, int(source.meta["val"].shape[dim]))
            self.order[node] = self.order[source]
        return self.sizes[name, dim]

    def _behind(self, node: Node) -> Node:
        """What follows a node and, behind an input, all inputs; sizes of it that were written already come first."""
        following = node.next
        while following.op in ("placeholder", "get_attr") or (
            following.target is aten.sym_size.int and following.args[0] is node
        ):
            following = following.next
        return following

    def _dims(self, made: Any) -> Iterator[Node]:
        if isinstance(made, tuple) and len(made) == 3 and made[0] == "dim":
            yield self.named[made[1]]
        elif isinstance(made, tuple):
            for part in made:
                yield from self._dims(part)


def _replaced(argument: Any, path: Path, value: Any) -> Any:
    if not path:
        return value
    changed = list(argument)
    changed[path[0]] = _replaced(changed[path[0]], path[1:], value)
    return changed


def _sizes(sizes: Sizes, symbols: list[list[Place]]) -> Sizes:
    shapes: list[tuple[Size, ...] | None] = []
    for number, shape in enumerate(sizes.shapes):
        free = {d: f"size {k}" for k, places in enumerate(symbols) for n, d in places if n == number}
        shapes.append(None if shape is None else tuple((1, free[d]) if d in free else s for d, s in enumerate(shape)))
    return Sizes(sizes.names, tuple(shapes), sizes.values)
