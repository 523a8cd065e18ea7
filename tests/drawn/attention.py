"""Attention, in the spellings that people use."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drawn.base import Draw, Kept, Step, buffer, kind, made_by, same, weight


def _heads(d: Draw) -> tuple[int, int]:
    return d.pick((2, 4), (2, 3), (4, 2), (1, 6))


def _projections(d: Draw, inner: int, **more: nn.Module) -> dict[str, nn.Module]:
    parts = {name: nn.Linear(d.width, inner, bias=d.chance(0.7)) for name in "qkv"}
    return {**parts, "o": nn.Linear(inner, d.width), **more}


@kind("tokens")
def attention_fused(d: Draw) -> Step:
    h, e = _heads(d)
    mask = d.pick(None, "causal", "float", "bool")
    scale = d.pick(None, None, 0.3)
    n = d.shape[1]

    def run(s: Step, x: Tensor) -> Tensor:
        q, k, v = (p(x).view(x.shape[0], -1, h, e).transpose(1, 2) for p in (s.q, s.k, s.v))
        given = None if mask in (None, "causal") else s.table
        y = F.scaled_dot_product_attention(q, k, v, given, is_causal=mask == "causal", scale=scale)
        return x + s.o(y.transpose(1, 2).reshape(x.shape[0], -1, h * e))

    table = {"float": buffer(n, n), "bool": torch.ones(n, n).tril().bool()}.get(mask or "", torch.zeros(1))
    return d.step(run, same, **_projections(d, h * e), table=table)


@kind("tokens")
def attention_packed(d: Draw) -> Step:
    """One layer for query, key and value, taken apart by reshape, chunk or unbind."""
    h, e = _heads(d)
    way = d.pick("unbind", "chunk", "index", "split_heads", "manual")

    def run(s: Step, x: Tensor) -> Tensor:
        n, m = x.shape[0], x.shape[1]
        if way in ("unbind", "index", "manual"):
            packed = s.qkv(x).reshape(n, m, 3, h, e).permute(2, 0, 3, 1, 4)
            q, k, v = packed.unbind(0) if way == "unbind" else (packed[0], packed[1], packed[2])
        elif way == "chunk":
            q, k, v = (t.reshape(n, m, h, e).transpose(1, 2) for t in s.qkv(x).chunk(3, -1))
        else:
            q, k, v = s.qkv(x).view(n, m, h, 3 * e).transpose(1, 2).split(e, -1)
        if way == "manual":
            y = (q * e**-0.5 @ k.transpose(-2, -1)).softmax(-1) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v)
        return s.o(y.transpose(1, 2).flatten(2))

    return d.step(run, made_by("o.weight"), qkv=nn.Linear(d.width, 3 * h * e), o=nn.Linear(h * e, d.out()))


@kind("tokens")
def attention_manual(d: Draw) -> Step:
    """Products, scale and softmax by hand, with and without a bias table and a mask."""
    h, e = _heads(d)
    n, way, mask = d.shape[1], d.pick("matmul", "einsum", "bmm"), d.pick(None, "inf", "bias")

    def run(s: Step, x: Tensor) -> Tensor:
        b, m, _ = x.shape
        q, k, v = (p(x).view(b, m, h, e) for p in (s.q, s.k, s.v))
        if way == "einsum":
            scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / e**0.5
        elif way == "matmul":
            scores = torch.matmul(q.permute(0, 2, 1, 3), k.permute(0, 2, 3, 1)) / e**0.5
        else:
            flat = [t.transpose(1, 2).reshape(b * h, m, e) for t in (q, k)]
            scores = torch.bmm(flat[0], flat[1].mT).view(b, h, m, m) / e**0.5
        if mask == "inf":
            scores = scores.masked_fill(s.causal[:m, :m], float("-inf"))
        if mask == "bias":
            scores = scores + s.bias[s.where[:m, :m]].permute(2, 0, 1)
        w = scores.softmax(-1)
        y = torch.einsum("bhqk,bkhd->bqhd", w, v) if way == "einsum" else (w @ v.transpose(1, 2)).transpose(1, 2)
        return x + s.o(y.reshape(b, m, -1))

    return d.step(
        run,
        same,
        **_projections(d, h * e),
        causal=torch.ones(n, n).triu(1).bool(),
        bias=weight(2 * n, h),
        where=(torch.arange(n)[:, None] - torch.arange(n)).abs(),
    )


@kind("tokens")
def attention_grouped_queries(d: Draw) -> Step:
    """More query heads than key heads."""
    h, e = 4, d.pick(2, 3)
    way = d.pick("repeat", "expand", "enable")

    def run(s: Step, x: Tensor) -> Tensor:
        b, m, _ = x.shape
        q = s.q(x).view(b, m, h, e).transpose(1, 2)
        k, v = (p(x).view(b, m, 2, e).transpose(1, 2) for p in (s.k, s.v))
        if way == "repeat":
            k, v = (t.repeat_interleave(2, 1) for t in (k, v))
        elif way == "expand":
            k, v = (t[:, :, None].expand(b, 2, 2, m, e).reshape(b, h, m, e) for t in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, enable_gqa=way == "enable")
        return x + s.o(y.transpose(1, 2).flatten(-2))

    return d.step(
        run,
        same,
        q=nn.Linear(d.width, h * e),
        k=nn.Linear(d.width, 2 * e),
        v=nn.Linear(d.width, 2 * e),
        o=nn.Linear(h * e, d.width),
    )


@kind("tokens")
def attention_module(d: Draw) -> Step:
    heads = 2
    d.need(d.width % heads == 0)
    first, weights = d.chance(0.3), d.chance()

    def run(s: Step, x: Tensor) -> Tensor:
        t = x.transpose(0, 1) if first else x
        y = s.layer(t, t, t, need_weights=weights)[0]
        return x + (y.transpose(0, 1) if first else y)

    return d.step(run, same, layer=nn.MultiheadAttention(d.width, heads, batch_first=not first))


@kind("tokens")
def transformer_layer(d: Draw) -> Step:
    """PyTorch's own layer; its norm counts the kept channels."""
    d.need(d.width % 2 == 0)
    layer = nn.TransformerEncoderLayer(d.width, 2, 8, dropout=0.1, batch_first=True, norm_first=d.chance())

    def meaning(s: Step, x: Tensor, keep: Tensor, kept: Kept) -> tuple[Tensor, Tensor]:
        def normed(norm: nn.LayerNorm, t: Tensor) -> Tensor:
            y = F.layer_norm(t[..., keep], (int(keep.sum()),), norm.weight[keep], norm.bias[keep], norm.eps)
            return torch.zeros_like(t).index_copy(2, keep.nonzero().ravel(), y)

        def attend(t: Tensor) -> Tensor:
            return s.layer.self_attn(t, t, t)[0]

        def feed(t: Tensor) -> Tensor:
            return s.layer.linear2(F.relu(s.layer.linear1(t)))

        if s.layer.norm_first:
            x = x + attend(normed(s.layer.norm1, x))
            return x + feed(normed(s.layer.norm2, x)), keep
        x = normed(s.layer.norm1, x + attend(x))
        return normed(s.layer.norm2, x + feed(x)), keep

    return d.step(lambda s, x: s.layer(x), meaning, layer=layer)


