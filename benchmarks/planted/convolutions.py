"""Networks of convolutions, gates and a recurrent one."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from networks import UNet
from torch import Tensor, nn

from planted.networks import Parts, add, image, sequence


def conv(i: int, o: int, k: int = 3, act: type[nn.Module] = nn.ReLU, **options: Any) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(i, o, k, padding=k // 2, **options), nn.BatchNorm2d(o), act())


def pooled(x: Tensor) -> Tensor:
    return x.mean((2, 3))


@add("plain CNN", image(3, 8), head="6.weight")
def plain() -> nn.Module:
    parts = (conv(3, 12), nn.MaxPool2d(2), conv(12, 16), conv(16, 16), nn.Flatten(), nn.Identity())
    return nn.Sequential(*parts, nn.Linear(256, 6))


@add("zero-padded shortcut", image(3, 8), last=("b.1.*", "d.1.*"), head="fc.weight")
def padded_shortcut() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        x = F.relu(m.b(m.a(x)) + x)
        return m.fc(pooled(F.relu(m.d(m.c(x)) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4)))))

    b, d = (nn.Sequential(nn.Conv2d(w, w, 3, padding=1), nn.BatchNorm2d(w)) for w in (8, 16))
    return Parts(run, stem=conv(3, 8), a=conv(8, 8), b=b, c=conv(8, 16, stride=2), d=d, fc=nn.Linear(16, 5))


@add("channel shuffle", image(3, 8), head="fc.weight")
def shuffle() -> nn.Module:
    def unit(x: Tensor, branch: nn.Module) -> Tensor:
        a, b = x.chunk(2, 1)
        x = torch.cat([a, branch(b)], 1)
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)

    def branch() -> nn.Module:
        return nn.Sequential(conv(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8), conv(8, 8, 1))

    return Parts(
        lambda m, x: m.fc(pooled(unit(unit(m.stem(x), m.a), m.b))), stem=conv(3, 16), a=branch(), b=branch(),
        fc=nn.Linear(16, 4),
    )  # fmt: skip


@add("grouped and depthwise", image(3, 6), head="6.weight")
def grouped() -> nn.Module:
    parts = (conv(3, 24, 1), conv(24, 24, groups=4), conv(24, 24, groups=24), nn.Conv2d(24, 48, 3, groups=24))
    return nn.Sequential(*parts, nn.SiLU(), nn.Flatten(2), nn.Conv1d(48, 5, 1))


@add("dense concatenation", image(3, 8), head="fc.weight")
def concatenation() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        for layer in (m.a, m.b):
            x = torch.cat([x, layer(x)], 1)
        x = F.avg_pool2d(m.down(x), 2)
        return m.fc(pooled(torch.cat([x, m.c(x)], 1)))

    return Parts(run, stem=conv(3, 8), a=conv(8, 6), b=conv(14, 6), down=conv(20, 12, 1), c=conv(12, 6),
                 fc=nn.Linear(18, 5))  # fmt: skip


@add("squeeze-excite", image(3, 8), last=("project.1.*",), head="fc.weight")
def squeeze() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        y = m.depth(m.expand(x))
        gate = torch.sigmoid(m.up(F.silu(m.down(y.mean((2, 3), keepdim=True)))))
        return m.fc(pooled(x + m.project(y * gate)))

    return Parts(
        run, stem=conv(3, 8), expand=conv(8, 16, 1, nn.Hardswish), depth=conv(16, 16, 3, nn.Hardswish, groups=16),
        down=nn.Conv2d(16, 4, 1), up=nn.Conv2d(4, 16, 1),
        project=nn.Sequential(nn.Conv2d(16, 8, 1), nn.BatchNorm2d(8)), fc=nn.Linear(8, 4),
    )  # fmt: skip


@add("U-Net", image(3, 16), head="out.weight")
def unet() -> nn.Module:
    return UNet(width=4)


@add("transposed convolutions", image(3, 8))
def transposed() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, 2, 1), nn.GroupNorm(4, 12), nn.LeakyReLU(), nn.Conv2d(12, 16, 3, padding=1),
        nn.PReLU(16), nn.ConvTranspose2d(16, 12, 4, 2, 1, groups=2), nn.GroupNorm(1, 12), nn.Conv2d(12, 3, 1),
    )  # fmt: skip


@add("gates", sequence(5, 6), last=("down.weight",), head="head.weight")
def gates() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.embed(x)
        a, b = m.up(x).chunk(2, -1)
        x = x + m.down(F.silu(a) * b)
        return m.head(F.glu(m.gate(x), -1).mean(1))

    return Parts(run, embed=nn.Linear(6, 12), up=nn.Linear(12, 40), down=nn.Linear(20, 12), gate=nn.Linear(12, 24),
                 head=nn.Linear(12, 4))  # fmt: skip


@add("recurrent", image(3, 6, 8), head="fc.weight")
def recurrent() -> nn.Module:
    return Parts(
        lambda m, x: m.fc(m.rnn(m.a(x).mean(2).transpose(1, 2))[0][:, -1]),
        a=conv(3, 10), rnn=nn.LSTM(10, 6, batch_first=True), fc=nn.Linear(6, 3),
    )  # fmt: skip
