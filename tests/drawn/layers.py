"""Layers with weights: convolutions of all kinds, linear layers, parametrised and shared weights, recurrent layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils.parametrize import remove_parametrizations

from drawn.base import ALL, CONV_T, SPATIAL, Draw, Kept, Step, kind, made_by, part, same, weight, whole


def plain(s: Step, x: Tensor) -> Tensor:
    return s.layer(x)


@kind(*SPATIAL)
def conv(d: Draw) -> Step:
    stride = d.pick(1, 1, 2) if min(d.shape[2:]) > 3 else 1
    layer = d.conv(d.width, d.out(), d.pick(1, 3), stride=stride, bias=d.chance(0.7))
    return d.step(plain, made_by("layer.weight"), layer=layer)


@kind(*SPATIAL)
def conv_padding_modes(d: Draw) -> Step:
    layer = d.conv(
        d.width,
        d.out(),
        3,
        padding_mode=d.pick("circular", "reflect", "replicate") if d.domain != "volume" else "replicate",
    )
    return d.step(plain, made_by("layer.weight"), layer=layer)


@kind(*SPATIAL)
def conv_same(d: Draw) -> Step:
    return d.step(plain, made_by("layer.weight"), layer=d.conv(d.width, d.out(), d.pick(2, 3, 4), padding="same"))


@kind(*SPATIAL)
def conv_dilated(d: Draw) -> Step:
    return d.step(plain, made_by("layer.weight"), layer=d.conv(d.width, d.out(), 3, dilation=2))


@kind(*SPATIAL)
def conv_grouped(d: Draw) -> Step:
    groups = d.pick(2, 2, 4)
    d.need(d.width % groups == 0 and d.width > groups)
    return d.step(plain, made_by("layer.weight"), layer=d.conv(d.width, groups * d.pick(2, 3), 3, groups=groups))


@kind(*SPATIAL)
def conv_depthwise(d: Draw) -> Step:
    layer = d.conv(d.width, d.width * d.pick(1, 1, 2), 3, groups=d.width)
    return d.step(plain, made_by("layer.weight"), layer=layer)


@kind(*SPATIAL)
def depthwise_separable(d: Draw) -> Step:
    return d.step(
        lambda s, x: F.relu6(s.point(F.relu6(s.deep(x)))),
        made_by("point.weight"),
        deep=d.conv(d.width, d.width, 3, groups=d.width),
        point=d.conv(d.width, d.out(), 1),
    )


@kind(*SPATIAL)
def inverted_bottleneck(d: Draw) -> Step:
    wide = 2 * d.width
    return d.step(
        lambda s, x: x + s.c(F.hardswish(s.b(F.hardswish(s.a(x))))),
        same,
        a=d.conv(d.width, wide, 1),
        b=d.conv(wide, wide, 3, groups=wide),
        c=d.conv(wide, d.width, 1),
    )


@kind(*SPATIAL)
def conv_transposed(d: Draw) -> Step:
    d.need(max(d.shape[2:]) < 9)
    layer = CONV_T[d.domain](d.width, d.out(), d.pick(2, 3), stride=d.pick(1, 2), bias=True)
    return d.step(plain, made_by("layer.bias"), layer=layer)


@kind(*SPATIAL)
def conv_transposed_grouped(d: Draw) -> Step:
    groups = d.pick(2, 4, d.width)
    d.need(d.width % groups == 0)
    layer = CONV_T[d.domain](d.width, groups * d.pick(1, 2, 3), 3, padding=1, groups=groups)
    return d.step(plain, made_by("layer.bias"), layer=layer)


@kind("image")
def conv_uneven(d: Draw) -> Step:
    """Kernels that are not square: a pair, as factorised networks have."""
    a = nn.Conv2d(d.width, 6, (1, 3), padding=(0, 1))
    b = nn.Conv2d(6, d.out(), (3, 1), padding=(1, 0))
    return d.step(lambda s, x: s.b(s.a(x)), made_by("b.weight"), a=a, b=b)


@kind(*SPATIAL)
def conv_bn_relu(d: Draw) -> Step:
    out = d.out()
    norm = {"signal": nn.BatchNorm1d, "image": nn.BatchNorm2d, "volume": nn.BatchNorm3d}[d.domain](out)
    return d.step(
        lambda s, x: F.relu(s.bn(s.layer(x))),
        made_by("layer.weight"),
        layer=d.conv(d.width, out, 3, bias=False),
        bn=norm,
    )


@kind("tokens", "features")
def linear(d: Draw) -> Step:
    return d.step(plain, made_by("layer.weight"), layer=nn.Linear(d.width, d.out(), bias=d.chance(0.7)))


@kind("image")
def linear_channels_last(d: Draw) -> Step:
    return d.step(
        lambda s, x: s.layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
        made_by("layer.weight"),
        layer=nn.Linear(d.width, d.out()),
    )


@kind(*ALL)
def linear_by_matmul(d: Draw) -> Step:
    """Weights that are plain parameters: matmul, einsum, addmm."""
    w, b = weight(d.width, d.out()), None
    if d.domain == "features":
        b = weight(w.shape[1])
        return d.step(lambda s, x: torch.addmm(s.b, x, s.w), made_by("w", 1), w=w, b=b)
    if d.domain == "tokens":
        return d.step(
            d.pick(
                lambda s, x: x @ s.w,
                lambda s, x: torch.einsum("blc,cd->bld", x, s.w),
                lambda s, x: torch.bmm(x, s.w.unsqueeze(0).expand(x.shape[0], -1, -1)),
                lambda s, x: torch.tensordot(x, s.w, dims=1),
            ),
            made_by("w", 1),
            w=w,
        )
    return d.step(lambda s, x: torch.einsum("bc...,cd->bd...", x, s.w), made_by("w", 1), w=w)


@kind(*ALL)
def mlp(d: Draw) -> Step:
    act = d.pick(F.relu, F.gelu, F.silu, F.sigmoid, torch.cos)
    return d.step(
        lambda s, x: s.b(act(s.a(x))),
        made_by("b.weight"),
        a=d.layer(d.width, wide := d.out()),
        b=d.layer(wide, d.out()),
    )


@kind(*ALL)
def mlp_residual(d: Draw) -> Step:
    act = d.pick(F.relu, F.gelu, F.tanh, F.softplus)
    return d.step(
        lambda s, x: x + s.b(act(s.a(x))), same, a=d.layer(d.width, wide := 2 * d.width), b=d.layer(wide, d.width)
    )


@kind(*ALL)
def bottleneck_normed(d: Draw) -> Step:
    """A hidden layer with a norm of its own between two layers."""
    wide = d.out()
    norm: nn.Module = nn.GroupNorm(1, wide) if d.domain != "tokens" else nn.LayerNorm(wide)

    def meaning(s: Step, x: Tensor, keep: Tensor, kept: Kept) -> tuple[Tensor, Tensor]:
        left, dim = kept(s.a.weight), s.dim
        small = s.a(x).index_select(dim, left.nonzero().ravel())
        g, b = s.norm.weight[left], s.norm.bias[left]
        hidden = (
            F.layer_norm(small, (int(left.sum()),), g, b, s.norm.eps)
            if dim == 2
            else F.group_norm(small, 1, g, b, s.norm.eps)
        )
        hidden = torch.zeros_like(s.a(x)).index_copy(dim, left.nonzero().ravel(), F.gelu(hidden))
        return x + s.b(hidden), keep

    return d.step(
        lambda s, x: x + s.b(F.gelu(s.norm(s.a(x)))),
        meaning,
        a=d.layer(d.width, wide),
        norm=norm,
        b=d.layer(wide, d.width),
    )


# ------------------------------------------------------------------------------------------- parametrised weights


def _as_named(s: Step, weights: Tensor) -> Tensor:
    """The layer with a weight computed by hand."""
    if isinstance(s.layer, nn.Linear):
        return F.linear(s.x, weights, s.layer.bias)
    op = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[weights.ndim - 2]
    return op(s.x, weights, s.layer.bias, padding=s.layer.padding, groups=s.layer.groups)


@kind(*ALL)
def weight_norm(d: Draw) -> Step:
    groups = 2 if d.domain in SPATIAL and d.width % 2 == 0 and d.width > 2 and d.chance(0.3) else 1
    out = d.out()
    layer = d.conv(d.width, out, 3, groups=groups) if d.domain in SPATIAL else nn.Linear(d.width, out)
    new = d.chance(0.7)
    axis = d.pick(0, 0, 1, None) if d.domain not in SPATIAL else d.pick(0, 0, 1, 2)
    made = (parametrizations.weight_norm if new else nn.utils.weight_norm)(layer, dim=axis)
    g, v = (
        ("parametrizations.weight.original0", "parametrizations.weight.original1") if new else ("weight_g", "weight_v")
    )

    def meaning(s: Step, x: Tensor, keep: Tensor, kept: Kept) -> tuple[Tensor, Tensor]:
        scale, direction = part(s, f"layer.{g}"), part(s, f"layer.{v}")
        dims = [k for k in range(direction.ndim) if k != axis]
        size = direction.pow(2).sum(dims, keepdim=True).sqrt() if axis is not None else direction.norm()
        w = torch.where(size > 0, scale * direction / size.clamp_min(1e-300), 0)
        s.x = x
        return _as_named(s, w), kept(direction, 0)

    return d.step(plain, meaning, layer=made)


@kind(*ALL)
def spectral_norm(d: Draw) -> Step:
    layer = d.conv(d.width, d.out(), 3) if d.domain in SPATIAL else nn.Linear(d.width, d.out())
    new = d.chance(0.7)
    made = (parametrizations.spectral_norm if new else nn.utils.spectral_norm)(layer)
    made.train()
    made(torch.randn(d.shape))  # a step of the power iteration, so that its vectors are those of a trained network
    made.eval()
    name = "parametrizations.weight.original" if new else "weight_orig"

    def meaning(s: Step, x: Tensor, keep: Tensor, kept: Kept) -> tuple[Tensor, Tensor]:
        w = part(s, f"layer.{name}")
        u, v = (part(s, f"layer.{'parametrizations.weight.0._' if new else 'weight_'}{k}") for k in "uv")
        s.x = x
        return _as_named(s, w / (u @ w.flatten(1) @ v)), kept(w, 0)

    return d.step(plain, meaning, layer=made)


@kind(*ALL)
def orthogonal(d: Draw) -> Step:
    """A parametrisation that mixes all entries of a weight; its matrix may not be cut at all."""
    layer = nn.Linear(d.width, d.width) if d.domain not in SPATIAL else d.conv(d.width, d.width, 1)
    made = parametrizations.orthogonal(layer)
    if d.chance():
        remove_parametrizations(made, "weight")
        return d.step(plain, made_by("layer.weight"), layer=made)
    return d.step(plain, whole, layer=made)


@kind(*SPATIAL)
def weight_standardised(d: Draw) -> Step:
    """Every filter has mean 0 and deviation 1 over its kept inputs."""
    layer = d.conv(d.width, d.out(), 3)
    dims = list(range(1, d.spatial + 2))

    def standard(w: Tensor) -> Tensor:
        return (w - w.mean(dims, keepdim=True)) / (w.std(dims, keepdim=True) + 1e-5)

    def run(s: Step, x: Tensor) -> Tensor:
        s_conv = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[s.layer.weight.ndim - 2]
        return s_conv(x, standard(s.layer.weight), s.layer.bias, padding=1)

    def meaning(s: Step, x: Tensor, keep: Tensor, kept: Kept) -> tuple[Tensor, Tensor]:
        w = s.layer.weight
        inner, outer = kept(w, 1).nonzero().ravel(), kept(w, 0).nonzero().ravel()
        small = standard(w.index_select(1, inner).index_select(0, outer))
        s_conv = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[w.ndim - 2]
        y = s_conv(x.index_select(1, inner), small, s.layer.bias.index_select(0, outer), padding=1)
        return y.new_zeros(y.shape[0], w.shape[0], *y.shape[2:]).index_copy(1, outer, y), kept(w, 0)

    return d.step(run, meaning, layer=layer)


@kind("tokens", "features")
def tied_transpose(d: Draw) -> Step:
    """An autoencoder with one weight: y = W·f(Wᵀ·x)."""
    return d.step(
        lambda s, x: F.linear(F.relu(s.layer(x)), s.layer.weight.t(), s.b),
        same,
        b=weight(d.width),
        layer=nn.Linear(d.width, d.out()),
    )


@kind(*ALL)
def shared_twice(d: Draw) -> Step:
    """One module called twice: its inputs and outputs are the same channels."""
    return d.step(lambda s, x: s.layer(F.relu(s.layer(x))), made_by("layer.weight"), layer=d.layer(d.width, d.width))


@kind(*ALL)
def tied_parameters(d: Draw) -> Step:
    """Two modules with one weight."""
    a, b = d.layer(d.width, d.width), d.layer(d.width, d.width)
    b.weight = a.weight
    return d.step(lambda s, x: s.b(F.relu(s.a(x))) + x, same, a=a, b=b)


@kind(*ALL)
def generated_weight(d: Draw) -> Step:
    """A weight that is the product of two small ones (low rank)."""
    d.need(d.domain in ("tokens", "features"))
    return d.step(
        lambda s, x: F.linear(x, s.u @ s.v, s.b), made_by("u"), u=weight(d.out(), 3), v=weight(3, d.width), b=None
    )


@kind("image")
def modulated_conv(d: Draw) -> Step:
    """StyleGAN2: weights of every sample, demodulated, and a convolution whose groups are the batch."""
    c = d.width

    def run(s: Step, x: Tensor) -> Tensor:
        n = x.shape[0]
        k = s.w[None] * s.style(x.mean((2, 3))).view(n, 1, c, 1, 1)
        k = k * torch.rsqrt(k.pow(2).sum((2, 3, 4), keepdim=True) + 1e-8)
        y = F.conv2d(x.reshape(1, -1, *x.shape[2:]), k.reshape(-1, c, 3, 3), padding=1, groups=n)
        return y.reshape(n, -1, *x.shape[2:])

    return d.step(run, made_by("w"), w=weight(d.out(), c, 3, 3), style=nn.Linear(c, c))


@kind("image")
def expert_conv(d: Draw) -> Step:
    """CondConv: the weight is a mixture of experts that is the same for all samples."""

    def run(s: Step, x: Tensor) -> Tensor:
        mix = s.a.softmax(0)
        return F.conv2d(x, (mix[:, None, None, None, None] * s.w).sum(0), padding=1)

    def meaning(s: Step, x: Tensor, keep: Tensor, kept: Kept) -> tuple[Tensor, Tensor]:
        experts = kept(s.a)  # some may go; the weights of the others sum to one
        mix = s.a[experts].softmax(0)
        w = (mix[:, None, None, None, None] * s.w[experts]).sum(0)
        return F.conv2d(x, w, padding=1), kept(s.w, 1)

    return d.step(run, meaning, w=weight(3, d.out(), d.width, 3, 3), a=weight(3))


@kind("tokens", "features")
def bilinear(d: Draw) -> Step:
    return d.step(
        lambda s, x: s.layer(x, F.relu(s.a(x))),
        made_by("layer.weight"),
        a=nn.Linear(d.width, 5),
        layer=nn.Bilinear(d.width, 5, d.out()),
    )


# ------------------------------------------------------------------------------------------------------- recurrent


@kind("tokens")
def recurrent(d: Draw) -> Step:
    cls = d.pick(nn.LSTM, nn.GRU, nn.RNN)
    layer = cls(d.width, d.pick(4, 6), num_layers=d.pick(1, 2), bidirectional=d.chance(), batch_first=True)
    return d.step(lambda s, x: s.layer(x)[0], whole, layer=layer)


@kind("signal")
def recurrent_time_first(d: Draw) -> Step:
    return d.step(lambda s, x: s.layer(x.permute(2, 0, 1))[0].permute(1, 2, 0), whole, layer=nn.GRU(d.width, 5))


@kind("tokens", "features")
def recurrent_cell(d: Draw) -> Step:
    cls = d.pick(nn.LSTMCell, nn.GRUCell, nn.RNNCell)
    layer, lstm = cls(d.width, 5), cls is nn.LSTMCell

    def one(s: Step, x: Tensor) -> Tensor:
        h = s.layer(x)
        return h[0] if lstm else h

    if d.domain == "features":
        return d.step(one, whole, layer=layer)
    return d.step(lambda s, x: torch.stack([one(s, x[:, k]) for k in range(2)], 1), whole, layer=layer)