@kind("tokens")
def attention_linear(d: Draw) -> Step:
    """Kernel features elu + 1 in place of the softmax; feature dimensions that go must not count their 1."""
    h, e = d.pick((2, 4), (1, 6))

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        context = torch.einsum("bnhd,bnhe->bhde", k, v)
        z = 1 / (torch.einsum("bnhd,bhd->bnh", q, k.sum(1)) + 1e-6)
        return torch.einsum("bnhd,bhde,bnh->bnhe", q, context, z)

    def run(s: Step, x: Tensor) -> Tensor:
        q, k, v = (p(x).unflatten(-1, (h, e)) for p in (s.q, s.k, s.v))
        return x + s.o(attend(F.elu(q) + 1, F.elu(k) + 1, v).flatten(2))

    def meaning(s: Step, x: Tensor, keep: Tensor, kept: Kept) -> tuple[Tensor, Tensor]:
        q, k, v = (p(x).unflatten(-1, (h, e)) for p in (s.q, s.k, s.v))
        left = kept(s.q.weight).view(h, e)
        q, k = ((F.elu(t) + 1) * left for t in (q, k))
        return x + s.o(attend(q, k, v).nan_to_num().flatten(2)), keep

    return d.step(run, meaning, **_projections(d, h * e))


@kind("tokens")
def attention_normed_queries(d: Draw) -> Step:
    """Queries and keys of unit length, or layer-normed, within every head."""
    h, e = d.pick((2, 4), (2, 3))
    way = d.pick("unit", "layer", "rms")

    def heads(s: Step, x: Tensor, p: nn.Module) -> Tensor:
        return p(x).view(x.shape[0], x.shape[1], h, e).transpose(1, 2)

    def normed(t: Tensor, norm: nn.Module, left: Tensor) -> Tensor:
        small = t[..., left]
        if way == "unit":
            small = F.normalize(small, dim=-1)
        elif way == "layer":
            small = F.layer_norm(small, (small.shape[-1],), norm.weight[left], norm.bias[left])
        else:
            small = F.rms_norm(small, (small.shape[-1],), norm.weight[left], 1e-6)
        return torch.zeros_like(t).index_copy(t.ndim - 1, left.nonzero().ravel(), small)

    def attend(s: Step, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        y = ((q @ k.transpose(-1, -2)) * s.scale.exp()).softmax(-1) @ v
        return s.o(y.transpose(1, 2).flatten(2))

    def run(s: Step, x: Tensor) -> Tensor:
        q, k, v = (heads(s, x, p) for p in (s.q, s.k, s.v))
        if way == "unit":
            q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        else:
            q, k = s.nq(q), s.nk(k)
        return x + attend(s, q, k, v)

    def meaning(s: Step, x: Tensor, keep: Tensor, kept: Kept) -> tuple[Tensor, Tensor]:
        q, k, v = (heads(s, x, p) for p in (s.q, s.k, s.v))
        left = kept(s.q.weight).view(h, e).any(0)
        return x + attend(s, normed(q, s.nq, left), normed(k, s.nk, left), v), keep

    norms: dict[str, nn.Module] = {
        name: nn.RMSNorm(e, eps=1e-6) if way == "rms" else nn.LayerNorm(e) for name in ("nq", "nk")
    }
    return d.step(run, meaning, **_projections(d, h * e), **norms, scale=weight())


@kind("tokens")
def attention_over_channels(d: Draw) -> Step:
    """XCA: products over the tokens, a softmax over channels of a head."""
    h, e = 2, d.pick(2, 3)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)).softmax(-1) @ v

    def run(s: Step, x: Tensor) -> Tensor:
        b, m, _ = x.shape
        q, k, v = (p(x).transpose(1, 2).reshape(b, h, e, m) for p in (s.q, s.k, s.v))
        return x + s.o(attend(q, k, v).reshape(b, h * e, m).transpose(1, 2))

    def meaning(s: Step, x: Tensor, keep: Tensor, kept: Kept) -> tuple[Tensor, Tensor]:
        b, m, _ = x.shape
        q, k, v = (p(x).transpose(1, 2).reshape(b, h, e, m) for p in (s.q, s.k, s.v))
        out = torch.zeros_like(v)
        for head in range(h):
            rows, columns = (kept(p.weight).view(h, e)[head].nonzero().ravel() for p in (s.q, s.k))
            if len(rows) and len(columns):
                out[:, head, rows] = attend(q[:, head, rows], k[:, head, columns], v[:, head, columns])
        return x + s.o(out.reshape(b, h * e, m).transpose(1, 2)), keep

    return d.step(run, meaning, **_projections(d, h * e))


