"""Repair without any data: what batch normalisation knows of a channel, and channels that resemble each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from secateur.criteria.least_squares.affine import Affine, Options, outputs_left
from secateur.criteria.least_squares.layout import transposed
from secateur.criteria.least_squares.sites import Site, sites
from secateur.criteria.least_squares.twin import Twin
from secateur.graph.ops import arguments, facts

__all__ = ["LAMBDA", "SIMILAR", "back", "expect_bias", "merge", "passed"]

LAMBDA, SIMILAR = 0.85, 0.45
"""Weight of the direction against the offset, and the least cosine of a merge: the paper's values for convolutions."""


@dataclass(frozen=True)
class _Cut:
    """A layer that lost input channels, and the layer that made them.

    Attributes:
        producer: The layer before, with its batch normalisation.
        consumer: The layer that lost inputs.
        path: Operators between the two, in the order of execution.
        kept: Which of the producer's channels stay, shape (C,), bool.
    """

    producer: Affine
    consumer: Affine
    path: tuple[Node, ...]
    kept: Tensor

    def inputs(self) -> Tensor:
        """The dense consumer's weights, channel by channel of the producer: (O, C, the rest)."""
        matrix = self.consumer.map()[0, :, :-1]
        return matrix.reshape(len(matrix), len(self.kept), -1)


def expect_bias(pair: Twin) -> list[str]:
    """Adds to each bias what the removed channels bring on average: b += Σ_c Σ_taps W[:, c] · E[a(z_c)].

    Batch normalisation says that z_c is about N(β_c, γ_c²); the expectation over the activation a is taken at 512
    quantiles. Borders (zero padding) are left out. Source: the data-free form of mean folding, Nagel et al. 2019,
    arXiv:1906.04721, §4.2.1.

    Returns:
        Notes on layers that could not be treated.
    """
    notes: list[str] = []
    for cut in _cuts(pair, _keeps_means, notes):
        norm = cut.producer.site.norm
        site, mine = cut.consumer.site, Affine(pair, cut.consumer.site, Options())
        if norm is None or not mine.intercept:
            notes.append(f"{site.name}: no batch normalisation before it, or no bias in it; left as it is")
            continue
        expected = _expectations(cut, pair.dense.module.state_dict())
        gone = ~cut.kept
        shift = (cut.inputs().sum(2)[:, gone] * expected[gone]).sum(1)
        offset = site.norm.bias if site.norm is not None else site.bias
        assert offset is not None
        pair.write(
            offset, pair.tensors[offset].double() + shift[outputs_left(pair, site)].to(pair.tensors[offset].device)
        )
    return notes


def _expectations(cut: _Cut, tensors: Mapping[str, Tensor]) -> Tensor:
    """E[a(z)] for z ~ N(β, γ²), shape (C,)."""
    norm = cut.producer.site.norm
    assert norm is not None
    assert norm.weight is not None
    assert norm.bias is not None
    points = torch.special.ndtri((torch.arange(512).double() + 0.5) / 512)
    z = tensors[norm.bias].double().cpu() + tensors[norm.weight].double().cpu().abs() * points[:, None]
    return torch.mean(passed(z, cut.path), 0)


def passed(values: Tensor, path: Iterable[Node]) -> Tensor:
    """Numbers after the functions on a path; everything else on it is taken to hand them on."""
    for node in path:
        if facts(node).pointwise:
            values = node.target(values, *node.args[1:], **node.kwargs)  # type: ignore[operator]
    return values


def _keeps_means(node: Node) -> bool:
    """Whether the mean of a channel behind it is that of the function of numbers that it is."""
    known = facts(node)
    return known.pointwise or known.same_entries or known.keeps_mean


def _keeps_scales(node: Node) -> bool:
    """Whether a channel times a positive factor comes out times that factor."""
    known = facts(node)
    return known.homogeneous or known.same_entries


