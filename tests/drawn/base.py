"""What constructions are made of: a function, its parts, and what it means when channels go."""

from __future__ import annotations

import operator
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

CONV = {"signal": nn.Conv1d, "image": nn.Conv2d, "volume": nn.Conv3d}
CONV_T = {"signal": nn.ConvTranspose1d, "image": nn.ConvTranspose2d, "volume": nn.ConvTranspose3d}
SPATIAL = ("signal", "image", "volume")
ALL = (*SPATIAL, "tokens", "features")
CHANNEL = {"signal": 1, "image": 1, "volume": 1, "tokens": 2, "features": 1}
"""Where the channels of every kind of tensor stand."""


class Skip(Exception):
    """The construction does not fit what comes before it."""


class Kept:
    """What a plan keeps, as masks over the dense network's own tensors.

    Args:
        plan: Kept indices by name and dimension.
        model: The dense network; with ``zero`` every removed entry of it is set to zero.
    """

    def __init__(self, keep: Mapping[str, Mapping[int, Sequence[int]]], model: nn.Module, zero: bool = True) -> None:
        self._masks: dict[tuple[int, int], Tensor] = {}
        named = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
        for name, dims in keep.items():
            tensor = named[name]
            for dim, kept in dims.items():
                mask = torch.zeros(tensor.shape[dim], dtype=torch.bool)
                mask[list(kept)] = True
                self._masks[id(tensor), dim] = self.__call__(tensor, dim) & mask
                if zero and (tensor.is_floating_point() or tensor.is_complex()):
                    with torch.no_grad():
                        tensor.index_fill_(dim, (~mask).nonzero().ravel(), 0)

    def __call__(self, tensor: Tensor, dim: int = 0) -> Tensor:
        """Kept entries of a dimension, shape (size,), bool."""
        found = self._masks.get((id(tensor), dim))
        return torch.ones(tensor.shape[dim], dtype=torch.bool) if found is None else found


Reference = Callable[["Step", Tensor, Tensor, Kept], tuple[Tensor, Tensor]]
"""(step, dense values, kept channels, plan) → the same of the result; removed entries may hold anything."""


class Step(nn.Module):
    """A construction.

    Args:
        run: The user's code, a function of (step, input).
        meaning: What it is when channels go.
        domain: What its result is (``image``, ``tokens`` …).
        parts: Modules, parameters and buffers by name (plain tensors become buffers).
    """

    def __init__(self, run: Callable[..., Tensor], meaning: Reference, domain: str, **parts: Any) -> None:
        super().__init__()
        self.run, self.meaning, self.domain = run, meaning, domain
        self.source = 1  # where the channels of what it gets stand
        self.single = False  # whether it leaves double precision by a cast of its own
        for name, part in parts.items():
            if isinstance(part, nn.Parameter) or not isinstance(part, Tensor):
                setattr(self, name, part)
            else:
                self.register_buffer(name, part)

    @property
    def dim(self) -> int:
        return CHANNEL[self.domain]

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)

    def masked(self, x: Tensor, keep: Tensor, kept: Kept) -> tuple[Tensor, Tensor]:
        y, left = self.meaning(self, x, keep, kept)
        return torch.where(spread(left, y, self.dim), y, 0), left


def spread(keep: Tensor, like: Tensor, dim: int) -> Tensor:
    """A mask of channels as one of all entries."""
    shape = [1] * like.ndim
    shape[dim] = len(keep)
    return keep.reshape(shape).expand(like.shape)


def gather(x: Tensor, keep: Tensor, dim: int) -> Tensor:
    return x.index_select(dim, keep.nonzero().ravel())


def scatter(small: Tensor, keep: Tensor, dim: int) -> Tensor:
    shape = list(small.shape)
    shape[dim] = len(keep)
    return small.new_zeros(shape).index_copy(dim, keep.nonzero().ravel(), small)


def channels(mask: Tensor, dim: int) -> Tensor:
    """The channels of a mask of all entries; they have to go whole."""
    flat = mask.movedim(dim, 0).flatten(1) != 0
    if not torch.equal(flat.any(1), flat.all(1)):
        raise AssertionError("only part of a channel went")
    return flat.all(1)