@kind("image", "signal")
def attention_on_maps(d: Draw) -> Step:
    """Non-local block: convolutions of width 1 make query, key and value."""
    e = d.pick(4, 6)

    def run(s: Step, x: Tensor) -> Tensor:
        q, k, v = (p(x).flatten(2) for p in (s.q, s.k, s.v))
        w = torch.softmax(torch.bmm(q.permute(0, 2, 1), k) / e**0.5, dim=-1)
        y = torch.bmm(v, w.permute(0, 2, 1)).view(x.shape[0], -1, *x.shape[2:])
        return x + s.gamma * s.o(y)

    return d.step(
        run,
        same,
        q=d.conv(d.width, e, 1),
        k=d.conv(d.width, e, 1),
        v=d.conv(d.width, 5, 1),
        o=d.conv(5, d.width, 1),
        gamma=weight(1),
    )


@kind("tokens")
def rotary(d: Draw) -> Step:
    """Rotary positions from a table of sines and cosines that is longer than the sequence."""
    h, e, n = 2, 4, d.shape[1]
    way = d.pick("halves", "pairs")

    def turn(s: Step, t: Tensor) -> Tensor:
        m = t.shape[-2]
        cos, sin = s.cos[:m], s.sin[:m]
        if way == "halves":
            a, b = t.chunk(2, -1)
            return t * cos + torch.cat([-b, a], -1) * sin
        a, b = t[..., ::2], t[..., 1::2]
        return t * cos + torch.stack([-b, a], -1).flatten(-2) * sin

    def run(s: Step, x: Tensor) -> Tensor:
        q, k, v = (p(x).view(x.shape[0], -1, h, e).transpose(1, 2) for p in (s.q, s.k, s.v))
        y = F.scaled_dot_product_attention(turn(s, q), turn(s, k), v)
        return x + s.o(y.transpose(1, 2).flatten(2))

    angles = torch.outer(torch.arange(n + 4.0), torch.tensor([1.0, 0.1]))
    angles = torch.cat([angles, angles], -1) if way == "halves" else angles.repeat_interleave(2, -1)
    return d.step(run, same, **_projections(d, h * e), cos=angles.cos(), sin=angles.sin())


