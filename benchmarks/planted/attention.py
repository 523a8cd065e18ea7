"""Networks with attention, in spellings of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from planted.networks import Parts, add, image, sequence


class Block(nn.Module):
    """Attention in a spelling of its own and an MLP, each with a shortcut and a LayerScale."""

    def __init__(self, attention: nn.Module, width: int) -> None:
        super().__init__()
        self.norm1, self.attention, self.norm2 = nn.LayerNorm(width), attention, nn.LayerNorm(width)
        self.gamma1, self.gamma2 = nn.Parameter(torch.ones(width)), nn.Parameter(torch.ones(width))
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.gamma1 * self.attention(self.norm1(x))
        return x + self.gamma2 * self.mlp(self.norm2(x))


class Einsum(nn.Module):
    """One projection for all three; head sizes, not head counts, in the views."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.head_size = width // heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (-1, self.head_size)) for t in self.qkv(x).chunk(3, -1))
        weights = torch.softmax(torch.einsum("blhd,bshd->bhls", q, k) * self.head_size**-0.5, -1)
        return self.out(torch.einsum("bhls,bshd->blhd", weights, v).flatten(2))


class GroupedQueries(nn.Module):
    """Fewer keys than queries, a causal mask of −inf."""

    def __init__(self, width: int, heads: int, keys: int) -> None:
        super().__init__()
        self.size, self.repeat = width // heads, heads // keys
        self.q, self.k = nn.Linear(width, width), nn.Linear(width, keys * self.size)
        self.v, self.o = nn.Linear(width, keys * self.size), nn.Linear(width, width)
        self.register_buffer("mask", torch.full((6, 6), float("-inf")).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (p(x).view(x.shape[0], x.shape[1], -1, self.size).transpose(1, 2) for p in (self.q, self.k, self.v))
        k, v = k.repeat_interleave(self.repeat, 1), v.repeat_interleave(self.repeat, 1)
        weights = (q @ k.transpose(-2, -1) / self.size**0.5 + self.mask).softmax(-1)
        return self.o((weights @ v).transpose(1, 2).flatten(2))


class Windows(nn.Module):
    """Windows of two by two, shifted, with a table of relative positions."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.position_table = nn.Parameter(torch.randn(9, heads))
        places = torch.cartesian_prod(torch.arange(2), torch.arange(2))
        offsets = places[:, None] - places[None] + 1
        self.register_buffer("position_index", offsets[..., 0] * 3 + offsets[..., 1])

    def forward(self, x: Tensor) -> Tensor:
        n, h, w, c = x.shape
        x = torch.roll(x, (-1, -1), (1, 2))
        x = x.reshape(n, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)
        q, k, v = self.qkv(x).reshape(x.shape[0], 4, 3, self.heads, self.size).permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.position_table[self.position_index.view(-1)].view(4, 4, -1).permute(2, 0, 1)
        y = ((q * self.size**-0.5) @ k.transpose(-2, -1) + bias).softmax(-1) @ v
        y = self.out(y.transpose(1, 2).reshape(x.shape[0], 4, -1))
        y = y.reshape(n, h // 2, w // 2, 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, c)
        return torch.roll(y, (1, 1), (1, 2))


def tokens(attention: Callable[[], nn.Module], width: int = 24) -> nn.Module:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.positions = nn.Linear(6, width), nn.Parameter(torch.randn(1, 6, width))
            self.blocks = nn.Sequential(*(Block(attention(), width) for _ in range(2)))
            self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.norm(self.blocks(self.embed(x) + self.positions)))

    return Tokens()


OWN: dict[str, Any] = {"head": "head.weight", "scale": "*gamma*", "last": ("*.out.*", "*.o.*", "*mlp.2.*")}


@add("attention by einsum", sequence(6, 6), **OWN)
def by_einsum() -> nn.Module:
    return tokens(lambda: Einsum(24, 4))


@add("grouped queries, −inf mask", sequence(6, 6), **OWN)
def grouped_queries() -> nn.Module:
    return tokens(lambda: GroupedQueries(24, 4, 2))


@add("windows with a position table", image(3, 8), **OWN)
def windows() -> nn.Module:
    return Parts(
        lambda m, x: m.head(m.norm(m.blocks(m.embed(x).permute(0, 2, 3, 1))).mean((1, 2))),
        embed=nn.Conv2d(3, 12, 2, 2), blocks=nn.Sequential(*(Block(Windows(12, 3), 12) for _ in range(2))),
        norm=nn.LayerNorm(12), head=nn.Linear(12, 4),
    )  # fmt: skip


@add("torch MultiheadAttention", sequence(6, 6), last=("*out_proj.*", "*mlp.2.*"), head="head.weight", scale="*gamma*")
def multihead() -> nn.Module:
    class Packed(nn.MultiheadAttention):
        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(x, x, x, need_weights=False)[0]

    return tokens(lambda: Packed(24, 4, batch_first=True))
