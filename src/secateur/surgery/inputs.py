"""Inputs that the dense and the pruned network are compared on: the user's own, smaller, moved, telling ones."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from secateur.graph.traced import Traced
from secateur.surgery.lifted import double

__all__ = [
    "all_floating",
    "beside",
    "first_samples",
    "fresh",
    "halves_exchanged",
    "is_constant",
    "leaves",
    "moved_inputs",
    "one_sample",
    "smaller_images",
    "some_samples",
    "telling_inputs",
    "tensors",
]

MANY = 16
"""Samples of a free batch that are looked at, at most."""

FEW = 4
"""Samples that are looked at, at most, of smaller images."""

LARGE, STEP = 128, 32
"""Images whose height and width are at least ``LARGE`` are looked at smaller, in whole ``STEP``\\ s."""

SHARES = ((4, 8), (3, 3))
"""By how much, at least: the height, and the width. The first are as small as leaves the usual networks, which halve
an image five times, more than one entry; the second suffice for those that do not pad."""


def some_samples(traced: Traced) -> tuple[Any, Any]:
    """The user's own batch (the first samples of a large one); in train mode what was traced, which is two or more."""
    if traced.training or traced.given_batch is None:
        return (traced.args, traced.kwargs) if traced.training else traced.given
    if not traced.any_batch or traced.given_batch <= MANY:
        return traced.given
    few: tuple[Any, Any] = pytree.tree_map(lambda v: _cut_batch(v, traced.given_batch, MANY), traced.given)
    return few


def smaller_images(traced: Traced) -> list[tuple[Any, Any]]:
    """Corners of the user's images, where they are large and a network of any batch takes them in eval mode."""
    images = [t for t in tensors(traced.given) if t.ndim >= 4 and t.is_floating_point()]
    sizes = {size for t in images for size in t.shape[2:]}
    if traced.training or not traced.any_batch or not sizes or min(sizes) < LARGE:
        return []

    def corner(value: Any, high: int, wide: int) -> Any:
        value = _cut_batch(value, traced.given_batch, FEW)
        if isinstance(value, Tensor) and value.ndim >= 4 and value.is_floating_point():
            for dim in range(2, value.ndim):
                share = wide if dim == value.ndim - 1 else high
                value = value.narrow(dim, 0, -(-value.shape[dim] // (share * STEP)) * STEP)
        return value

    return [pytree.tree_map(partial(corner, high=high, wide=wide), traced.given) for high, wide in SHARES]


def first_samples(tree: Any) -> Any:
    """The first sample alone."""
    return pytree.tree_map(lambda v: v[:1] if isinstance(v, Tensor) and v.ndim else v, tree)


def beside(tree: Any, others: Any) -> Any:
    """One batch of both."""
    return pytree.tree_map(lambda a, b: torch.cat([a, b]) if isinstance(a, Tensor) and a.ndim else a, tree, others)


def halves_exchanged(outputs: list[Tensor]) -> list[Tensor]:
    """Results of the other inputs in the place of those of the first, for every sample."""
    return [torch.cat(tuple(reversed(t.chunk(2)))) if t.ndim else t for t in outputs]


def one_sample(traced: Traced, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """The first sample of what :func:`some_samples` gives, where the network takes any batch."""
    """The first sample of what :func:`some_samples` gives, where the network takes any batch."""
    batch = min(traced.given_batch or 1, MANY)
    if not traced.any_batch or batch == 1:
        return args, kwargs
    one: tuple[Any, Any] = pytree.tree_map(lambda v: _cut_batch(v, batch, 1), (args, kwargs))
    return one


def all_floating(tree: Any) -> bool:
    """Whether there are no whole numbers among the inputs."""
    """Whether there are no whole numbers among the inputs."""
    return all(t.is_floating_point() or t.is_complex() for t in tensors(tree))


def _cut_batch(value: Any, batch: int | None, count: int) -> Any:
    return value[:count] if isinstance(value, Tensor) and value.ndim and value.shape[0] == batch else value


def leaves(args: Any, kwargs: Any) -> list[Any]:
    """Inputs as a graph takes them, cloned in double precision."""
    """Inputs as a graph takes them, cloned in double precision."""
    return pytree.tree_leaves((fresh(args), fresh(kwargs)))


def fresh(tree: Any) -> Any:
    """Clones inputs, in double precision: a network may write into them."""
    return pytree.tree_map(lambda v: double(v).clone() if isinstance(v, Tensor) else v, tree)


def tensors(tree: Any) -> list[Tensor]:
    """Every tensor, in order."""
    """Every tensor, in order."""
    return [t for t in pytree.tree_leaves(tree) if isinstance(t, Tensor)]


def telling_inputs(tree: Any) -> Any:
    """Inputs with noise in place of constant floating tensors; anything else as it is."""
    return _changed(tree, _telling)


def moved_inputs(tree: Any) -> Any:
    """Other inputs of the same kind: what they change in the outputs is what the input moves.

    Floating tensors are drawn anew with their own mean and spread; whole numbers (tokens, positions, masks) change
    places along their last dimension; where that changes nothing, zeros and ones of the first tensor are exchanged
    at random.
    """
    moved = _changed(tree, _moved)
    if all(torch.equal(a, b) for a, b in zip(tensors(tree), tensors(moved), strict=True)):
        return _flipped(tree)
    return moved


def _changed(tree: Any, change: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    return pytree.tree_map(lambda v: change(v, generator) if isinstance(v, Tensor) else v, tree)


def _telling(value: Tensor, generator: torch.Generator) -> Tensor:
    if not value.is_floating_point() or value.numel() < 2 or not is_constant(value):
        return value
    noise = torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value.device)
    return value + noise


def _moved(value: Tensor, generator: torch.Generator) -> Tensor:
    if value.is_floating_point() and value.numel():
        finite = value[value.isfinite()].double()
        spread = float(finite.std()) if finite.numel() > 1 else 0.0
        noise = torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value.device)
        fresh = (noise * (spread or 1.0) + (finite.mean() if finite.numel() else 0.0)).to(value.dtype)
        return torch.where(value.isfinite(), fresh, value)
    return value.roll(1, -1) if value.ndim else value


def _flipped(tree: Any) -> Any:
    first = next((t for t in tensors(tree) if t.ndim and t.dtype in (torch.int64, torch.int32, torch.bool)), None)
    if first is None:
        return tree
    flips = (torch.rand(first.shape, generator=torch.Generator().manual_seed(1)) < 0.5).to(first.device)
    swapped = torch.where(flips & (first >= 0) & (first <= 1), (first == 0).to(first.dtype), first)
    return pytree.tree_map(lambda v: swapped if v is first else v, tree)


def is_constant(value: Tensor) -> bool:
    """Whether all entries are the same; the last one alone tells most that are not."""
    first = value[(0,) * value.ndim]
    return bool(value[(-1,) * value.ndim] == first) and bool((value == first).all())