@kind("tokens")
def query_pooling(d: Draw) -> Step:
    """Learned queries gather the tokens; their mean is handed on, so that queries may go."""
    n, e = d.pick(3, 4), d.pick(4, 6)
    fused = d.chance(0.3)

    def attend(s: Step, x: Tensor, queries: Tensor) -> Tensor:
        k, v = s.k(x), s.v(x)
        if fused:
            return F.scaled_dot_product_attention(queries.expand(x.shape[0], -1, -1), k, v, scale=e**-0.5).mean(1)
        return ((queries @ k.transpose(1, 2) * e**-0.5).softmax(-1) @ v).mean(-2)

    def meaning(s: Step, x: Tensor, keep: Tensor, kept: Kept) -> tuple[Tensor, Tensor]:
        left = kept(s.queries, 1)
        return s.o(attend(s, x, s.queries[:, left])), kept(s.o.weight)

    return d.step(
        lambda s, x: s.o(attend(s, x, s.queries)),
        meaning,
        "features",
        queries=weight(1, n, e),
        k=nn.Linear(d.width, e),
        v=nn.Linear(d.width, 5),
        o=nn.Linear(5, d.out()),
    )


@kind("tokens")
def attention_pooling(d: Draw) -> Step:
    """One score per token and head."""
    return d.step(
        lambda s, x: s.o((s.score(x).softmax(1).transpose(1, 2) @ s.v(x)).flatten(1)),
        made_by("o.weight"),
        "features",
        score=nn.Linear(d.width, 2),
        v=nn.Linear(d.width, 5),
        o=nn.Linear(10, d.out()),
    )


@kind("image")
def channel_gate(d: Draw) -> Step:
    """Squeeze and excite, by linear layers or convolutions of width 1."""
    convs, gate = d.chance(), d.pick(torch.sigmoid, F.hardsigmoid, F.softplus)
    wide = d.pick(3, 4)

    def run(s: Step, x: Tensor) -> Tensor:
        if convs:
            return x * gate(s.b(F.relu(s.a(F.adaptive_avg_pool2d(x, 1)))))
        n, c = x.shape[:2]
        g = gate(s.b(F.relu(s.a(x.mean((2, 3)))))).view(n, c, 1, 1)
        return x * g.expand_as(x)

    make = (lambda i, o: nn.Conv2d(i, o, 1)) if convs else nn.Linear
    return d.step(run, same, a=make(d.width, wide), b=make(wide, d.width))
