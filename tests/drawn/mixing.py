"""What runs over the channels: softmax, reductions, sorting, sums, transforms."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drawn.base import ALL, Draw, Kept, Step, gather, kind, made_by, over, part, same, weight, whole


@kind(*ALL)
def softmax_channels(d: Draw) -> Step:
    dim = d.pick(d.dim, d.dim - len(d.shape))
    way = d.pick(
        lambda x: x.softmax(dim),
        lambda x: F.log_softmax(x, dim),
        lambda x: F.softmin(x, dim),
        lambda x: x * torch.softmax(2 * x, dim),
    )
    return d.step(lambda s, x: way(x), over)


@kind("signal", "image", "tokens")
def softmax_places(d: Draw) -> Step:
    at = 1 if d.domain == "tokens" else -1
    return d.step(lambda s, x: x.softmax(at), same)


REDUCTIONS = {
    "mean": lambda x, dim: x.mean(dim, keepdim=True),
    "sum": lambda x, dim: x.sum(dim, keepdim=True),
    "std": lambda x, dim: x.std(dim, keepdim=True),
    "var": lambda x, dim: x.var(dim, keepdim=True, unbiased=False),
    "amax": lambda x, dim: x.amax(dim, keepdim=True),
    "amin": lambda x, dim: x.amin(dim, keepdim=True),
    "max": lambda x, dim: x.max(dim, keepdim=True).values,
    "logsumexp": lambda x, dim: x.logsumexp(dim, keepdim=True),
    "norm": lambda x, dim: x.norm(dim=dim, keepdim=True),
    "norm1": lambda x, dim: torch.linalg.vector_norm(x, 1, dim, keepdim=True),
    "prod": lambda x, dim: torch.tanh(x).add(1.5).prod(dim, keepdim=True),
    "var_mean": lambda x, dim: torch.add(*torch.var_mean(x, dim, keepdim=True)),
    "median": lambda x, dim: x.median(dim, keepdim=True).values,
    "count": lambda x, dim: (x > 0).sum(dim, keepdim=True).to(x.dtype) + 0.1 * x.sum(dim, keepdim=True),
    "any": lambda x, dim: (x > 1).any(dim, keepdim=True).to(x.dtype) + x.mean(dim, keepdim=True),
    "aminmax": lambda x, dim: torch.sub(*torch.aminmax(x, dim=dim, keepdim=True)),
    "nanmean": lambda x, dim: torch.nanmean(x, dim, keepdim=True),
    "mean_all": lambda x, dim: x.mean(tuple(range(1, x.ndim)), keepdim=True),
    "amax_all": lambda x, dim: x.amax(tuple(range(1, x.ndim)), keepdim=True),
}


@kind(*ALL)
def reduce_and_gate(d: Draw) -> Step:
    """Every channel times a number that comes from all of them."""
    dim, name = d.pick(d.dim, d.dim - len(d.shape)), d.pick(*REDUCTIONS)
    way = REDUCTIONS[name]
    return d.step(lambda s, x: x * torch.sigmoid(way(x, dim)) + 0.1 * x, over)


@kind("signal", "image", "volume", "tokens")
def reduce_and_spread(d: Draw) -> Step:
    """What is left of the channels, through a layer that makes new ones."""
    dim, name = d.dim, d.pick(*REDUCTIONS)
    way = REDUCTIONS[name]

    def meaning(s: Step, x: Tensor, keep: Tensor, kept: Kept) -> tuple[Tensor, Tensor]:
        return s.layer(way(gather(x, keep, dim), dim)), kept(s.layer.weight)

    return d.step(lambda s, x: s.layer(way(x, dim)), meaning, layer=d.layer(1, d.out()))


@kind("image")
def spatial_attention(d: Draw) -> Step:
    """CBAM: mean and maximum over the channels, a convolution, a gate."""

    def run(s: Step, x: Tensor) -> Tensor:
        maps = torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True)[0]], 1)
        return x * torch.sigmoid(s.layer(maps))

    return d.step(run, over, layer=nn.Conv2d(2, 1, 3, padding=1))


@kind("image", "signal")
def efficient_channel_attention(d: Draw) -> Step:
    """ECA: a convolution that slides over the channels, so that none may go."""

    def run(s: Step, x: Tensor) -> Tensor:
        g = s.layer(x.flatten(2).mean(2).unsqueeze(1)).squeeze(1)
        return x * torch.sigmoid(g).view(*g.shape, *[1] * (x.ndim - 2))

    return d.step(run, same, layer=nn.Conv1d(1, 1, 3, padding=1))


@kind(*ALL)
def maxout(d: Draw) -> Step:
    d.need(d.width % 2 == 0 and d.width >= 4)
    dim, way = d.dim, d.pick("view", "split", "pool")

    def run(s: Step, x: Tensor) -> Tensor:
        if way == "view":
            return x.unflatten(dim, (-1, 2)).amax(dim + 1)
        a, b = x.chunk(2, dim)
        return torch.maximum(a, b) if way == "split" else torch.stack([a, b]).max(0).values

    def meaning(s: Step, x: Tensor, keep: Tensor, kept: Kept) -> tuple[Tensor, Tensor]:
        pairs = keep.view(-1, 2) if way == "view" else keep.view(2, -1).t()
        y = s.run(s, x)
        if way != "view":
            return y, pairs.all(1)
        # Inside a pair the kept entries alone count; a pair without any is gone.
        low = torch.where(keep.view([-1 if k == dim else 1 for k in range(x.ndim)]), x, -torch.inf)
        return low.unflatten(dim, (-1, 2)).amax(dim + 1), pairs.any(1)

    return d.step(run, meaning)


@kind(*ALL)
def cumsum_channels(d: Draw) -> Step:
    dim, way = d.dim, d.pick(torch.cumsum, torch.cumsum, lambda x, dim: torch.cumprod(torch.tanh(x) + 1, dim))
    return d.step(lambda s, x: way(x, dim), over)


@kind("tokens", "signal")
def cumsum_places(d: Draw) -> Step:
    at = 1 if d.domain == "tokens" else -1
    return d.step(lambda s, x: x.cumsum(at), same)


@kind(*ALL)
def sort_channels(d: Draw) -> Step:
    dim, way = d.dim, d.pick("sort", "topk", "argmax")
    d.need(d.width >= 4)

    def run(s: Step, x: Tensor) -> Tensor:
        if way == "sort":
            return x.sort(dim).values
        return x.topk(3, dim).values if way == "topk" else x + x.argmax(dim, keepdim=True).to(x.dtype)

    def largest(s: Step, x: Tensor, keep: Tensor, kept: Kept) -> tuple[Tensor, Tensor]:
        """The largest of the kept channels, as of an extremum; where the others come matters to nobody."""
        return whole(s, gather(x, keep, dim), keep, kept)

    return d.step(run, largest if way == "topk" else whole)


@kind(*ALL)
def diff_channels(d: Draw) -> Step:
    """Differences of neighbours, which no channel may leave."""
    d.need(d.width >= 4)
    dim = d.dim
    return d.step(lambda s, x: x.narrow(dim, 1, d.width - 1) - x.narrow(dim, 0, d.width - 1), _neighbours)


def _neighbours(s: Step, x: Tensor, keep: Tensor, kept: Kept) -> tuple[Tensor, Tensor]:
    return s.run(s, x), keep[1:] & keep[:-1]


@kind("tokens")
def fourier_mixing(d: Draw) -> Step:
    """FNet."""
    return d.step(lambda s, x: torch.fft.fft(torch.fft.fft(x, dim=-1), dim=-2).real, same)


@kind("image")
def fourier_layer(d: Draw) -> Step:
    """A spectral convolution: complex weights on the lowest frequencies of every channel."""
    c, o = d.width, d.out()

    def run(s: Step, x: Tensor) -> Tensor:
        f = torch.fft.rfft2(x)
        y = torch.einsum("bihw,io->bohw", f, s.w.to(f.dtype))
        return torch.fft.irfft2(y, s=x.shape[2:])

    return d.step(run, made_by("w", 1), w=nn.Parameter(torch.randn(c, o, dtype=torch.complex64)))


@kind("image", "signal", "tokens")
def complex_pairs(d: Draw) -> Step:
    """Two layers as real and imaginary part, and the modulus of a product with a complex table."""
    o = d.pick(4, 6)

    def run(s: Step, x: Tensor) -> Tensor:
        z = torch.complex(s.a(x), s.b(x))
        return (z * torch.conj(z)).real + z.abs()

    return d.step(run, made_by("a.weight"), a=d.layer(d.width, o), b=d.layer(d.width, o))


@kind("features", "tokens")
def prototypes(d: Draw) -> Step:
    """Distances to learned points (radial basis functions)."""
    n, way = d.pick(4, 6), d.pick("difference", "product")

    def run(s: Step, x: Tensor) -> Tensor:
        if way == "difference":
            return torch.exp(-(x.unsqueeze(-2) - s.points).pow(2).sum(-1))
        return torch.exp(-(x.pow(2).sum(-1, keepdim=True) - 2 * x @ s.points.t() + s.points.pow(2).sum(-1)))

    return d.step(run, made_by("points"), points=weight(n, d.width))


@kind("features")
def outer_product(d: Draw) -> Step:
    """All products of pairs of channels, flattened (factorisation machines, bilinear pooling)."""
    d.need(d.width <= 8)
    way = d.pick(
        lambda x: torch.einsum("bi,bj->bij", x, x),
        lambda x: x.unsqueeze(2) * x.unsqueeze(1),
        lambda x: torch.bmm(x.unsqueeze(2), x.unsqueeze(1)),
    )
    return d.step(
        lambda s, x: s.layer(way(x).flatten(1)), made_by("layer.weight"), layer=nn.Linear(d.width**2, d.out())
    )


@kind("image", "tokens")
def gram_matrix(d: Draw) -> Step:
    """Products of channels over the places (covariance pooling)."""
    d.need(d.width <= 8)
    tokens = d.domain == "tokens"

    def run(s: Step, x: Tensor) -> Tensor:
        t = x if tokens else x.flatten(2).transpose(1, 2)
        g = torch.bmm(t.transpose(1, 2), t) / t.shape[1]
        return s.layer(g.flatten(1))

    return d.step(run, made_by("layer.weight"), "features", layer=nn.Linear(d.width**2, d.out()))


@kind("tokens", "features")
def mixture_of_experts(d: Draw) -> Step:
    """All experts, weighted by a softmax of a gate."""
    n, o = 3, d.out()

    def run(s: Step, x: Tensor) -> Tensor:
        gate = s.gate(x).softmax(-1)
        y = torch.stack([e(x) for e in s.experts], -2)
        return (gate.unsqueeze(-1) * y).sum(-2) if way else torch.einsum("...e,...ec->...c", gate, y)

    way = d.chance()
    experts = nn.ModuleList(nn.Linear(d.width, o) for _ in range(n))
    return d.step(run, made_by("experts.0.weight"), gate=nn.Linear(d.width, n), experts=experts)


@kind("tokens", "features")
def packed_experts(d: Draw) -> Step:
    """Experts as one tensor of weights, the gate's experts may go."""
    n, o = 4, d.out()

    def run(s: Step, x: Tensor) -> Tensor:
        gate = torch.sigmoid(s.gate(x))
        return torch.einsum("...e,...i,eio->...o", gate, x, s.w)

    def meaning(s: Step, x: Tensor, keep: Tensor, kept: Kept) -> tuple[Tensor, Tensor]:
        return s.run(s, x), kept(part(s, "w"), 2)

    return d.step(run, meaning, gate=nn.Linear(d.width, n), w=weight(n, d.width, o))


@kind("features", "tokens")
def softmax_hidden(d: Draw) -> Step:
    """A softmax over hidden units between two layers."""

    def meaning(s: Step, x: Tensor, keep: Tensor, kept: Kept) -> tuple[Tensor, Tensor]:
        left = kept(s.a.weight)
        hidden = gather(s.a(x), left, s.dim).softmax(-1)
        return F.linear(hidden, s.b.weight[:, left], s.b.bias), kept(s.b.weight)

    return d.step(lambda s, x: s.b(s.a(x).softmax(-1)), meaning, a=nn.Linear(d.width, 8), b=nn.Linear(8, d.out()))


@kind("features", "tokens")
def fourier_features(d: Draw) -> Step:
    """Sines and cosines of random projections."""
    return d.step(
        lambda s, x: s.b(torch.cat([torch.sin(z := s.a(x)), torch.cos(z)], -1)),
        made_by("b.weight"),
        a=nn.Linear(d.width, 5, bias=False),
        b=nn.Linear(10, d.out()),
    )


@kind(*ALL)
def casts(d: Draw) -> Step:
    """A detour in half and single precision, which double precision does not survive."""
    made = d.step(lambda s, x: x + F.relu(x.float()).to(x.dtype), same)
    made.single = True
    return made
