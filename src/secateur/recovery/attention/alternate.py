"""Maps of queries and keys fitted in turn to the logits that attention looks at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from secateur.recovery.attention.placed import MASKED

__all__ = ["Maps", "Samples", "alternated", "divergence"]

SHARE = 0.1
"""Share of a row's weight that goes to its entries alike, not by the attention that the dense network pays them."""

ROUNDS, STEPS = 2, 6
"""Times that either side is fitted, and steps of conjugate gradients for each."""


@dataclass(frozen=True)
class Maps:
    """Maps to the kept head size, for the query heads (G, r, d′, d) and the key head (G, d′, d) of every group."""

    query: Tensor
    key: Tensor

    def where(self, better: Tensor, other: Maps) -> Maps:
        """These maps in the groups where ``better`` (G,) is true, else those of ``other``."""
        return Maps(
            torch.where(better[:, None, None, None], self.query, other.query),
            torch.where(better[:, None, None], self.key, other.key),
        )


@dataclass(frozen=True)
class Samples:
    """Some instances of an attention: G key heads, r query heads each, n instances, L queries, S keys.

    Attributes:
        queries: What :class:`Maps` are applied to, (G, r, n, L, d).
        keys: The same, (G, n, S, d).
        target: Logits of the dense network without what is added to them, (G, r, n, L, S).
        bias: What is added: masks, positions, (G, r, n, L, S).
        rows: Which queries count, (G, r, n, L).
        scale: What the products are multiplied by in the pruned network.
        mix_query: Matrices that mapped queries are multiplied by, (n or 1, L, d′, d′), or ``None``.
        mix_key: The same of keys, (n or 1, S, d′, d′).
    """

    queries: Tensor
    keys: Tensor
    target: Tensor
    bias: Tensor
    rows: Tensor
    scale: float
    mix_query: Tensor | None
    mix_key: Tensor | None

    def part(self, some: slice) -> Samples:
        """Some of the instances."""
        mixes = (m if m is None or len(m) == 1 else m[some] for m in (self.mix_query, self.mix_key))
        query, key = mixes
        return replace(
            self, queries=self.queries[:, :, some], keys=self.keys[:, some], target=self.target[:, :, some],
            bias=self.bias[:, :, some], rows=self.rows[:, :, some], mix_query=query, mix_key=key,
        )  # fmt: skip

    def weights(self) -> Tensor:
        """How much every logit counts, (G, r, n, L, S); 1 in sum over every row that counts."""
        return weights(self.target, self.bias, self.rows)

    def mapped_queries(self, maps: Tensor) -> Tensor:
        """Queries as the pruned network multiplies them, (G, r, n, L, d′)."""
        made = torch.einsum("grnld,gred->grnle", self.queries, maps.to(self.queries))
        return made if self.mix_query is None else torch.einsum("nlfe,grnle->grnlf", self._every(self.mix_query), made)

    def mapped_keys(self, maps: Tensor) -> Tensor:
        """Keys as the pruned network multiplies them, (G, n, S, d′)."""
        made = torch.einsum("gnsd,ged->gnse", self.keys, maps.to(self.keys))
        return made if self.mix_key is None else torch.einsum("nsfe,gnse->gnsf", self._every(self.mix_key), made)

    def query_slope(self, slope: Tensor) -> Tensor:
        """The transpose of :meth:`mapped_queries`."""
        if self.mix_query is not None:
            slope = torch.einsum("nlfe,grnlf->grnle", self._every(self.mix_query), slope)
        return torch.einsum("grnle,grnld->gred", slope, self.queries).cpu().double()

    def key_slope(self, slope: Tensor) -> Tensor:
        """The transpose of :meth:`mapped_keys`."""
        if self.mix_key is not None:
            slope = torch.einsum("nsfe,gnsf->gnse", self._every(self.mix_key), slope)
        return torch.einsum("gnse,gnsd->ged", slope, self.keys).cpu().double()

    def _every(self, mix: Tensor) -> Tensor:
        return mix.to(self.keys).expand(self.keys.shape[1], *mix.shape[1:])


def weights(target: Tensor, bias: Tensor, rows: Tensor) -> Tensor:
    """How much every logit counts: by the dense network's attention, and a little alike where nothing is masked.

    Attention alone would leave entries free that nobody looks at, which a fit could make so large that somebody does.
    """
    attention = (target + bias).softmax(-1)
    free = bias > bias.amax(-1, keepdim=True) - MASKED
    alike = free / free.sum(-1, keepdim=True).clamp_min(1)
    return (SHARE * alike + (1 - SHARE) * attention) * rows[..., None]


def divergence(samples: Sequence[Samples], logits: Callable[[Samples], Tensor]) -> Tensor:
    """Mean Kullback-Leibler divergence of attention from the dense network's, in nats per query, shape (G,).

    Args:
        samples: What to measure on.
        logits: The pruned network's logits of some samples, without what is added to them.
    """
    total: Tensor | float = 0.0
    count: Tensor | float = 0.0
    for one in samples:
        want = (one.target + one.bias).log_softmax(-1)
        got = (logits(one) + one.bias).log_softmax(-1)
        gap = torch.where(want > -MASKED, want.exp() * (want - got), 0).sum(-1)
        total = total + torch.where(one.rows, gap, 0).sum((1, 2, 3)).cpu().double()
        count = count + one.rows.sum((1, 2, 3)).cpu().double()
    assert isinstance(total, Tensor)
    return total / torch.as_tensor(count).clamp_min(1)


