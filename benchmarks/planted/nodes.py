"""Mistakes in graphs: sizes, indices, dimensions and the order of operands."""

from __future__ import annotations

import operator
import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.fx import Node

from planted.base import Cut, Mistake, Tensors, kind, of_tensor, some, tensors_of


def op(node: Node) -> str:
    """For instance ``view``; empty for what is not an ATen operator."""
    name = str(getattr(node.target, "overloadpacket", ""))
    return name.removeprefix("aten.").rstrip("_") if name.startswith("aten.") else ""


def edited(node: Node, what: str, edit: Callable[[Node], None]) -> Mistake:
    def change(model: Any, dense: Tensors) -> None:
        edit(next(n for n in model.graph.nodes if n.name == node.name))
        model.recompile()

    return Mistake(f"{node.name}: {what}", change)


def argument(node: Node, position: int, value: Any) -> Mistake:
    """Another constant in place of an argument."""

    def edit(n: Node) -> None:
        args = list(n.args) + [None] * (position + 1 - len(n.args))
        n.args = (*args[:position], value, *args[position + 1 :])

    return edited(node, f"argument {position} is {value}", edit)


def nodes(cut: Cut, *names: str) -> list[Node]:
    return [n for n in cut.graph if op(n) in names]


def swapped(items: Sequence[Any], i: int, j: int) -> list[Any]:
    found = list(items)
    found[i], found[j] = found[j], found[i]
    return found


def sizes_of(node: Node) -> tuple[int, list[Any]] | None:
    """Where a view has its sizes, and which they are."""
    position = {"view": 1, "reshape": 1, "unflatten": 2, "_unsafe_view": 1}.get(op(node))
    if position is None or len(node.args) <= position or not isinstance(node.args[position], (list, tuple)):
        return None
    return position, list(node.args[position])  # type: ignore[arg-type]


def replaced(position: int, of: Callable[[list[Any]], list[Any]]) -> Callable[[Node], None]:
    return lambda n: n.update_arg(position, of(list(n.args[position])))  # type: ignore[arg-type]


@kind("dimensions exchanged in a view or transposition")
def _view(cut: Cut, rng: random.Random) -> Mistake | None:
    found = []
    for node in cut.graph:
        at = sizes_of(node)
        if at is not None:
            numbers = [k for k, s in enumerate(at[1]) if isinstance(s, int)]
            found += [(node, at[0], i, j) for i in numbers for j in numbers if i < j and at[1][i] != at[1][j]]
    if (place := some(rng, found)) is None:
        return None
    node, position, i, j = place
    return edited(node, f"sizes {i} and {j}", replaced(position, lambda s: swapped(s, i, j)))


@kind("dimensions exchanged in a view or transposition")
def _transposition(cut: Cut, rng: random.Random) -> Mistake | None:
    if (node := some(rng, nodes(cut, "permute", "transpose"))) is None:
        return None
    if op(node) == "permute":
        i, j = rng.sample(range(len(node.args[1])), 2)
        return edited(node, f"permute {i} and {j}", replaced(1, lambda s: swapped(s, i, j)))
    others = [(a, b) for a in range(4) for b in range(a) if {a, b} != set(node.args[1:])]
    dims = rng.choice(others)
    return edited(node, f"transpose {dims}", lambda n: setattr(n, "args", (n.args[0], *dims)))


@kind("heads regrouped")
def _regrouped(cut: Cut, rng: random.Random) -> Mistake | None:
    """The same heads × size split differently wherever it is split."""
    found = set()
    for node in cut.graph:
        at = sizes_of(node)
        few_dims = 3 if op(node) != "unflatten" else 1
        if at is None or len(at[1]) <= few_dims or not all(isinstance(size, int) for size in at[1][-2:]):
            continue
        h, s = at[1][-2:]
        found |= {(h, s, 0.5)} if s % 2 == 0 and h != 1 else set()
        found |= {(h, s, 2)} if s > 1 and (h == -1 or (h % 2 == 0 and h > 1)) else set()
    if (choice := some(rng, sorted(found))) is None:
        return None
    h, s, factor = choice
    new = (h if h == -1 else int(h / factor), int(s * factor))
    few = rng.random() < 0.2  # one view alone, a size gone stale
    first = next(n.name for n in cut.graph if (at := sizes_of(n)) and (h, s) in zip(at[1], at[1][1:], strict=False))

    def change(model: Any, dense: Tensors) -> None:
        for node in model.graph.nodes:
            at = sizes_of(node)
            if at is None or (few and node.name != first):
                continue
            for k in range(len(at[1]) - 1):
                if tuple(at[1][k : k + 2]) == (h, s):
                    node.update_arg(at[0], [*at[1][:k], *new, *at[1][k + 2 :]])
        model.recompile()

    return Mistake(f"{(h, s)} as {new}{' once' if few else ''}", change)