def part(step: Step, name: str) -> Tensor:
    found = operator.attrgetter(name)(step)
    assert isinstance(found, Tensor)
    return found


# ------------------------------------------------------------------------------------------------- what it means


def same(step: Step, x: Tensor, keep: Tensor, kept: Kept) -> tuple[Tensor, Tensor]:
    """Zeros pass, and every channel stays where it is."""
    return step.run(step, x), keep


def whole(step: Step, x: Tensor, keep: Tensor, kept: Kept) -> tuple[Tensor, Tensor]:
    """Zeros pass, and nothing of the result goes."""
    y = step.run(step, x)
    return y, torch.ones(y.shape[step.dim], dtype=torch.bool)


def move(step: Step, x: Tensor, keep: Tensor, kept: Kept) -> tuple[Tensor, Tensor]:
    """Entries are only moved: the mask is what the same code makes of the mask."""
    mask = spread(keep, x, step.source).to(x.dtype)
    return step.run(step, x), channels(step.run(step, mask), step.dim)


def over(step: Step, x: Tensor, keep: Tensor, kept: Kept) -> tuple[Tensor, Tensor]:
    """Runs on the kept channels alone."""
    return scatter(step.run(step, gather(x, keep, step.dim)), keep, step.dim), keep


def made_by(name: str, dim: int = 0, times: int = 1) -> Reference:
    """Zeros pass, and the channels are those of the parameter ``name`` (each of them ``times`` times)."""

    def meaning(step: Step, x: Tensor, keep: Tensor, kept: Kept) -> tuple[Tensor, Tensor]:
        return step.run(step, x), kept(part(step, name), dim).repeat_interleave(times)

    return meaning


# -------------------------------------------------------------------------------------------------------- drawing


@dataclass
class Draw:
    """What a construction is drawn for.

    Attributes:
        rng: Where every choice comes from.
        shape: Shape of what it gets (batch first).
        domain: ``image``, ``signal``, ``volume``, ``tokens`` or ``features``.
        depth: How many constructions it is inside of.
    """

    rng: random.Random
    shape: tuple[int, ...]
    domain: str
    depth: int = 0

    @property
    def dim(self) -> int:
        return CHANNEL[self.domain]

    @property
    def width(self) -> int:
        return self.shape[self.dim]

    @property
    def spatial(self) -> int:
        return len(self.shape) - 2

    def pick(self, *options: Any) -> Any:
        return self.rng.choice(options)

    def chance(self, share: float = 0.5) -> bool:
        return self.rng.random() < share

    def out(self) -> int:
        return int(self.pick(4, 6, 8, 8, 12, 16))

    def need(self, fits: bool) -> None:
        if not fits:
            raise Skip

    def conv(self, i: int, o: int, k: int = 3, **options: Any) -> nn.Module:
        options.setdefault("padding", k // 2 * options.get("dilation", 1))
        return CONV[self.domain](i, o, k, **options)

    def layer(self, i: int, o: int, bias: bool = True) -> nn.Module:
        """What maps channels to channels in this domain."""
        return self.conv(i, o, 1, bias=bias) if self.domain in SPATIAL else nn.Linear(i, o, bias=bias)

    def step(self, run: Callable[..., Tensor], meaning: Reference, domain: str | None = None, **parts: Any) -> Step:
        made = Step(run, meaning, domain or self.domain, **parts)
        made.source = self.dim
        return made


Maker = Callable[[Draw], Step]
KINDS: dict[str, tuple[Maker, tuple[str, ...]]] = {}


def kind(*domains: str) -> Callable[[Maker], Maker]:
    """Registers a construction under its function's name, for the kinds of tensors that it takes."""

    def decorate(make: Maker) -> Maker:
        KINDS[make.__name__] = (make, domains)
        return make

    return decorate


def buffer(*shape: int) -> Tensor:
    return torch.randn(shape)


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape) * 0.5)
