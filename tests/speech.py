"""Speech networks as the literature has them, small: a vocoder, an audio codec's encoder, WaveNet, Conformer."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Norm = Callable[[nn.Module], nn.Module]


class Residual(nn.Module):
    """Dilated convolutions with a skip, each behind a leaky ReLU (HiFi-GAN's ResBlock1)."""

    def __init__(self, width: int, norm: Norm, kernel: int = 3) -> None:
        super().__init__()
        self.one = nn.ModuleList(norm(nn.Conv1d(width, width, kernel, dilation=d, padding=d)) for d in (1, 3))
        self.two = nn.ModuleList(norm(nn.Conv1d(width, width, kernel, padding=1)) for _ in (1, 3))

    def forward(self, x: Tensor) -> Tensor:
        for one, two in zip(self.one, self.two, strict=True):
            x = x + two(F.leaky_relu(one(F.leaky_relu(x, 0.1)), 0.1))
        return x


class Vocoder(nn.Module):
    """Mel frames (N, 20, T) → waveform (N, 1, 4·T): the generator of HiFi-GAN (Kong et al. 2020, arXiv:2010.05646)."""

    def __init__(self, norm: Norm) -> None:
        super().__init__()
        self.conv_pre = norm(nn.Conv1d(20, 32, 7, padding=3))
        self.ups = nn.ModuleList(
            norm(nn.ConvTranspose1d(32 // 2**i, 16 // 2**i, 4, stride=2, padding=1)) for i in range(2)
        )
        self.resblocks = nn.ModuleList(Residual(16 // 2**i, norm) for i in range(2) for _ in range(2))
        self.conv_post = norm(nn.Conv1d(8, 1, 7, padding=3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_pre(x)
        for i, up in enumerate(self.ups):
            x = up(F.leaky_relu(x, 0.1))
            x = (self.resblocks[2 * i](x) + self.resblocks[2 * i + 1](x)) / 2
        return torch.tanh(self.conv_post(F.leaky_relu(x)))


class Snake(nn.Module):
    """x + sin²(αx)/α with one α per channel (Ziyin et al. 2020, arXiv:2006.08195)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + (self.alpha + 1e-9).reciprocal() * torch.sin(self.alpha * x).pow(2)


class Unit(nn.Module):
    """A residual unit of an audio codec: a dilated convolution, one of size 1, and a skip."""

    def __init__(self, width: int, norm: Norm) -> None:
        super().__init__()
        self.block = nn.Sequential(Snake(width), norm(nn.Conv1d(width, width // 2, 3, padding=1)), nn.ELU(),
                                   norm(nn.Conv1d(width // 2, width, 1)))  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x)


class Codec(nn.Module):
    """Waveform (N, 1, T) → codes (N, 8, T/4): the encoder of EnCodec (Défossez et al. 2022, arXiv:2210.13438)."""

    def __init__(self, norm: Norm) -> None:
        super().__init__()
        self.first = norm(nn.Conv1d(1, 8, 7, padding=3))
        self.blocks = nn.Sequential(*(
            nn.Sequential(Unit(8 * 2**i, norm), nn.ELU(), norm(nn.Conv1d(8 * 2**i, 16 * 2**i, 4, 2, padding=1)))
            for i in range(2)
        ))  # fmt: skip
        self.lstm = nn.LSTM(32, 32, num_layers=2)
        self.last = norm(nn.Conv1d(32, 8, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.first(x))
        y, _ = self.lstm(x.permute(2, 0, 1))
        return self.last(F.elu(y.permute(1, 2, 0) + x))


class WaveNet(nn.Module):
    """Gated dilated convolutions with skips (van den Oord et al. 2016, arXiv:1609.03499; WaveGlow fuses the gate)."""

    def __init__(self, norm: Norm, width: int = 16) -> None:
        super().__init__()
        self.width = width
        self.start = norm(nn.Conv1d(4, width, 1))
        self.gates = nn.ModuleList(norm(nn.Conv1d(width, 2 * width, 3, dilation=2**i, padding=2**i)) for i in range(3))
        self.skips = nn.ModuleList(norm(nn.Conv1d(width, 2 * width, 1)) for _ in range(3))
        self.end = nn.Conv1d(width, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.start(x)
        total = torch.zeros_like(x)
        for gate, skip in zip(self.gates, self.skips, strict=True):
            a, b = gate(x).chunk(2, 1)
            y = skip(torch.tanh(a) * torch.sigmoid(b))
            x = x + y[:, : self.width]
            total = total + y[:, self.width :]
        return self.end(F.relu(total))


class Conformer(nn.Module):
    """Half a feed-forward layer, attention, a gated depthwise convolution, half a feed-forward layer
    (Gulati et al. 2020, arXiv:2005.08100)."""

    def __init__(self, norm: Norm, width: int = 24, heads: int = 3) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.inside = nn.Linear(10, width)
        self.ff1, self.ff2 = (self._feed_forward(width) for _ in range(2))
        self.norm, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.before = nn.LayerNorm(width)
        self.conv = nn.Sequential(norm(nn.Conv1d(width, 2 * width, 1)), nn.GLU(1),
                                  norm(nn.Conv1d(width, width, 5, padding=2, groups=width)), nn.BatchNorm1d(width),
                                  nn.SiLU(), norm(nn.Conv1d(width, width, 1)))  # fmt: skip
        self.after, self.head = nn.LayerNorm(width), nn.Linear(width, 6)

    @staticmethod
    def _feed_forward(width: int) -> nn.Module:
        return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))

    def _attend(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = (p.view(n, t, self.heads, self.size).transpose(1, 2) for p in self.qkv(x).chunk(3, -1))
        weights = (q @ k.transpose(-2, -1) / math.sqrt(self.size)).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).reshape(n, t, self.heads * self.size))  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        x = self.inside(x)
        x = x + 0.5 * self.ff1(x)
        x = x + self._attend(self.norm(x))
        x = x + self.conv(self.before(x).transpose(1, 2)).transpose(1, 2)
        return self.head(self.after(x + 0.5 * self.ff2(x)))  # type: ignore[no-any-return]