@kind("slice or index off by one")
def _slice(cut: Cut, rng: random.Random) -> Mistake | None:
    found = nodes(cut, "slice", "select", "narrow", "split_with_sizes", "split", "roll", "unfold")
    found = [n for n in found if op(n) not in ("split", "roll") or isinstance(n.args[1], (list, tuple))]
    if (node := some(rng, found)) is None:
        return None
    step = rng.choice((1, -1))
    if op(node) == "select":
        return argument(node, 2, node.args[2] + step)
    if op(node) in ("split_with_sizes", "split"):
        sizes = list(node.args[1])
        return argument(node, 1, [sizes[0] + step, *sizes[1:-1], sizes[-1] - step])
    if op(node) == "roll":
        return argument(node, 1, [node.args[1][0] + step, *node.args[1][1:]])
    start = node.args[2] if len(node.args) > 2 and isinstance(node.args[2], int) else 0
    if op(node) == "slice" and len(node.args) > 3 and isinstance(node.args[3], int) and node.args[3] < 2**40:
        end = node.args[3]
        return edited(node, f"slice by {step}",
                       lambda n: setattr(n, "args", (*n.args[:2], start + step, end + step, *n.args[4:])))  # fmt: skip
    return argument(node, 2, start + step) if op(node) in ("slice", "narrow") else None


@kind("slice or index off by one")
def _index(cut: Cut, rng: random.Random) -> Mistake | None:
    own = {n: t for n, t in tensors_of(cut.model).items() if "_secateur_index" in n and t.numel() > 1}
    if (name := some(rng, list(own))) is None:
        return None
    if rng.random() < 0.5:
        return of_tensor(name, "rolled", lambda t: torch.roll(t, 1))
    at = rng.randrange(own[name].numel())
    return of_tensor(name, f"entry {at}", lambda t: torch.cat([t[:at], t[at : at + 1] ^ 1, t[at + 1 :]]))


@kind("another dimension")
def _dimension(cut: Cut, rng: random.Random) -> Mistake | None:
    names = ("softmax", "mean", "sum", "cumsum", "amax", "glu", "flip", "chunk", "unbind")
    if (node := some(rng, nodes(cut, *names))) is None:
        return None
    position = 2 if op(node) == "chunk" else 1
    if len(node.args) <= position:
        return None
    dims = node.args[position]
    new = rng.choice((-2, 1, 2, 0))
    return argument(node, position, [new, *dims[1:]] if isinstance(dims, (list, tuple)) else new)


@kind("two branches exchanged")
def _operands(cut: Cut, rng: random.Random) -> Mistake | None:
    found = nodes(cut, "cat", "stack", "matmul", "bmm", "scaled_dot_product_attention", "sub", "div", "einsum")
    if (node := some(rng, found)) is None:
        return None
    inside = op(node) in ("cat", "stack", "einsum")
    operands = list(node.args[1] if op(node) == "einsum" else node.args[0] if inside else node.args)
    tensors = [k for k, a in enumerate(operands) if isinstance(a, Node)]
    if len(tensors) < 2:
        return None
    i, j = rng.sample(tensors, 2)

    def edit(n: Node) -> None:
        if inside:
            n.update_arg(1 if op(n) == "einsum" else 0, swapped(operands_of(n), i, j))
        else:
            n.args = tuple(swapped(n.args, i, j))

    def operands_of(n: Node) -> list[Any]:
        return list(n.args[1 if op(n) == "einsum" else 0])  # type: ignore[arg-type]

    return edited(node, f"operands {i} and {j}", edit)


@kind("parts exchanged (q/k/v, halves)")
def _items(cut: Cut, rng: random.Random) -> Mistake | None:
    """Two results of a chunk, split or unbind, each where the other belongs."""
    groups: dict[Node, list[Node]] = {}
    for node in cut.graph:
        if node.target is operator.getitem or op(node) == "select":
            groups.setdefault(node.args[0], []).append(node)  # type: ignore[arg-type]
    if (items := some(rng, [g for g in groups.values() if len(g) > 1])) is None:
        return None
    a, b = rng.sample(items, 2)

    def change(model: Any, dense: Tensors) -> None:
        first, second = (next(n for n in model.graph.nodes if n.name == x.name) for x in (a, b))
        first.args, second.args = second.args, first.args
        model.recompile()

    return Mistake(f"{a.name} and {b.name}", change)
