"""Data movement: slices, flips, rolls, reshapes, pads, repeats, concatenation, writes in place."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drawn.base import ALL, SPATIAL, Draw, Kept, Step, buffer, kind, made_by, move, same, weight, whole


def _cut(d: Draw, start: int | None, stop: int | None, step: int = 1) -> tuple[slice, ...]:
    return (*[slice(None)] * d.dim, slice(start, stop, step))


@kind(*ALL)
def slice_front(d: Draw) -> Step:
    d.need(d.width >= 4)
    at = _cut(d, None, d.width - d.pick(1, 2))
    return d.step(lambda s, x: x[at], move)


@kind(*ALL)
def slice_negative(d: Draw) -> Step:
    """Counted from the end, for start, for stop, or for both."""
    d.need(d.width >= 4)
    at = _cut(d, *d.pick((-d.width // 2, None), (None, -1), (-3, -1), (1, -1)))
    return d.step(lambda s, x: x[at], move)


@kind(*ALL)
def slice_steps(d: Draw) -> Step:
    d.need(d.width >= 4)
    at = _cut(d, *d.pick((None, None, 2), (1, None, 2), (1, -1, 2), (None, None, 3)))
    return d.step(lambda s, x: x[at], move)


@kind(*ALL)
def slice_then_layer(d: Draw) -> Step:
    """Both halves of the channels through layers of their own."""
    d.need(d.width >= 4)
    half, dim = d.width // 2, d.dim
    first, rest = _cut(d, None, half), _cut(d, half, None)

    def meaning(s: Step, x: Tensor, keep: Tensor, kept: Kept) -> tuple[Tensor, Tensor]:
        return s.run(s, x), torch.cat([kept(s.b.weight), kept(s.a.weight)])

    return d.step(
        lambda s, x: torch.cat([s.b(x[rest]), s.a(x[first])], dim),
        meaning,
        a=d.layer(half, 4),
        b=d.layer(d.width - half, d.out()),
    )


@kind(*ALL)
def narrow(d: Draw) -> Step:
    d.need(d.width >= 4)
    dim, start = d.pick(d.dim, d.dim - len(d.shape)), d.pick(0, 1, 2)
    return d.step(lambda s, x: x.narrow(dim, start, d.width - 2), move)


@kind(*ALL)
def split(d: Draw) -> Step:
    d.need(d.width >= 4)
    dim, size = d.dim, d.pick(d.width // 2, 3, [1, d.width - 1])
    return d.step(lambda s, x: torch.cat(tuple(reversed(torch.split(x, size, dim))), dim), move)


@kind(*ALL)
def chunk(d: Draw) -> Step:
    d.need(d.width >= 4)
    dim, n = d.dim - len(d.shape), d.pick(2, 3)
    return d.step(lambda s, x: torch.cat([p for k, p in enumerate(x.chunk(n, dim)) if k != 1], dim), move)


@kind(*ALL)
def tensor_split(d: Draw) -> Step:
    d.need(d.width >= 4)
    dim, where = d.dim, d.pick(2, [1, 3])
    return d.step(lambda s, x: torch.cat(torch.tensor_split(x, where, dim)[::-1], dim), move)


@kind(*ALL)
def unbind_pairs(d: Draw) -> Step:
    """Channels in pairs, the first of each plus the second (or the other way round)."""
    d.need(d.width % 2 == 0 and d.width >= 4)
    dim, first = d.dim, d.chance()

    def run(s: Step, x: Tensor) -> Tensor:
        a, b = x.unflatten(dim, (-1, 2) if first else (2, -1)).unbind(dim + 1 if first else dim)
        return a + 2 * b

    return d.step(run, _pairs(dim, first))


def _pairs(dim: int, first: bool) -> object:
    def meaning(s: Step, x: Tensor, keep: Tensor, kept: Kept) -> tuple[Tensor, Tensor]:
        pairs = keep.unflatten(0, (-1, 2) if first else (2, -1))
        return s.run(s, x), pairs.all(1 if first else 0)

    return meaning


@kind(*ALL)
def select_one(d: Draw) -> Step:
    """One channel times all of them."""
    index, dim = d.pick(0, 1, -1), d.dim
    return d.step(lambda s, x: x * torch.sigmoid(x.select(dim, index).unsqueeze(dim)), same)


@kind(*ALL)
def flip_channels(d: Draw) -> Step:
    dim = d.pick(d.dim, d.dim - len(d.shape))
    return d.step(lambda s, x: x.flip(dim), move)


@kind(*SPATIAL)
def flip_places(d: Draw) -> Step:
    return d.step(lambda s, x: torch.flip(x, [-1]) + x, same)


@kind(*ALL)
def roll_channels(d: Draw) -> Step:
    shift, dim = d.pick(1, -1, 3), d.dim
    return d.step(lambda s, x: torch.roll(x, shift, dim), move)


@kind(*ALL)
def roll_everything(d: Draw) -> Step:
    """Without a dimension the tensor is rolled as one row."""
    return d.step(lambda s, x: torch.roll(x, 1), move)


@kind("signal", "image", "volume", "tokens")
def roll_places(d: Draw) -> Step:
    at = 1 if d.domain == "tokens" else -1
    return d.step(lambda s, x: x - torch.roll(x, shifts=2, dims=at), same)


@kind(*ALL)
def shuffle_channels(d: Draw) -> Step:
    groups = d.pick(2, 4)
    d.need(d.width % groups == 0)
    dim = d.dim
    if d.domain in SPATIAL and d.chance(0.3):
        return d.step(lambda s, x: s.layer(x), move, layer=nn.ChannelShuffle(groups))

    def run(s: Step, x: Tensor) -> Tensor:
        blocks = x.unflatten(dim, (groups, d.width // groups))
        return blocks.transpose(dim, dim + 1).flatten(dim, dim + 1)

    return d.step(run, move)


@kind("image")
def pixel_shuffle(d: Draw) -> Step:
    d.need(d.width % 4 == 0 and d.width >= 8 and d.shape[-1] < 8)
    return d.step(lambda s, x: F.pixel_shuffle(x, 2), move)


@kind("image")
def pixel_unshuffle(d: Draw) -> Step:
    d.need(d.width <= 8)
    return d.step(lambda s, x: F.pixel_unshuffle(x[..., : x.shape[-2] // 2 * 2, : x.shape[-1] // 2 * 2], 2), move)


@kind("image")
def focus(d: Draw) -> Step:
    """Space to depth by four strided slices."""
    d.need(d.width <= 6 and min(d.shape[2:]) % 2 == 0)
    return d.step(
        lambda s, x: torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]], 1), move
    )


@kind("image")
def windows(d: Draw) -> Step:
    """Window partition and back, with a layer between (Swin)."""
    _, c, h, w = d.shape
    d.need(h % 2 == 0 and w % 2 == 0)

    def run(s: Step, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        t = x.permute(0, 2, 3, 1).view(n, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)
        t = s.layer(t)
        return t.view(n, h // 2, w // 2, 2, 2, -1).permute(0, 5, 1, 3, 2, 4).reshape(n, -1, h, w)

    return d.step(run, made_by("layer.weight"), layer=nn.Linear(c, d.out()))


@kind("image")
def patch_merging(d: Draw) -> Step:
    _, c, h, w = d.shape
    d.need(h % 2 == 0 and w % 2 == 0)

    def run(s: Step, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        t = x.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 3, 5, 1).flatten(3)
        return s.layer(t).movedim(-1, 1)

    return d.step(run, made_by("layer.weight"), layer=nn.Linear(4 * c, d.out()))


@kind("image", "signal", "volume")
def to_tokens(d: Draw) -> Step:
    return d.step(lambda s, x: x.flatten(2).transpose(1, 2), _same_channels, "tokens")


def _same_channels(s: Step, x: Tensor, keep: Tensor, kept: Kept) -> tuple[Tensor, Tensor]:
    return s.run(s, x), keep


@kind("tokens")
def to_signal(d: Draw) -> Step:
    return d.step(
        d.pick(lambda s, x: x.transpose(1, 2), lambda s, x: x.movedim(-1, 1), lambda s, x: x.mT),
        _same_channels,
        "signal",
    )


@kind("image", "signal", "tokens")
def flatten_to_features(d: Draw) -> Step:
    count = 1
    for n in d.shape[1:]:
        count *= n
    d.need(count <= 300)
    way = d.pick(
        lambda x: x.flatten(1), lambda x: x.reshape(x.shape[0], -1), lambda x: x.contiguous().view(len(x), count)
    )
    return d.step(lambda s, x: s.layer(way(x)), made_by("layer.weight"), "features", layer=nn.Linear(count, d.out()))


@kind(*SPATIAL)
def pad_places(d: Draw) -> Step:
    pad = [1, 2] + [0, 1] * (d.spatial - 1)
    mode, value = d.pick("constant", "reflect", "replicate", "circular"), d.pick(0.0, 1.0)
    d.need(max(d.shape[2:]) < 9 and (mode != "reflect" or d.domain != "volume"))

    def run(s: Step, x: Tensor) -> Tensor:
        return F.pad(x, pad, mode, value) if mode == "constant" else F.pad(x, pad, mode)

    return d.step(run, _same_channels)


@kind(*SPATIAL)
def pad_channels(d: Draw) -> Step:
    """Channels of a constant in front and behind, then a layer."""
    value, before = d.pick(0.0, 0.0, 1.5), d.pick(0, 2)
    layer = d.layer(d.width + before + 3, d.out())
    return d.step(
        lambda s, x: s.layer(F.relu(F.pad(x, (0, 0) * d.spatial + (before, 3), value=value))),
        made_by("layer.weight"),
        layer=layer,
    )


@kind(*ALL)
def pad_negative(d: Draw) -> Step:
    """A negative pad crops channels."""
    d.need(d.width >= 4)
    amounts = (-1, -1) if d.dim == len(d.shape) - 1 else (*(0, 0) * d.spatial, -1, -1)
    return d.step(lambda s, x: F.pad(x, amounts), move)


@kind("image")
def shortcut_padded(d: Draw) -> Step:
    """A residual block with more channels, whose shortcut is padded with zeros (ResNet, option A)."""
    out = d.width + 4
    return d.step(
        lambda s, x: F.relu(s.layer(x) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))),
        made_by("layer.weight"),
        layer=d.conv(d.width, out, 3, stride=2),
    )


@kind(*ALL)
def concat_constant(d: Draw) -> Step:
    """Zeros, ones or coordinates as further channels, then a layer."""
    dim, kind_of = d.dim, d.pick("zeros", "ones", "linspace", "full")

    def run(s: Step, x: Tensor) -> Tensor:
        one = x.narrow(dim, 0, 1)
        more = {
            "zeros": torch.zeros_like,
            "ones": torch.ones_like,
            "full": lambda t: torch.full_like(t, 0.5),
            "linspace": lambda t: (
                torch.linspace(-1, 1, 2)
                .reshape(-1, *[1] * (t.ndim - dim - 1))
                .expand(*t.shape[:dim], 2, *t.shape[dim + 1 :])
                .to(t)
            ),
        }[kind_of](one)
        return s.layer(torch.cat([x, more], dim))

    layer = d.layer(d.width + (2 if kind_of == "linspace" else 1), d.out())
    return d.step(run, made_by("layer.weight"), layer=layer)


@kind(*ALL)
def repeat_channels(d: Draw) -> Step:
    d.need(d.width <= 8)
    dim, times = d.dim, [1] * len(d.shape)
    times[dim] = 2
    way = d.pick("repeat", "tile", "interleave", "cat", "expand")

    def run(s: Step, x: Tensor) -> Tensor:
        if way == "interleave":
            return x.repeat_interleave(2, dim)
        if way == "cat":
            return torch.cat([x, x], dim)
        if way == "expand":
            return x.unsqueeze(dim + 1).expand(*[-1] * (dim + 1), 2, *[-1] * (x.ndim - dim - 1)).flatten(dim, dim + 1)
        return x.repeat(times) if way == "repeat" else x.tile(times)

    return d.step(run, move)


@kind(*ALL)
def concat_negated(d: Draw) -> Step:
    """CReLU."""
    d.need(d.width <= 8)
    dim = d.dim
    return d.step(lambda s, x: F.relu(torch.cat([x, -x], dim)), _doubled)


def _doubled(s: Step, x: Tensor, keep: Tensor, kept: Kept) -> tuple[Tensor, Tensor]:
    return s.run(s, x), keep.repeat(2)


@kind(*ALL)
def stack_interleaved(d: Draw) -> Step:
    """Two maps of the channels, one after the other for every channel."""
    d.need(d.width <= 8)
    dim = d.dim
    return d.step(lambda s, x: torch.stack([torch.sin(x), torch.tanh(x)], dim + 1).flatten(dim, dim + 1), _interleaved)


def _interleaved(s: Step, x: Tensor, keep: Tensor, kept: Kept) -> tuple[Tensor, Tensor]:
    return s.run(s, x), keep.repeat_interleave(2)


@kind("image")
def unfold_windows(d: Draw) -> Step:
    """Patches as columns (im2col), through a layer, and folded back."""
    d.need(min(d.shape[2:]) % 2 == 0)
    c, fold = d.width, d.chance()

    def run(s: Step, x: Tensor) -> Tensor:
        columns = s.layer(F.unfold(x, 2, stride=2).transpose(1, 2)).transpose(1, 2)
        if fold:
            return F.fold(columns, x.shape[2:], 2, stride=2)
        return columns.unflatten(2, (x.shape[2] // 2, x.shape[3] // 2))

    if not fold:
        return d.step(run, made_by("layer.weight"), layer=nn.Linear(4 * c, d.out()))

    def meaning(s: Step, x: Tensor, keep: Tensor, kept: Kept) -> tuple[Tensor, Tensor]:
        return s.run(s, x), kept(s.layer.weight).unflatten(0, (-1, 4)).all(1)

    return d.step(run, meaning, layer=nn.Linear(4 * c, 4 * d.pick(2, 3, 4)))


@kind("signal", "image")
def unfold_dimension(d: Draw) -> Step:
    return d.step(lambda s, x: x.unfold(-1, 3, 1).mean(-1) + x.unfold(-1, 3, 1)[..., 0], _same_channels)


@kind(*ALL)
def in_place(d: Draw) -> Step:
    """Operators that write into what they get."""
    way = d.pick("relu_", "add_", "mul_", "clamp_", "masked_fill_", "sigmoid_")

    def run(s: Step, x: Tensor) -> Tensor:
        y = x * 1.5
        if way == "relu_":
            return F.relu_(y)
        if way == "add_":
            y += x
            return y
        if way == "mul_":
            y.mul_(x).div_(2)
            return y
        if way == "clamp_":
            return y.clamp_(-1, 2)
        return y.masked_fill_(x > 0.5, 0.3) if way == "masked_fill_" else y.sigmoid_()

    return d.step(run, same)


@kind(*ALL)
def write_slice(d: Draw) -> Step:
    """x[:, :k] = f(x[:, k:]): channels written in place."""
    d.need(d.width % 2 == 0)
    half, way = d.width // 2, d.pick("set", "add", "scalar", "relu")
    first, rest = _cut(d, None, half), _cut(d, half, None)

    def run(s: Step, x: Tensor) -> Tensor:
        y = x.clone()
        if way == "set":
            y[first] = torch.tanh(y[rest])
        elif way == "add":
            y[first] += y[rest]
        elif way == "scalar":
            y[first] = 0.75
        else:
            y[first].relu_()
        return y

    return d.step(run, same)


@kind("image", "tokens")
def write_places(d: Draw) -> Step:
    def run(s: Step, x: Tensor) -> Tensor:
        y = x.clone()
        y[:, 1 if x.ndim == 3 else slice(None), ...] *= 2
        y[..., 0, :] = 0
        return y

    return d.step(run, same)


@kind(*ALL)
def dropout(d: Draw) -> Step:
    layer: nn.Module = d.pick(nn.Dropout(0.5), nn.AlphaDropout(0.3))
    if d.domain in SPATIAL and d.chance():
        layer = {1: nn.Dropout1d, 2: nn.Dropout2d, 3: nn.Dropout3d}[d.spatial](0.5)
    return d.step(lambda s, x: s.layer(x), same, layer=layer)


@kind("tokens")
def class_token(d: Draw) -> Step:
    """A learned token in front, a residual layer over all of them, and only that token is handed on."""

    def run(s: Step, x: Tensor) -> Tensor:
        t = torch.cat([s.token.expand(x.shape[0], -1, -1), x], 1)
        t = t + s.layer(t.mean(1, keepdim=True))
        return t[:, 0]

    return d.step(run, same, "features", token=weight(1, 1, d.width), layer=nn.Linear(d.width, d.width))


@kind("tokens")
def register_tokens(d: Draw) -> Step:
    """Learned tokens whose sum is added to the others, and which are dropped again: some of them may go."""

    def run(s: Step, x: Tensor) -> Tensor:
        t = torch.cat([s.tokens.expand(x.shape[0], -1, -1), x], 1)
        t = torch.tanh(s.layer(t))
        return t[:, 4:] + t[:, :4].sum(1, keepdim=True)

    def meaning(s: Step, x: Tensor, keep: Tensor, kept: Kept) -> tuple[Tensor, Tensor]:
        registers = s.tokens[:, kept(s.tokens, 1)].expand(x.shape[0], -1, -1)
        y = torch.tanh(s.layer(x)) + torch.tanh(s.layer(registers)).sum(1, keepdim=True)
        return y, kept(s.layer.weight)

    return d.step(run, meaning, tokens=weight(1, 4, d.width), layer=nn.Linear(d.width, d.out()))


@kind("tokens")
def mixer(d: Draw) -> Step:
    """A layer over the tokens (MLP-Mixer)."""
    n = d.shape[1]
    return d.step(
        lambda s, x: x + s.b(F.gelu(s.a(x.transpose(1, 2)))).transpose(1, 2), same, a=nn.Linear(n, 8), b=nn.Linear(8, n)
    )


@kind("features")
def features_to_image(d: Draw) -> Step:
    """A decoder's beginning: a layer whose outputs are laid out as an image."""
    c, order = d.pick(4, 6), d.chance()

    def run(s: Step, x: Tensor) -> Tensor:
        y = s.layer(x)
        return s.conv(y.view(-1, c, 4, 4) if order else y.view(-1, 4, 4, c).permute(0, 3, 1, 2))

    return d.step(
        run, made_by("conv.weight"), "image", layer=nn.Linear(d.width, 16 * c), conv=nn.Conv2d(c, d.out(), 3, padding=1)
    )


