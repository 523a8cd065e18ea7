"""What operators make of a tensor's entries, found out by trying: whether they move them, or mix them linearly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from secateur.graph.calling import preserved_rng

__all__ = ["Moved", "example", "mixes_vectors", "moved"]

_SIZES = (torch.SymInt, torch.SymFloat, torch.SymBool)


def example(node: Node) -> Any:
    """A value of the kind that ``node`` has: random numbers, zeros for whole numbers, the example's sizes."""
    like = node.meta.get("val")
    if isinstance(like, _SIZES):
        return like.node.hint
    if not isinstance(like, Tensor):
        return like
    shape = [s.node.hint if isinstance(s, torch.SymInt) else s for s in like.shape]
    if like.dtype.is_floating_point or like.dtype.is_complex:
        return torch.randn(shape, dtype=torch.float64)
    return torch.zeros(shape, dtype=like.dtype)


class Moved:
    """Entries of a tensor by the entries of another that they are a multiple of.

    Attributes:
        entries: Flat places in the source, in the shape of the target.
        scale: What all of them are multiplied by.
    """

    def __init__(self, entries: Tensor, scale: float) -> None:
        """Whole numbers in the shape of the target."""
        self.entries, self.scale = entries, scale


def moved(path: Sequence[Node], source: Node) -> dict[Node, Moved]:
    """The operators of ``path`` whose result holds entries of ``source``, each once or more, times one number.

    Every operator is run on the numbers of the entries, on ones and on random numbers, with random other operands, so
    no list of operators is needed, and none that does more passes for one.
    """
    found: dict[Node, Moved] = {}
    with preserved_rng(), torch.no_grad():
        torch.manual_seed(0)
        start = example(source)
        others = _others(path, source)
        given = (torch.arange(start.numel(), dtype=torch.float64).reshape(start.shape), torch.ones_like(start), start)
        runs = [_run(path, source, value, others) for value in given]
        for node in path:
            numbers, ones, got = (run.get(node) for run in runs)
            if all(isinstance(v, Tensor) and v.is_floating_point() for v in (numbers, ones, got)):
                one = _moved(numbers, ones, got, start)
                found |= {} if one is None else {node: one}
    return found


def _moved(numbers: Any, ones: Any, got: Any, start: Tensor) -> Moved | None:
    if not ones.numel() or not torch.isfinite(ones).all() or float(ones.flatten()[0]) == 0:
        return None
    scale = float(ones.flatten()[0])
    entries = (numbers.double() / scale).round()
    if not bool((ones == scale).all()) or entries.min() < 0 or entries.max() >= start.numel():
        return None
    entries = entries.long()
    same = torch.allclose(got.double(), scale * start.flatten()[entries], rtol=1e-6, atol=1e-9)
    return Moved(entries, scale) if same else None


def mixes_vectors(path: Sequence[Node], source: Node) -> bool:
    """Whether ``path`` is linear in ``source`` and takes every vector of its last dimension by itself."""
    with preserved_rng(), torch.no_grad():
        torch.manual_seed(0)
        one, other = example(source), example(source)
        others = _others(path, source)
        some = (torch.rand(one.shape[:-1]) > 0.5)[..., None]
        given = [one, other, 2 * one - other, torch.where(some, one, other), torch.zeros_like(one)]
        a, b, both, mixed, nothing = (_run(path, source, v, others).get(path[-1]) for v in given)
    made = [v.double() for v in (a, b, both, mixed, nothing) if isinstance(v, Tensor) and v.shape == one.shape]
    if len(made) < len(given):
        return False
    a, b, both, mixed, nothing = made
    linear = torch.allclose(both, 2 * a - b, rtol=1e-5, atol=1e-5) and not nothing.any()
    return linear and torch.allclose(mixed, torch.where(some, a, b), rtol=1e-5, atol=1e-5)


def _others(path: Sequence[Node], source: Node) -> dict[Node, Any]:
    inner = {source, *path}
    return {n: example(n) for step in path for n in step.all_input_nodes if n not in inner}


def _run(path: Sequence[Node], source: Node, value: Tensor, others: Mapping[Node, Any]) -> dict[Node, Any]:
    """Values along the path; where an operator takes no such values, it and what follows have none."""
    known: dict[Node, Any] = {**others, source: value}
    for step in path:
        if any(n not in known for n in step.all_input_nodes):
            continue
        args, kwargs = torch.fx.node.map_arg((step.args, step.kwargs), known.__getitem__)
        try:
            known[step] = step.target(*args, **kwargs)  # type: ignore[operator]
        except Exception:  # it takes other types than those that were made up
            continue
    return {n: v for n, v in known.items() if n not in others}