def merge(pair: Twin) -> list[str]:
    """Folds every removed channel into the kept one that it resembles most: W[:, m] += s · W[:, c].

    With a_c the producer's (batch-norm folded) filter and b_c its offset, the match m minimises
    λ(1 − cos(a_c, a_m)) + (1 − λ)·|b_c − s·b_m| / (|b_c| + |s·b_m|), s = ‖a_c‖/‖a_m‖; below a cosine of 0.45 a
    channel is not merged. A positive factor passes a ReLU and pooling unharmed. Source: Kim et al. 2020, Neuron
    Merging, arXiv:2010.13160, §3.

    Returns:
        Notes on layers that could not be treated.
    """
    notes: list[str] = []
    merged_any = None
    for cut in _cuts(pair, _keeps_scales, notes):
        factors = _factors(cut.producer.map()[0], cut.kept)  # (removed, kept)
        merged_any = bool(merged_any) or bool(factors.any())
        inputs = cut.inputs()
        merged = inputs[:, cut.kept] + torch.einsum("orx,rk->okx", inputs[:, ~cut.kept], factors)
        rows = outputs_left(pair, cut.consumer.site)
        mine = Affine(pair, cut.consumer.site, Options())
        old = mine.map()
        mine.write(torch.cat([merged[rows].flatten(1)[None], old[:, :, -1:]], 2))
    if merged_any is False:
        notes.append(f"no removed channel is like a kept one (a cosine of {SIMILAR} at least): nothing was merged")
    return notes


def _factors(filters: Tensor, kept: Tensor) -> Tensor:
    """How much of every kept channel each removed one is, shape (removed, kept)."""
    weights, bias = filters[:, :-1], filters[:, -1]
    size = weights.norm(dim=1).clamp_min(1e-12)
    cosine = (weights[~kept] / size[~kept, None]) @ (weights[kept] / size[kept, None]).T
    scale = size[~kept, None] / size[None, kept]
    own, other = bias[~kept, None], bias[None, kept] * scale
    offset = (own - other).abs() / (own.abs() + other.abs()).clamp_min(1e-12)
    match = (LAMBDA * (1 - cosine) + (1 - LAMBDA) * offset).argmin(1, keepdim=True)
    alike = cosine.gather(1, match) >= SIMILAR
    return torch.zeros_like(scale).scatter_(1, match, scale.gather(1, match) * alike)


def _cuts(pair: Twin, passes: Callable[[Node], bool], notes: list[str]) -> Iterator[_Cut]:
    """The layers that lost inputs and whose inputs come from one other layer over operators that ``passes``."""
    every = np.ones(len(pair.label_keep), dtype=bool)
    same = Twin(pair.groups, every, pair.dense, pair.dense, {n: n for n in pair.dense.nodes})
    found = sites(pair.groups.flow)
    ends: dict[Node, Site] = {(s.norm.node if s.norm else s.node): s for s in found}
    for site in found:
        dim = 0 if transposed(site.node) else 1
        labels = pair.groups.flow.tensors[site.weight]
        if dim not in pair.groups.masks(labels, pair.label_keep):
            continue
        end, path = back(arguments(site.node)["input"], ends, passes)
        producer = ends.get(end) if end is not None else None
        both = [Affine(same, s, Options()) for s in (producer, site) if s is not None]
        if len(both) < 2 or any(a.layout.groups > 1 for a in both):
            notes.append(f"{site.name}: its inputs do not come straight from one layer; left as it is")
            continue
        assert end is not None
        kept = pair.groups.masks(pair.groups.flow.labels[end], pair.label_keep)
        mask = next((torch.from_numpy(m) for d, m in kept.items() if d != 0), None)
        if mask is not None:
            yield _Cut(both[0], both[1], path, mask)


def back(node: Node, ends: Mapping[Node, Site], passes: Callable[[Node], bool]) -> tuple[Node | None, tuple[Node, ...]]:
    """Follows first arguments back to the end of a layer."""
    path: list[Node] = []
    while node not in ends:
        if node.op != "call_function" or not passes(node):
            return None, ()
        path.insert(0, node)
        node = node.args[0]  # type: ignore[assignment]
    return node, tuple(path)
