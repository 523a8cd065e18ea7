"""Normalisations, activations and pooling."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drawn.base import ALL, SPATIAL, Draw, Kept, Step, gather, kind, over, same, scatter, spread, weight


@kind(*SPATIAL, "features")
def batch_norm(d: Draw) -> Step:
    norm = {0: nn.BatchNorm1d, 1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[d.spatial]
    return d.step(lambda s, x: s.norm(x), same, norm=norm(d.width, affine=d.chance(0.7)))


@kind(*SPATIAL, "features")
def batch_norm_of_batch(d: Draw) -> Step:
    """No running statistics: those of the batch, in eval too."""
    norm = {0: nn.BatchNorm1d, 1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[d.spatial]
    return d.step(lambda s, x: s.norm(x), same, norm=norm(d.width, track_running_stats=False))


@kind("tokens", "features", "image")
def layer_norm(d: Draw) -> Step:
    last = d.domain == "image"
    norm = nn.LayerNorm(d.width, elementwise_affine=d.chance(0.7))

    def turned(x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1) if last else x

    def run(s: Step, x: Tensor) -> Tensor:
        y = s.norm(turned(x))
        return y.permute(0, 3, 1, 2) if last else y

    def meaning(s: Step, x: Tensor, keep: Tensor, kept: Kept) -> tuple[Tensor, Tensor]:
        w, b = (None if t is None else t[keep] for t in (s.norm.weight, s.norm.bias))
        y = F.layer_norm(turned(gather(x, keep, s.dim)), (int(keep.sum()),), w, b, s.norm.eps)
        return scatter(y.permute(0, 3, 1, 2) if last else y, keep, s.dim), keep

    return d.step(run, meaning, norm=norm)


@kind("image")
def layer_norm_of_all(d: Draw) -> Step:
    """Over channels, height and width at once."""
    norm = nn.LayerNorm(d.shape[1:])

    def meaning(s: Step, x: Tensor, keep: Tensor, kept: Kept) -> tuple[Tensor, Tensor]:
        small = gather(x, keep, 1)
        y = F.layer_norm(small, small.shape[1:], s.norm.weight[keep], s.norm.bias[keep], s.norm.eps)
        return scatter(y, keep, 1), keep

    return d.step(lambda s, x: s.norm(x), meaning, norm=norm)


@kind(*ALL)
def layer_norm_by_hand(d: Draw) -> Step:
    """Mean and variance over the channels, as ConvNeXt writes it."""
    dim = d.dim
    shape = [-1] + [1] * (len(d.shape) - dim - 1)

    def normed(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        mean = x.mean(dim, keepdim=True)
        var = (x - mean).pow(2).mean(dim, keepdim=True)
        return (x - mean) / torch.sqrt(var + 1e-6) * w.view(shape) + b.view(shape)

    def meaning(s: Step, x: Tensor, keep: Tensor, kept: Kept) -> tuple[Tensor, Tensor]:
        return scatter(normed(gather(x, keep, dim), s.w[keep], s.b[keep]), keep, dim), keep

    return d.step(lambda s, x: normed(x, s.w, s.b), meaning, w=weight(d.width), b=weight(d.width))


@kind("tokens", "features")
def rms_norm(d: Draw) -> Step:
    by_hand, norm = d.chance(), nn.RMSNorm(d.width, eps=1e-6)

    def normed(x: Tensor, w: Tensor) -> Tensor:
        if by_hand:
            return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * w
        return F.rms_norm(x, (x.shape[-1],), w, 1e-6)

    def meaning(s: Step, x: Tensor, keep: Tensor, kept: Kept) -> tuple[Tensor, Tensor]:
        return scatter(normed(gather(x, keep, s.dim), s.norm.weight[keep]), keep, s.dim), keep

    return d.step(lambda s, x: normed(x, s.norm.weight) if by_hand else s.norm(x), meaning, norm=norm)


@kind(*SPATIAL, "features")
def group_norm(d: Draw) -> Step:
    groups = d.pick(1, 2, 2, 4)
    d.need(d.width % groups == 0)
    norm = nn.GroupNorm(groups, d.width, affine=d.chance(0.8))

    def meaning(s: Step, x: Tensor, keep: Tensor, kept: Kept) -> tuple[Tensor, Tensor]:
        left = int(keep.view(groups, -1).any(1).sum())
        w, b = (None if t is None else t[keep] for t in (s.norm.weight, s.norm.bias))
        return scatter(F.group_norm(gather(x, keep, 1), left, w, b, s.norm.eps), keep, 1), keep

    return d.step(lambda s, x: s.norm(x), meaning, norm=norm)


@kind(*SPATIAL)
def instance_norm(d: Draw) -> Step:
    norm = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[d.spatial]
    return d.step(lambda s, x: s.norm(x), same, norm=norm(d.width, affine=d.chance()))


@kind(*SPATIAL)
def local_response_norm(d: Draw) -> Step:
    """Mixes neighbouring channels, so that none may go."""
    return d.step(lambda s, x: s.norm(x), same, norm=nn.LocalResponseNorm(3, alpha=0.5))


@kind(*ALL)
def normalize(d: Draw) -> Step:
    """Unit length over the channels."""
    dim, p = d.dim, d.pick(2, 2, 1)
    return d.step(lambda s, x: F.normalize(x, p=p, dim=dim), over)


@kind("image")
def response_norm_global(d: Draw) -> Step:
    """ConvNeXt V2: norms over the places, divided by their mean over the channels."""

    def normed(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        g = x.norm(p=2, dim=(2, 3), keepdim=True)
        return w[:, None, None] * (x * (g / (g.mean(1, keepdim=True) + 1e-6))) + b[:, None, None] + x

    def meaning(s: Step, x: Tensor, keep: Tensor, kept: Kept) -> tuple[Tensor, Tensor]:
        return scatter(normed(gather(x, keep, 1), s.w[keep], s.b[keep]), keep, 1), keep

    return d.step(lambda s, x: normed(x, s.w, s.b), meaning, w=weight(d.width), b=weight(d.width))


@kind(*SPATIAL)
def adaptive_norm(d: Draw) -> Step:
    """AdaIN: instance statistics replaced by what a layer makes of the mean."""
    dims = list(range(2, 2 + d.spatial))

    def run(s: Step, x: Tensor) -> Tensor:
        pooled = x.mean(dims)
        scale, shift = s.layer(pooled).chunk(2, 1)
        shape = (*scale.shape, *[1] * len(dims))
        y = (x - x.mean(dims, keepdim=True)) / x.std(dims, keepdim=True).clamp_min(1e-3)
        return y * (1 + scale.view(shape)) + shift.view(shape)

    return d.step(run, same, layer=nn.Linear(d.width, 2 * d.width))


# -------------------------------------------------------------------------------------------------- activations


@kind(*ALL)
def activation_zero(d: Draw) -> Step:
    """f(0) = 0."""
    act = d.pick(
        F.relu,
        F.gelu,
        F.silu,
        F.elu,
        F.selu,
        F.leaky_relu,
        F.hardswish,
        F.mish,
        F.softsign,
        F.tanhshrink,
        torch.tanh,
        torch.sin,
        torch.square,
        torch.atan,
        torch.erf,
        F.hardtanh,
        F.softshrink,
        torch.sign,
    )
    return d.step(lambda s, x: act(x) + 0.1 * x, same)


@kind(*ALL)
def activation_not_zero(d: Draw) -> Step:
    """f(0) ≠ 0."""
    act = d.pick(
        torch.sigmoid,
        torch.cos,
        F.softplus,
        F.hardsigmoid,
        F.logsigmoid,
        lambda x: F.elu(x) + 1,
        lambda x: torch.exp(-x.abs()),
        lambda x: torch.clamp(x, 0.2, 2),
        lambda x: 1 - x,
        lambda x: x + 0.5,
        lambda x: torch.reciprocal(1 + x * x),
        lambda x: torch.maximum(x, torch.tensor(0.3)),
        lambda x: torch.where(x > 0, x, 0.5),
        lambda x: torch.lerp(x, torch.ones_like(x), 0.3),
        lambda x: F.threshold(x, 0.1, 0.6),
        lambda x: torch.rsub(x, 2),
        lambda x: torch.addcmul(x, x, x),
        lambda x: torch.logaddexp(x, -x),
        lambda x: torch.pow(2.0, -x.abs()),
    )
    return d.step(lambda s, x: act(x), same)


@kind(*ALL)
def prelu(d: Draw) -> Step:
    d.need(d.domain != "tokens")
    return d.step(lambda s, x: s.layer(x), same, layer=nn.PReLU(d.pick(1, d.width)))


@kind(*ALL)
def glu(d: Draw) -> Step:
    d.need(d.width % 2 == 0 and d.width >= 4)
    dim = d.pick(d.dim, d.dim - len(d.shape))
    return d.step(lambda s, x: F.glu(x, dim), halves)


def halves(s: Step, x: Tensor, keep: Tensor, kept: Kept) -> tuple[Tensor, Tensor]:
    return s.run(s, x), keep.view(2, -1).all(0)


@kind(*ALL)
def gated_halves(d: Draw) -> Step:
    """GEGLU, by chunk and a product."""
    dim = d.dim
    act = d.pick(F.gelu, torch.sigmoid, torch.tanh)

    def run(s: Step, x: Tensor) -> Tensor:
        a, b = s.a(x).chunk(2, dim)
        return s.b(a * act(b)) + x

    return d.step(run, same, a=d.layer(d.width, 2 * (n := d.pick(4, 6))), b=d.layer(n, d.width))


@kind(*ALL)
def scale_and_shift(d: Draw) -> Step:
    """Parameters of one entry per channel, small ones too (LayerScale)."""
    shape = [d.width] + [1] * (len(d.shape) - d.dim - 1)
    small = d.pick(1.0, 1e-5)
    w = nn.Parameter(torch.randn(shape) * small)
    return d.step(lambda s, x: x + s.layer(x) * s.w + s.b, same, layer=d.layer(d.width, d.width), w=w, b=weight(*shape))


@kind(*ALL)
def scalars(d: Draw) -> Step:
    """A temperature, and a mixture of two branches by a softmax of two numbers."""

    def run(s: Step, x: Tensor) -> Tensor:
        w = s.mix.softmax(0)
        return (w[0] * x + w[1] * s.layer(x)) / s.temperature.exp()

    return d.step(run, same, layer=d.layer(d.width, d.width), mix=weight(2), temperature=weight())


# ------------------------------------------------------------------------------------------------------- pooling


def _pooled(s: Step, x: Tensor, keep: Tensor, kept: Kept) -> tuple[Tensor, Tensor]:
    return s.run(s, x), keep


@kind(*SPATIAL)
def pool(d: Draw) -> Step:
    n = d.spatial
    d.need(min(d.shape[2:]) >= 4)
    layer = d.pick(
        (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)[n - 1](2),
        (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)[n - 1](2),
        (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)[n - 1](3, 2, 1, ceil_mode=True),
        (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)[n - 1](3, 1, 1),
        (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[n - 1](3),
        (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d)[n - 1](3),
        (nn.LPPool1d, nn.LPPool2d, nn.LPPool3d)[n - 1](2, 2),
    )
    return d.step(lambda s, x: s.layer(x), _pooled, layer=layer)


@kind("image")
def pool_with_positions(d: Draw) -> Step:
    """Max pooling and its unpooling, whose positions are per channel."""
    d.need(min(d.shape[2:]) >= 4 and d.shape[2] % 2 == 0 and d.shape[3] % 2 == 0)

    def run(s: Step, x: Tensor) -> Tensor:
        y, where = F.max_pool2d(x, 2, return_indices=True)
        return F.max_unpool2d(y, where, 2)

    return d.step(run, _pooled)


@kind(*SPATIAL)
def pool_to_features(d: Draw) -> Step:
    dims = list(range(2, 2 + d.spatial))
    way = d.pick(
        lambda x: x.mean(dims),
        lambda x: x.amax(dims),
        lambda x: x.flatten(2).logsumexp(-1),
        lambda x: x.std(dims),
        lambda x: x.flatten(2).max(-1).values,
        lambda x: x.flatten(2).norm(dim=2),
        lambda x: x.sum(dims).squeeze(),
        lambda x: x.flatten(2).median(-1)[0],
    )
    return d.step(lambda s, x: way(x), _pooled, "features")


@kind("tokens")
def pool_tokens(d: Draw) -> Step:
    way = d.pick(lambda x: x.mean(1), lambda x: x.amax(-2), lambda x: x[:, 0], lambda x: x[:, -1], lambda x: x.sum(1))
    return d.step(lambda s, x: way(x), _pooled, "features")


@kind(*SPATIAL)
def interpolate(d: Draw) -> Step:
    d.need(max(d.shape[2:]) < 7)
    mode = d.pick(
        "nearest",
        "nearest-exact",
        "area",
        ("linear", "bilinear", "trilinear")[d.spatial - 1],
        *(["bicubic"] if d.domain == "image" else []),
    )
    how = d.pick({"scale_factor": 2}, {"scale_factor": 1.5}, {"size": 6})
    return d.step(lambda s, x: F.interpolate(x, mode=mode, **how), _pooled)


@kind("image")
def spatial_transformer(d: Draw) -> Step:
    """grid_sample with places that a layer makes."""
    return d.step(
        lambda s, x: F.grid_sample(x, s.layer(x).permute(0, 2, 3, 1).tanh(), align_corners=False),
        _pooled,
        layer=nn.Conv2d(d.width, 2, 1),
    )


@kind("image")
def blur(d: Draw) -> Step:
    """A fixed kernel applied to every channel: the groups follow the number of channels."""

    def run(s: Step, x: Tensor) -> Tensor:
        return F.conv2d(x, s.kernel.expand(x.shape[1], 1, 3, 3), padding=1, groups=x.shape[1])

    return d.step(run, same, kernel=torch.rand(1, 1, 3, 3))


@kind("image")
def blur_repeated(d: Draw) -> Step:
    c = d.width
    return d.step(
        lambda s, x: F.conv2d(x, s.kernel, padding=1, groups=c), same, kernel=torch.rand(1, 1, 3, 3).repeat(c, 1, 1, 1)
    )


__all__ = ["spread"]