@kind("features", "image")
def vector_buffer(d: Draw) -> Step:
    """A table of numbers that is longer than the channels, sliced to their number."""
    dim, n = d.dim, d.width

    def run(s: Step, x: Tensor) -> Tensor:
        return x + s.table[:n].view(-1, *[1] * (x.ndim - dim - 1))

    return d.step(run, same, table=buffer(n + 3))


@kind("features")
def to_scalars_and_back(d: Draw) -> Step:
    """Every channel as a token of its own (tabular transformers), which keeps all of them."""
    return d.step(lambda s, x: s.layer(x.unsqueeze(-1)).sum(1), whole_layer, layer=nn.Linear(1, d.out()))


def whole_layer(s: Step, x: Tensor, keep: Tensor, kept: Kept) -> tuple[Tensor, Tensor]:
    small = x[:, keep]
    return s.run(s, small), kept(s.layer.weight)


@kind("image", "signal")
def view_flat(d: Draw) -> Step:
    """All places of all samples as one row, and back."""

    def run(s: Step, x: Tensor) -> Tensor:
        t = x.movedim(1, -1)
        return s.layer(t.reshape(-1, t.shape[-1])).reshape(*t.shape[:-1], -1).movedim(-1, 1)

    return d.step(run, made_by("layer.weight"), layer=nn.Linear(d.width, d.out()))


__all__ = ["whole"]