def alternated(samples: Sequence[Samples], start: Maps, queries: Tensor, keys: Tensor) -> Maps:
    """Fits the maps of queries and keys in turn: min Σ over queries of the weighted variance of the logits' errors.

    With weights p (see :func:`weights`) that sum to one over a query's keys, the variance Σ p δ² − (Σ p δ)² of errors δ
    is twice the Kullback-Leibler divergence to second order where p is the attention, and does not see a constant per
    query. Either side is linear least squares with the other one given, and solved by conjugate gradients, with the
    second moments of both sides as the preconditioner.

    Args:
        samples: What to fit on.
        start: Where to begin.
        queries: Second moments of the queries, summed over the heads of a group, (G, d, d).
        keys: Second moments of the keys, (G, d, d).
    """
    maps = start
    weighted = [one.weights() for one in samples]
    for _ in range(ROUNDS):
        maps = _fitted_queries(samples, weighted, maps, queries, keys)
        maps = _fitted_keys(samples, weighted, maps, queries, keys)
    return maps


def _centred(weight: Tensor, errors: Tensor) -> Tensor:
    """Slope of half the weighted variance of every row."""
    mean = (weight * errors).sum(-1, keepdim=True) / weight.sum(-1, keepdim=True).clamp_min(1e-30)
    return weight * (errors - mean)


Errors = Callable[[Samples, Tensor], Tensor]
"""Errors of the logits of some samples, given the other side's mapped vectors."""


def _fitted_queries(
    samples: Sequence[Samples], weighted: Sequence[Tensor], maps: Maps, queries: Tensor, keys: Tensor
) -> Maps:
    mapped = [one.mapped_keys(maps.key) for one in samples]

    def slope(errors: Errors) -> Tensor:
        return sum(
            (one.query_slope(one.scale * torch.einsum("grnls,gnse->grnle", _centred(weight, errors(one, key)), key))
             for one, weight, key in zip(samples, weighted, mapped, strict=True)), torch.zeros_like(maps.query)
        )  # fmt: skip

    def product(query: Tensor) -> Tensor:
        return slope(lambda one, key: _logits(one, one.mapped_queries(query), key))

    near = _inverse(maps.key @ keys @ maps.key.mT), _inverse(queries)
    found = _conjugate(product, slope(_wanted), maps.query, near[0][:, None], near[1][:, None])
    return Maps(found, maps.key)


def _fitted_keys(
    samples: Sequence[Samples], weighted: Sequence[Tensor], maps: Maps, queries: Tensor, keys: Tensor
) -> Maps:
    mapped = [one.mapped_queries(maps.query) for one in samples]

    def slope(errors: Errors) -> Tensor:
        return sum(
            (one.key_slope(one.scale * torch.einsum("grnls,grnle->gnse", _centred(weight, errors(one, query)), query))
             for one, weight, query in zip(samples, weighted, mapped, strict=True)), torch.zeros_like(maps.key)
        )  # fmt: skip

    def product(key: Tensor) -> Tensor:
        return slope(lambda one, query: _logits(one, query, one.mapped_keys(key)))

    spread = (maps.query @ (queries / maps.query.shape[1])[:, None] @ maps.query.mT).sum(1)
    return Maps(maps.query, _conjugate(product, slope(_wanted), maps.key, _inverse(spread), _inverse(keys)))


def _wanted(one: Samples, _: Tensor) -> Tensor:
    return one.target


def _logits(one: Samples, query: Tensor, key: Tensor) -> Tensor:
    found: Tensor = one.scale * torch.einsum("grnle,gnse->grnls", query, key)
    return found


def _inverse(matrix: Tensor) -> Tensor:
    size = matrix.shape[-1]
    mean = matrix.diagonal(dim1=-2, dim2=-1).mean(-1).clamp_min(1e-30)
    found: Tensor = torch.linalg.inv(matrix + 1e-4 * mean[..., None, None] * torch.eye(size, dtype=matrix.dtype))
    return found


def _conjugate(product: Callable[[Tensor], Tensor], right: Tensor, start: Tensor, left: Tensor, near: Tensor) -> Tensor:
    """Preconditioned conjugate gradients, one problem per leading entry; ``left`` · R · ``near`` preconditions R."""

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum((-2, -1), keepdim=True)

    found, rest = start, right - product(start)
    step = left @ rest @ near
    direction, size = step, dot(rest, step)
    for _ in range(STEPS):
        made = product(direction)
        curvature = dot(direction, made)
        alpha = torch.where(curvature > 0, size / curvature.clamp_min(1e-300), 0)
        found, rest = found + alpha * direction, rest - alpha * made
        step = left @ rest @ near
        new = dot(rest, step)
        direction = step + torch.where(size > 0, new / size.clamp_min(1e-300), 0) * direction
        size = new
    return found
