"""Indices, masks and tables."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from drawn.base import ALL, Draw, Kept, Step, buffer, gather, kind, made_by, move, same, weight

INDEXABLE = ("signal", "image", "volume", "tokens", "features")


@kind(*INDEXABLE)
def index_select(d: Draw) -> Step:
    dim, n = d.dim, d.width
    order = torch.tensor(d.rng.choices(range(n), k=d.pick(n, max(2, n // 2))))
    return d.step(lambda s, x: x.index_select(dim, s.order), move, order=order)


@kind(*INDEXABLE)
def index_list(d: Draw) -> Step:
    """x[:, [2, 0, 1]]: written in the code, or a buffer."""
    order = d.rng.sample(range(d.width), k=max(2, d.width - 1))
    at = (*[slice(None)] * d.dim, order)
    if d.chance():
        return d.step(lambda s, x: x[at], move)
    dim = d.dim
    return d.step(lambda s, x: x[(*[slice(None)] * dim, s.order)], move, order=torch.tensor(order))


@kind(*INDEXABLE)
def permute_and_back(d: Draw) -> Step:
    """A fixed permutation of the channels, a map, and its inverse."""
    order = torch.tensor(d.rng.sample(range(d.width), k=d.width))
    dim = d.dim
    return d.step(
        lambda s, x: torch.tanh(x.index_select(dim, s.order)).index_select(dim, s.back),
        same,
        order=order,
        back=order.argsort(),
    )


@kind("image")
def index_places(d: Draw) -> Step:
    """Rows picked by an integer table."""
    return d.step(lambda s, x: x[:, :, s.rows], same, rows=torch.tensor([0, 2, 1, 1]))


@kind("tokens", "features", "image")
def gather_channels(d: Draw) -> Step:
    """Every sample picks its channels by an integer table."""
    dim, n = d.dim, d.width

    def run(s: Step, x: Tensor) -> Tensor:
        shape = [1] * x.ndim
        shape[dim] = len(s.order)
        size = list(x.shape)
        size[dim] = len(s.order)
        return x.gather(dim, s.order.view(shape).expand(size))

    return d.step(run, move, order=torch.tensor(d.rng.choices(range(n), k=max(2, n // 2))))


@kind("tokens")
def gather_tokens(d: Draw) -> Step:
    """The tokens with the highest score, all channels of them."""

    def run(s: Step, x: Tensor) -> Tensor:
        best = s.score(x).squeeze(-1).topk(2, dim=1).indices
        return x.gather(1, best.unsqueeze(-1).expand(-1, -1, x.shape[-1]))

    return d.step(run, same, score=nn.Linear(d.width, 1))


@kind("tokens")
def position_table(d: Draw) -> Step:
    """Learned positions: longer than the sequence, sliced; or looked up by an integer buffer."""
    n, way = d.shape[1], d.pick("slice", "ids", "arange", "buffer", "exact")

    def run(s: Step, x: Tensor) -> Tensor:
        n = x.shape[1]
        if way == "slice":
            return x + s.table[:, :n]
        if way == "ids":
            return x + s.embed(s.ids[:, :n])
        if way == "arange":
            return x + s.embed(torch.arange(n, device=x.device))
        return x + (s.fixed[:n] if way == "buffer" else s.own)

    parts = {
        "slice": {"table": weight(1, n + 3, d.width)},
        "ids": {"embed": nn.Embedding(n + 3, d.width), "ids": torch.arange(n + 3)[None]},
        "arange": {"embed": nn.Embedding(n + 4, d.width)},
        "buffer": {"fixed": buffer(n + 3, d.width)},
        "exact": {"own": weight(1, n, d.width)},
    }[way]
    return d.step(run, same, **parts)


@kind(*ALL)
def channel_embedding(d: Draw) -> Step:
    """One number per channel, looked up by number."""
    shape = [d.width] + [1] * (len(d.shape) - d.dim - 1)
    return d.step(
        lambda s, x: x + s.embed(s.ids).view(shape), same, embed=nn.Embedding(d.width + 2, 1), ids=torch.arange(d.width)
    )


@kind(*ALL)
def channel_mask(d: Draw) -> Step:
    """A fixed mask of channels: float, bool with masked_fill, bool with where."""
    way = d.pick("float", "fill", "where", "index")
    bits = torch.tensor([d.chance() for _ in range(d.width)])
    bits[0] = True
    shape = [d.width] + [1] * (len(d.shape) - d.dim - 1)
    at = [slice(None)] * d.dim

    def run(s: Step, x: Tensor) -> Tensor:
        m = s.bits.view(shape)
        if way == "float":
            return x * m
        if way == "index":
            return x[(*at, s.bits)]
        return x.masked_fill(~m, 0.25) if way == "fill" else torch.where(m, x, -x)

    return d.step(run, move if way == "index" else same, bits=bits.float() if way == "float" else bits)


@kind("image", "tokens")
def place_mask(d: Draw) -> Step:
    """A mask that comes from the data, the same for all channels."""
    dim = d.dim

    def run(s: Step, x: Tensor) -> Tensor:
        score = s.score(x)
        return torch.where(score > 0, x, 0.1 * x).masked_fill(score.abs() < 0.05, 0.0) if dim else x

    return d.step(run, same, score=d.layer(d.width, 1))


@kind(*ALL)
def data_dependent_mask(d: Draw) -> Step:
    """Entries below the mean of the channels become zero."""
    dim = d.dim

    def meaning(s: Step, x: Tensor, keep: Tensor, kept: Kept) -> tuple[Tensor, Tensor]:
        return torch.where(x > gather(x, keep, dim).mean(dim, keepdim=True), x, 0), keep

    return d.step(lambda s, x: torch.where(x > x.mean(dim, keepdim=True), x, 0), meaning)


@kind("tokens")
def masked_softmax(d: Draw) -> Step:
    """Weights over tokens with −inf where a mask says so."""
    n = d.shape[1]
    bits = torch.ones(n, dtype=torch.bool)
    bits[-1] = False

    def run(s: Step, x: Tensor) -> Tensor:
        scores = s.score(x).masked_fill(~s.bits[:, None], float("-inf"))
        return (scores.softmax(1) * x).sum(1)

    return d.step(run, same, "features", score=nn.Linear(d.width, 1), bits=bits)


@kind("features")
def embedding_bag(d: Draw) -> Step:
    """A bag of words beside the features, which come from where x is large."""

    def run(s: Step, x: Tensor) -> Tensor:
        words = (x[:, :1].abs() * 3).long().clamp(0, 6).expand(-1, 2)
        return s.layer(x) + s.bag(words)

    o = d.out()
    return d.step(run, made_by("layer.weight"), layer=nn.Linear(d.width, o), bag=nn.EmbeddingBag(7, o, mode="sum"))


@kind("tokens", "features")
def quantised_lookup(d: Draw) -> Step:
    """The nearest of a few learned codes (vector quantisation)."""

    def run(s: Step, x: Tensor) -> Tensor:
        distance = (x.unsqueeze(-2) - s.codes.weight).pow(2).sum(-1)
        return s.codes(distance.argmin(-1))

    return d.step(run, _codes, codes=nn.Embedding(5, d.width))


def _codes(s: Step, x: Tensor, keep: Tensor, kept: Kept) -> tuple[Tensor, Tensor]:
    return s.run(s, x), kept(s.codes.weight, 1)


@kind("image")
def coordinates(d: Draw) -> Step:
    """Rows and columns as two more channels, computed on the fly (CoordConv)."""

    def run(s: Step, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        rows = torch.linspace(-1, 1, h).to(x).view(1, 1, h, 1).expand(n, 1, h, w)
        columns = torch.arange(w).to(x).view(1, 1, 1, w).expand(n, -1, h, -1) / w
        return s.layer(torch.cat([x, rows, columns], 1))

    return d.step(run, made_by("layer.weight"), layer=nn.Conv2d(d.width + 2, d.out(), 1))


@kind("tokens", "features")
def one_hot(d: Draw) -> Step:
    """A table of which one row is picked by an integer of the code."""
    k = d.pick(0, 2, -1)
    return d.step(lambda s, x: x * s.rows[k] + s.rows.select(0, 1), same, rows=weight(4, d.width))


@kind("tokens", "features", "image")
def index_add(d: Draw) -> Step:
    """Writes through an index: index_add, index_copy, scatter_add, index_put."""
    dim, way = d.dim, d.pick("add", "copy", "put", "scatter")
    d.need(d.width >= 4)

    def run(s: Step, x: Tensor) -> Tensor:
        two = x.narrow(dim, 0, 2)
        if way == "add":
            return x.index_add(dim, s.where, two)
        if way == "copy":
            return x.index_copy(dim, s.where, two * 2)
        if way == "put":
            y = x.clone()
            y[(*[slice(None)] * dim, s.where)] = 0.5
            return y
        shape = [1] * x.ndim
        shape[dim] = 2
        return x.scatter_add(dim, s.where.view(shape).expand(two.shape), two)

    return d.step(run, same, where=torch.tensor([3, 1]))
