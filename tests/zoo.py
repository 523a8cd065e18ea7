"""Small networks, each with a construction that pruning tools trip over, and an input for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ZOO: dict[str, Callable[[], tuple[nn.Module, Any]]] = {}


def entry(make: Callable[[], tuple[nn.Module, Any]]) -> Callable[[], tuple[nn.Module, Any]]:
    ZOO[make.__name__] = make
    return make


class Lambda(nn.Module):
    """Parts and a function of (parts, input): a network in a few lines."""

    def __init__(self, function: Callable[..., Any], **parts: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self, *inputs)


def image(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(7))


def settle(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights and batch-norm statistics, so that nothing is accidentally one or zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if not tensor.is_floating_point():
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("running_var"):
                tensor.copy_(noise.abs() + 0.5)
            elif tensor.ndim < 2:
                tensor.add_(noise * 0.2)
    return model.eval()


def conv(i: int, o: int, k: int = 3, **options: Any) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(i, o, k, padding=k // 2, **options), nn.BatchNorm2d(o), nn.ReLU())


def pooled(x: Tensor) -> Tensor:
    return torch.flatten(F.adaptive_avg_pool2d(x, 1), 1)


@entry
def plain() -> tuple[nn.Module, Any]:
    return nn.Sequential(conv(3, 16), nn.MaxPool2d(2), conv(16, 24), nn.Flatten(), nn.Linear(24 * 16, 10)), image(
        2, 3, 8, 8
    )


@entry
def batch_of_one() -> tuple[nn.Module, Any]:
    return nn.Sequential(conv(3, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)), image(1, 3, 8, 8)


@entry
def residual() -> tuple[nn.Module, Any]:
    return Lambda(
        lambda m, x: m.fc(pooled(F.relu(m.b(m.a(m.stem(x))) + m.stem(x)))),
        stem=conv(3, 12), a=conv(12, 20), b=nn.Conv2d(20, 12, 3, padding=1), fc=nn.Linear(12, 5),
    ), image(2, 3, 8, 8)  # fmt: skip


@entry
def zero_padded_shortcut() -> tuple[nn.Module, Any]:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        return m.fc(pooled(F.relu(m.b(m.a(x)) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4)))))

    return Lambda(
        run, stem=conv(3, 8), a=conv(8, 16, stride=2), b=nn.Conv2d(16, 16, 3, padding=1), fc=nn.Linear(16, 5)
    ), image(2, 3, 8, 8)


@entry
def dense_concatenation() -> tuple[nn.Module, Any]:
    def run(m: Any, x: Tensor) -> Tensor:
        a = m.a(x)
        b = m.b(a)
        return m.fc(pooled(m.c(torch.cat([a, b, x], 1))))

    return Lambda(run, a=conv(3, 8), b=conv(8, 6), c=conv(17, 12), fc=nn.Linear(12, 4)), image(2, 3, 8, 8)


@entry
def channel_shuffle() -> tuple[nn.Module, Any]:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.a(x)
        n, c, h, w = x.shape
        x = x.view(n, 4, c // 4, h, w).transpose(1, 2).reshape(n, c, h, w)
        return m.fc(pooled(m.b(x)))

    return Lambda(run, a=conv(3, 24), b=conv(24, 12, groups=2), fc=nn.Linear(12, 4)), image(2, 3, 8, 8)


@entry
def split_shuffle() -> tuple[nn.Module, Any]:
    def unit(x: Tensor, branch: nn.Module) -> Tensor:
        a, b = x.chunk(2, 1)
        x = torch.cat([a, branch(b)], 1)
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)

    return Lambda(
        lambda m, x: m.fc(pooled(unit(unit(m.stem(x), m.a), m.b))),
        stem=conv(3, 16), a=conv(8, 8), b=conv(8, 8), fc=nn.Linear(16, 4),
    ), image(2, 3, 8, 8)  # fmt: skip


@entry
def nhwc_into_linear() -> tuple[nn.Module, Any]:
    return Lambda(
        lambda m, x: m.fc(m.a(x).permute(0, 2, 3, 1).reshape(x.shape[0], -1)),
        a=conv(3, 8),
        fc=nn.Linear(8 * 16, 4),
    ), image(2, 3, 4, 4)


@entry
def tied_weights() -> tuple[nn.Module, Any]:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 12), nn.Linear(12, 12), nn.Linear(12, 12)
            self.c.weight = self.b.weight
            self.fc = nn.Linear(12, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(torch.relu(self.c(torch.relu(self.b(torch.relu(self.a(x)))))))

    return Tied(), image(2, 6)


@entry
def chunk_and_cat() -> tuple[nn.Module, Any]:
    def run(m: Any, x: Tensor) -> Tensor:
        a, b = m.a(x).chunk(2, 1)
        return m.fc(pooled(m.b(torch.cat([b, a], 1))))

    return Lambda(run, a=conv(3, 12), b=conv(12, 8), fc=nn.Linear(8, 4)), image(2, 3, 8, 8)


@entry
def pixel_shuffle() -> tuple[nn.Module, Any]:
    return Lambda(
        lambda m, x: m.b(F.pixel_unshuffle(F.pixel_shuffle(m.a(x), 2), 2)),
        a=conv(3, 24),
        b=nn.Conv2d(24, 3, 1),
    ), image(2, 3, 8, 8)


@entry
def depthwise_multiplier() -> tuple[nn.Module, Any]:
    return nn.Sequential(
        conv(3, 8), nn.Conv2d(8, 16, 3, groups=8, padding=1), nn.ReLU(), nn.Conv2d(16, 4, 1), nn.Flatten(1)
    ), image(2, 3, 6, 6)


@entry
def recurrent_head() -> tuple[nn.Module, Any]:
    return Lambda(
        lambda m, x: m.fc(m.rnn(m.a(x).mean(2).transpose(1, 2))[0][:, -1]),
        a=conv(3, 8), rnn=nn.LSTM(8, 6, batch_first=True), fc=nn.Linear(6, 3),
    ), image(2, 3, 8, 8)  # fmt: skip


@entry
def uneven_split() -> tuple[nn.Module, Any]:
    def run(m: Any, x: Tensor) -> Tensor:
        a, b, c = torch.split(m.a(x), [3, 5, 8], 1)
        return m.fc(pooled(torch.cat([m.b(a), m.c(b), c], 1)))

    return Lambda(run, a=conv(3, 16), b=conv(3, 6), c=conv(5, 7), fc=nn.Linear(21, 4)), image(2, 3, 8, 8)


@entry
def buffer_scale() -> tuple[nn.Module, Any]:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)
            self.register_buffer("scale", torch.rand(8, 1, 1) + 0.5)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.relu(self.a(x)) * self.scale)

    return Scaled(), image(2, 3, 8, 8)


@entry
def channel_repeat() -> tuple[nn.Module, Any]:
    return Lambda(
        lambda m, x: m.fc(pooled(m.b(m.a(x).repeat(1, 2, 1, 1)))),
        a=conv(3, 6),
        b=conv(12, 8),
        fc=nn.Linear(8, 4),
    ), image(2, 3, 8, 8)


@entry
def gated_linear_unit() -> tuple[nn.Module, Any]:
    return Lambda(lambda m, x: m.b(F.glu(m.a(x), 1)), a=conv(3, 16), b=nn.Conv2d(8, 4, 1)), image(2, 3, 8, 8)


@entry
def frozen_layers() -> tuple[nn.Module, Any]:
    model = nn.Sequential(conv(3, 8), conv(8, 8), nn.Flatten(), nn.Linear(8 * 16, 4))
    model[0].requires_grad_(False)
    return model, image(2, 3, 4, 4)


@entry
def functional_convolution() -> tuple[nn.Module, Any]:
    class Raw(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernel = nn.Parameter(torch.randn(10, 3, 3, 3))
            self.b = nn.Conv2d(10, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.relu(F.conv2d(x, self.kernel)))

    return Raw(), image(2, 3, 8, 8)


@entry
def position_table() -> tuple[nn.Module, Any]:
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3)
            self.table = nn.Parameter(torch.randn(1, 8, 8, 8))

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x) + self.table)

    return Table(), image(2, 3, 8, 8)


@entry
def squeeze_excitation() -> tuple[nn.Module, Any]:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.a(x)
        gate = torch.sigmoid(m.up(F.silu(m.down(x.mean((2, 3), keepdim=True)))))
        return m.fc(pooled(x * gate))

    return Lambda(run, a=conv(3, 16), down=nn.Conv2d(16, 4, 1), up=nn.Conv2d(4, 16, 1), fc=nn.Linear(16, 4)), image(
        2, 3, 8, 8
    )


@entry
def spatial_attention() -> tuple[nn.Module, Any]:
    """Mean and maximum over channels: they count the kept channels alone."""

    def run(m: Any, x: Tensor) -> Tensor:
        x = m.a(x)
        summary = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return m.fc(pooled(x * torch.sigmoid(m.gate(summary))))

    return Lambda(run, a=conv(3, 12), gate=nn.Conv2d(2, 1, 3, padding=1), fc=nn.Linear(12, 4)), image(2, 3, 8, 8)


@entry
def group_norm() -> tuple[nn.Module, Any]:
    return nn.Sequential(
        nn.Conv2d(3, 24, 3), nn.GroupNorm(4, 24), nn.SiLU(), nn.Conv2d(24, 16, 3), nn.GroupNorm(16, 16), nn.SiLU(),
        nn.Conv2d(16, 12, 1), nn.GroupNorm(1, 12), nn.Flatten(), nn.Linear(12 * 16, 4),
    ), image(2, 3, 8, 8)  # fmt: skip


@entry
def layer_norm_channels_last() -> tuple[nn.Module, Any]:
    return Lambda(
        lambda m, x: m.fc(m.mlp(m.norm(m.a(x).permute(0, 2, 3, 1))).mean((1, 2))),
        a=nn.Conv2d(3, 12, 2, 2), norm=nn.LayerNorm(12),
        mlp=nn.Sequential(nn.Linear(12, 24), nn.GELU(), nn.Linear(24, 12)), fc=nn.Linear(12, 4),
    ), image(2, 3, 8, 8)  # fmt: skip


@entry
def one_dimensional() -> tuple[nn.Module, Any]:
    return nn.Sequential(
        nn.Conv1d(2, 8, 5), nn.BatchNorm1d(8), nn.PReLU(8), nn.MaxPool1d(2), nn.ConvTranspose1d(8, 6, 3),
        nn.InstanceNorm1d(6, affine=True), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(6, 3),
    ), image(2, 2, 32)  # fmt: skip


@entry
def three_dimensional() -> tuple[nn.Module, Any]:
    return nn.Sequential(
        nn.Conv3d(1, 6, 3, padding=1), nn.BatchNorm3d(6), nn.ELU(), nn.AvgPool3d(2), nn.ConvTranspose3d(6, 4, 2, 2),
        nn.Upsample(scale_factor=2), nn.Conv3d(4, 2, 1),
    ), image(2, 1, 4, 4, 4)  # fmt: skip


@entry
def grouped_convolutions() -> tuple[nn.Module, Any]:
    return nn.Sequential(
        conv(3, 24, 1), conv(24, 36, groups=3), conv(36, 36, groups=36), nn.Conv2d(36, 8, 1), nn.Flatten(1)
    ), image(2, 3, 4, 4)


@entry
def grouped_transposed() -> tuple[nn.Module, Any]:
    return nn.Sequential(
        conv(3, 16), nn.ConvTranspose2d(16, 24, 2, 2, groups=4), nn.ReLU(), nn.ConvTranspose2d(24, 24, 2, 2, groups=24),
        nn.Conv2d(24, 3, 1),
    ), image(2, 3, 4, 4)  # fmt: skip


@entry
def autoencoder() -> tuple[nn.Module, Any]:
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, 2, 1), nn.BatchNorm2d(12), nn.LeakyReLU(), nn.Conv2d(12, 20, 3, 2, 1), nn.Hardswish(),
        nn.ConvTranspose2d(20, 12, 4, 2, 1), nn.BatchNorm2d(12), nn.ReLU(inplace=True),
        nn.ConvTranspose2d(12, 3, 4, 2, 1), nn.Sigmoid(),
    ), image(2, 3, 16, 16)  # fmt: skip


@entry
def unet() -> tuple[nn.Module, Any]:
    def run(m: Any, x: Tensor) -> Tensor:
        a = m.d1(x)
        b = m.d2(F.max_pool2d(a, 2))
        c = m.d3(F.max_pool2d(b, 2))
        b = m.u2(torch.cat([F.interpolate(c, scale_factor=2, mode="bilinear"), b], 1))
        a = m.u1(torch.cat([m.up(b), a], 1))
        return m.out(a)

    return Lambda(
        run, d1=conv(3, 8), d2=conv(8, 16), d3=conv(16, 24), u2=conv(40, 16), up=nn.ConvTranspose2d(16, 8, 2, 2),
        u1=conv(16, 8), out=nn.Conv2d(8, 2, 1),
    ), image(2, 3, 16, 16)  # fmt: skip


@entry
def stack_select_unbind() -> tuple[nn.Module, Any]:
    def run(m: Any, x: Tensor) -> Tensor:
        pair = torch.stack([m.a(x), m.b(x)], 1)
        first, second = pair.unbind(1)
        return m.fc(pooled(torch.cat([first + pair[:, 1], second.flip(1)], 1)))

    return Lambda(run, a=conv(3, 8), b=conv(3, 8), fc=nn.Linear(16, 4)), image(2, 3, 8, 8)


@entry
def slices() -> tuple[nn.Module, Any]:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.a(x)
        return m.fc(pooled(torch.cat([x[:, 2:7], x[:, ::3], x.narrow(1, 4, 8), x[:, 5:6] * x[:, :4]], 1)))

    return Lambda(run, a=conv(3, 16), fc=nn.Linear(5 + 6 + 8 + 4, 4)), image(2, 3, 8, 8)


@entry
def softmax_over_channels() -> tuple[nn.Module, Any]:
    return nn.Sequential(conv(3, 12), nn.Softmax(1), nn.Conv2d(12, 3, 1)), image(2, 3, 6, 6)


@entry
def in_place() -> tuple[nn.Module, Any]:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.a(x)
        x += 1
        x.sigmoid_()
        y = m.b(x)
        y.mul_(x).add_(0.5)
        return m.fc(pooled(y) + pooled(x))

    return Lambda(run, a=conv(3, 8), b=conv(8, 8), fc=nn.Linear(8, 4)), image(2, 3, 8, 8)


@entry
def unflatten_and_expand() -> tuple[nn.Module, Any]:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.a(x).flatten(1).unflatten(1, (8, 16)).mean(2)
        return m.fc((x[:, :, None].expand(-1, -1, 5) + m.bias.weight).sum(2))

    return Lambda(run, a=conv(3, 8), bias=nn.Embedding(8, 5), fc=nn.Linear(8, 4)), image(2, 3, 4, 4)


@entry
def several_inputs_and_outputs() -> tuple[nn.Module, Any]:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c, self.d = conv(3, 10), conv(1, 10), nn.Conv2d(10, 4, 1), conv(10, 6)

        def forward(self, left: Tensor, right: Tensor) -> dict[str, Any]:
            a, b = self.a(left), self.b(right)
            return {"sum": self.c(a + b), "parts": (pooled(self.d(a)), self.c(b))}

    return Pair(), {
        "left": image(2, 3, 6, 6), "right": image(2, 1, 6, 6),
    }  # fmt: skip


@entry
def matrix_products() -> tuple[nn.Module, Any]:
    def run(m: Any, x: Tensor) -> Tensor:
        tokens = m.embed(x).flatten(2).transpose(1, 2)
        weights = torch.softmax(m.q(tokens) @ m.k(tokens).transpose(1, 2) / 4, -1)
        return m.fc((weights @ m.v(tokens)).mean(1))

    return Lambda(
        run, embed=nn.Conv2d(3, 12, 2, 2), q=nn.Linear(12, 16), k=nn.Linear(12, 16), v=nn.Linear(12, 20),
        fc=nn.Linear(20, 4),
    ), image(2, 3, 8, 8)  # fmt: skip


@entry
def weights_standardised_by_batch_norm() -> tuple[nn.Module, Any]:
    class Standardised(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            flat = F.batch_norm(self.weight.reshape(1, self.out_channels, -1), None, None, training=True, momentum=0.0)
            return F.conv2d(x, flat.reshape_as(self.weight), self.bias, padding=1)

    return nn.Sequential(conv(3, 8), Standardised(8, 12, 3), nn.ReLU(), nn.Conv2d(12, 4, 1)), image(2, 3, 6, 6)


@entry
def running_sums() -> tuple[nn.Module, Any]:
    return Lambda(lambda m, x: m.b(torch.cumsum(m.a(x), 1)), a=conv(3, 8), b=nn.Conv2d(8, 4, 1)), image(2, 3, 6, 6)


@entry
def weight_standardisation() -> tuple[nn.Module, Any]:
    class Standardised(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            w = self.weight
            mean = w.mean((1, 2, 3), keepdim=True)
            return F.conv2d(x, (w - mean) * 0.7, self.bias, padding=1)

    return nn.Sequential(conv(3, 8), Standardised(8, 12, 3), nn.ReLU(), nn.Conv2d(12, 4, 1)), image(2, 3, 6, 6)


class Attention(nn.Module):
    """Self-attention over (N, L, C); ``spelling`` says how it is written."""

    def __init__(self, width: int, heads: int, spelling: str) -> None:
        super().__init__()
        self.heads, self.size, self.spelling = heads, width // heads, spelling
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.bias = nn.Parameter(torch.randn(heads, 1, 1))
        self.table = nn.Parameter(torch.randn(9, heads))
        self.register_buffer("places", torch.arange(16).reshape(4, 4) % 9)
        self.norm = nn.LayerNorm(self.size)

    def forward(self, x: Tensor) -> Tensor:
        n, length, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, length, 3, self.heads, self.size).permute(2, 0, 3, 1, 4).unbind(0)
        if self.spelling == "fused":
            y = F.scaled_dot_product_attention(self.norm(q), self.norm(k), v)
        elif self.spelling == "einsum":
            weights = torch.softmax(torch.einsum("bhld,bhsd->bhls", q, k) * self.size**-0.5 + self.bias, -1)
            y = torch.einsum("bhls,bhsd->bhld", weights, v)
        elif self.spelling == "relative":
            bias = self.table[self.places.view(-1)].view(4, 4, -1).permute(2, 0, 1)
            y = ((q * self.size**-0.5) @ k.transpose(-2, -1) + bias).softmax(-1) @ v
        else:  # linear attention: the product of keys and values comes first
            y = torch.softmax(q, -1) @ (torch.softmax(k, -2).transpose(-2, -1) @ v)
        return self.out(y.transpose(1, 2).reshape(n, length, -1))


def transformer(spelling: str) -> tuple[nn.Module, Any]:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Conv2d(3, 24, 4, 4)
            self.token = nn.Parameter(torch.randn(1, 1, 24))
            self.positions = nn.Parameter(torch.randn(1, 4 if spelling == "relative" else 5, 24))
            self.norm1, self.norm2 = nn.LayerNorm(24), nn.LayerNorm(24)
            self.attention = Attention(24, 4, spelling)
            self.mlp = nn.Sequential(nn.Linear(24, 40), nn.GELU(), nn.Linear(40, 24))
            self.scale = nn.Parameter(torch.randn(24))
            self.head = nn.Linear(24, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x).flatten(2).transpose(1, 2)
            if spelling != "relative":
                x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
            x = x + self.positions
            x = x + self.scale * self.attention(self.norm1(x))
            x = x + self.mlp(self.norm2(x))
            return self.head(x[:, 0])

    return Tokens(), image(2, 3, 8, 8)


@entry
def attention_fused() -> tuple[nn.Module, Any]:
    return transformer("fused")


@entry
def attention_einsum() -> tuple[nn.Module, Any]:
    return transformer("einsum")


@entry
def attention_relative() -> tuple[nn.Module, Any]:
    return transformer("relative")


@entry
def attention_linear() -> tuple[nn.Module, Any]:
    return transformer("linear")


@entry
def attention_packed() -> tuple[nn.Module, Any]:
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(6, 24)
            self.attention = nn.MultiheadAttention(24, 4, batch_first=True)
            self.head = nn.Linear(24, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x)
            return self.head((x + self.attention(x, x, x, need_weights=False)[0]).mean(1))

    return Packed(), image(2, 5, 6)


@entry
def windows() -> tuple[nn.Module, Any]:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.a(x).permute(0, 2, 3, 1)
        n, h, w, c = x.shape
        x = x.reshape(n, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)
        x = m.attention(x).reshape(n, h // 2, w // 2, 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, c)
        return m.fc(torch.roll(x, (1, 1), (1, 2)).mean((1, 2)))

    return Lambda(run, a=conv(3, 12), attention=Attention(12, 3, "relative"), fc=nn.Linear(12, 4)), image(2, 3, 4, 4)


@entry
def einsum_with_a_parameter() -> tuple[nn.Module, Any]:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = conv(3, 8), nn.Conv2d(10, 4, 1)
            self.mix = nn.Parameter(torch.randn(10, 8))

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.relu(torch.einsum("oc,nchw->nohw", self.mix, self.a(x))))

    return Mixed(), image(2, 3, 6, 6)


@entry
def operator_without_rule() -> tuple[nn.Module, Any]:
    return Lambda(
        lambda m, x: m.fc(pooled(m.c(torch.special.zeta(m.b(m.a(x)) + 2, 1)))),
        a=conv(3, 8), b=conv(8, 8), c=conv(8, 6), fc=nn.Linear(6, 4),
    ), image(2, 3, 6, 6)  # fmt: skip


@entry
def wrapped_regions() -> tuple[nn.Module, Any]:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.a(x)
        with torch.autocast("cpu", enabled=False):
            y = m.b(x) * 2
            with torch.no_grad():
                z = torch.sigmoid(x)
        return m.fc(pooled(y + z))

    return Lambda(run, a=conv(3, 8), b=conv(8, 8), fc=nn.Linear(8, 4)), image(2, 3, 6, 6)


@entry
def unfold_and_fold() -> tuple[nn.Module, Any]:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.a(x)
        n, c, h, w = x.shape
        patches = F.unfold(x, 3, padding=1).reshape(n, c, 9, h * w)
        weight = torch.softmax(m.attention(x).flatten(2), 1).unsqueeze(1)
        x = F.fold((patches * weight).reshape(n, c * 9, h * w), (h, w), 3, padding=1)
        return m.fc(pooled(m.b(x)))

    return Lambda(
        run, a=conv(3, 8), attention=nn.Conv2d(8, 9, 1), b=conv(8, 6), fc=nn.Linear(6, 4)
    ), image(2, 3, 6, 6)  # fmt: skip


@entry
def sliding_windows() -> tuple[nn.Module, Any]:
    def run(m: Any, x: Tensor) -> Tensor:
        windows = m.a(x).unfold(2, 3, 1).unfold(3, 3, 1)
        return m.fc(pooled(m.b(windows.mean((-1, -2)))))

    return Lambda(run, a=conv(3, 8), b=conv(8, 6), fc=nn.Linear(6, 4)), image(2, 3, 6, 6)


@entry
def tiled_position_table() -> tuple[nn.Module, Any]:
    class Tiled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.fc = conv(3, 8), nn.Linear(8, 4)
            self.window = nn.Parameter(torch.randn(1, 8, 3, 3))

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(pooled(torch.relu(self.a(x) + self.window.tile(1, 1, 2, 2))))

    return Tiled(), image(2, 3, 6, 6)


@entry
def fourier_mixing() -> tuple[nn.Module, Any]:
    """Frequencies times a matrix of complex numbers, as Fourier neural operators have it."""

    class Mixing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.fc = conv(3, 8), conv(8, 6), nn.Linear(6, 4)
            self.weight = nn.Parameter(torch.randn(8, 8, 4, 3, 2) / 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            found = torch.fft.rfft2(x)[:, :, :4, :3]
            mixed = torch.einsum("nihw,iohw->nohw", found, torch.view_as_complex(self.weight))
            return self.fc(pooled(self.b(x + torch.fft.irfft2(mixed, s=x.shape[-2:]))))

    return Mixing(), image(2, 3, 6, 6)


@entry
def message_passing() -> tuple[nn.Module, Any]:
    """Places of an image as nodes: messages by index, their sums and maxima by scatter."""

    class Passing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.message, self.fc = conv(3, 8), nn.Linear(16, 8), nn.Linear(16, 4)
            self.register_buffer("edges", torch.arange(72).reshape(2, 36) * 7)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x).flatten(2).transpose(1, 2)
            start, end = self.edges % x.shape[1]
            message = self.message(torch.cat([x[:, start], x.index_select(1, end)], -1))
            total = torch.zeros_like(x).index_add(1, end, message)
            index = end.view(1, -1, 1).expand_as(message)
            most = torch.zeros_like(x).scatter_reduce(1, index, message, "amax", include_self=False)
            return self.fc(torch.cat([total, most], -1).mean(1))

    return Passing(), image(2, 3, 6, 6)


@entry
def nearest_of_a_codebook() -> tuple[nn.Module, Any]:
    """Every place becomes the nearest of some vectors, with straight-through gradients."""

    class Codebook(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.fc = conv(3, 8), conv(8, 6), nn.Linear(6, 4)
            self.codes = nn.Parameter(torch.randn(5, 8))

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x).permute(0, 2, 3, 1)
            near = F.embedding(torch.cdist(x.flatten(1, 2), self.codes).argmin(-1), self.codes).view_as(x)
            return self.fc(pooled(self.b((x + (near - x).detach()).permute(0, 3, 1, 2) * 1.0)))

    return Codebook(), image(2, 3, 6, 6)
