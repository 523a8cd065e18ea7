"""The response of a convolution or linear layer at sampled places, split by input channel."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import Node

from secateur.graph.flow import Flow
from secateur.graph.ops import Kind, arguments, facts

__all__ = ["Drawn", "Splitter", "splitter"]

_CHUNK = 128
"""Positions that are taken apart at a time: the parts of all of them would be larger than the maps themselves."""


class Drawn(NamedTuple):
    """Which responses are looked at.

    Attributes:
        sample: Shape (rows,).
        at: Position, shape (rows, dimensions).
        output: Output channels, shape (rows, outputs).
    """

    sample: Tensor
    at: Tensor
    output: Tensor


@dataclass(frozen=True)
class Splitter(ABC):
    """A layer y = Σ_c x̂_c + bias.

    Attributes:
        node: The layer.
        source: What gives its input.
        weight: Its weight.
        dim: Dimension of the input that holds the channels.
    """

    node: Node
    source: Node
    weight: Tensor
    dim: int

    def draw(self, value: Tensor, sampler: np.random.Generator, positions: int, outputs: int) -> Drawn:
        """Draws the responses that are looked at: samples × positions × outputs of them.

        Every sample has its own random positions, and every position its own output channels; all of them where
        there are no more. Each sample takes the same amount of random numbers, so that batches make no difference.

        Args:
            value: Input of the layer, first dimension the samples.
            sampler: Source of randomness.
            positions: Positions per sample.
            outputs: Output channels per position.
        """
        sizes = self.sizes(value)
        count, channels = prod(sizes), self.weight.shape[0]
        where, which = min(positions, count), min(outputs, channels)
        keys = sampler.random((len(value), count + where * channels))
        position = _lowest(keys[:, :count], where).reshape(-1)
        output = _lowest(keys[:, count:].reshape(-1, channels), which)
        sample = torch.arange(len(value)).repeat_interleave(where)
        at = torch.stack(torch.unravel_index(position, sizes), 1)
        return Drawn(*(t.to(value.device) for t in (sample, at, output)))

    def rows(self, value: Tensor, sampler: np.random.Generator, positions: int, outputs: int) -> Tensor:
        """Parts of sampled responses (see :meth:`draw`) by input channel, shape (responses, channels)."""
        return self.rows_at(value, self.draw(value, sampler, positions, outputs))

    def rows_at(self, value: Tensor, drawn: Drawn) -> Tensor:
        """Parts of the drawn responses by input channel, shape (responses, channels)."""
        chunks = zip(*(torch.split(t, _CHUNK) for t in drawn), strict=True)
        ready = self.ready(value)
        return torch.cat([self.split(self.patches(ready, s, p), o) for s, p, o in chunks])

    @abstractmethod
    def pick(self, response: Tensor, drawn: Drawn) -> Tensor:
        """The drawn responses out of all of them, shape (responses,)."""

    @abstractmethod
    def sizes(self, value: Tensor) -> tuple[int, ...]:
        """Sizes of the dimensions along which the response of one sample has positions."""

    @abstractmethod
    def ready(self, value: Tensor) -> Tensor:
        """The input as :meth:`patches` takes it."""

    @abstractmethod
    def patches(self, ready: Tensor, sample: Tensor, at: Tensor) -> Tensor:
        """What the responses of ``sample`` (rows,) at positions ``at`` (rows, dimensions) are computed from.

        Shape (rows, channels, kernel).
        """

    @abstractmethod
    def split(self, patches: Tensor, output: Tensor) -> Tensor:
        """Parts of the response in channels ``output`` (rows, outputs), shape (rows × outputs, channels)."""


def _lowest(keys: NDArray[np.float64], count: int) -> Tensor:
    """Where the ``count`` lowest keys of each row are, in order of place, shape (rows, count)."""
    chosen = np.argpartition(keys, count - 1, axis=1)[:, :count] if count < keys.shape[1] else np.argsort(keys, axis=1)
    return torch.from_numpy(np.sort(chosen, axis=1))


class Linear(Splitter):
    """x (N, …, I) with weight (O, I): x̂_c = w_oc·x_c."""

    def sizes(self, value: Tensor) -> tuple[int, ...]:
        """Positions (tokens) of a sample, in one row."""
        return (prod(value.shape[1:-1]),)

    def ready(self, value: Tensor) -> Tensor:
        """Positions in one row."""
        return value.reshape(len(value), -1, value.shape[-1])

    def pick(self, response: Tensor, drawn: Drawn) -> Tensor:
        """Of (N, …, O)."""
        rows = response.reshape(len(response), -1, response.shape[-1])[drawn.sample, drawn.at[:, 0]]
        return rows.gather(1, drawn.output).flatten()

    def patches(self, ready: Tensor, sample: Tensor, at: Tensor) -> Tensor:
        """Inputs at the sampled positions."""
        return ready[sample, at[:, 0]].unsqueeze(-1)

    def split(self, patches: Tensor, output: Tensor) -> Tensor:
        """Products with the weights of the sampled outputs."""
        return (self.weight[output] * patches.squeeze(-1).unsqueeze(1)).flatten(0, 1)


@dataclass(frozen=True)
class Conv(Splitter):
    """x (N, C, …) with weight (O, C/groups, k…): x̂_c = Σ_k w_ock·x_c,position·stride+k·dilation."""

    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int

    def sizes(self, value: Tensor) -> tuple[int, ...]:
        """Output size of every spatial dimension."""
        reach = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.weight.shape[2:], strict=True)]
        return tuple(
            (size + before + after - r) // s + 1
            for size, (before, after), r, s in zip(value.shape[2:], self.padding, reach, self.stride, strict=True)
        )

    def ready(self, value: Tensor) -> Tensor:
        """The padded input."""
        return F.pad(value, [p for pair in reversed(self.padding) for p in pair])

    def pick(self, response: Tensor, drawn: Drawn) -> Tensor:
        """Of (N, O, …)."""
        rows = response.movedim(1, -1)[(drawn.sample, *drawn.at.unbind(1))]
        return rows.gather(1, drawn.output).flatten()

    def patches(self, ready: Tensor, sample: Tensor, at: Tensor) -> Tensor:
        """The input under the kernel at the sampled positions, without unfolding the whole map."""
        kernel, spatial = self.weight.shape[2:], len(self.stride)
        index: list[Any] = [sample.view(-1, *[1] * spatial), slice(None)]
        for d in range(spatial):
            offsets = torch.arange(kernel[d], device=ready.device) * self.dilation[d]
            shape = [1] * (spatial + 1)
            shape[d + 1] = kernel[d]
            index.append((at[:, d] * self.stride[d]).view(-1, *[1] * spatial) + offsets.view(shape))
        return ready[tuple(index)].movedim(-1, 1).flatten(2)  # indices come first: (rows, k…, C)

    def split(self, patches: Tensor, output: Tensor) -> Tensor:
        """Products with the kernels of the sampled outputs; a channel of another group has no part in them."""
        weight = self.weight.flatten(2)[output]  # (rows, outputs, C/groups, k)
        if self.groups == 1:
            parts: Tensor = torch.linalg.vecdot(weight, patches.unsqueeze(1))
            return parts.flatten(0, 1)
        rows, outputs, inner, _ = weight.shape
        channels = torch.arange(inner, device=output.device)
        first = torch.div(output, self.weight.shape[0] // self.groups, rounding_mode="floor") * inner
        own = first.unsqueeze(-1) + channels  # (rows, outputs, C/groups)
        seen = patches.unsqueeze(1).expand(-1, outputs, -1, -1)
        taken = seen.gather(2, own.unsqueeze(-1).expand(-1, -1, -1, patches.shape[2]))
        parts = patches.new_zeros(rows, outputs, patches.shape[1])
        return parts.scatter_(2, own, torch.linalg.vecdot(weight, taken)).flatten(0, 1)


def splitter(flow: Flow, node: Node) -> Splitter | None:
    """How the response of ``node`` is split by input channel.

    ``None`` where that is not known (transposed convolutions, products), and for a depthwise convolution: its
    channels do not meet, so it passes units on and uses none.
    """
    kind = facts(node).kind
    if kind not in (Kind.LINEAR, Kind.CONV):
        return None
    call = arguments(node)
    source, weight = call["input"], call["weight"]
    if weight.op != "get_attr":
        return None
    tensor = operator.attrgetter(str(weight.target))(flow.traced.module).detach()
    dims = source.meta["val"].ndim
    if kind is Kind.LINEAR:
        return Linear(node, source, tensor, dims - 1) if dims > 1 else None
    spatial = tensor.ndim - 2
    if dims != tensor.ndim or (call["groups"] > 1 and tensor.shape[1] == 1):
        return None
    stride, dilation = (_each(call[k], spatial) for k in ("stride", "dilation"))
    padding = _padding(call["padding"], tensor, dilation)
    return Conv(node, source, tensor, 1, stride, padding, dilation, call["groups"])


def _each(value: Any, count: int) -> tuple[int, ...]:
    found = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    return found * count if len(found) == 1 else found


def _padding(value: Any, weight: Tensor, dilation: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Padding before and after, by dimension; the words that PyTorch knows too."""
    if value == "valid":
        return ((0, 0),) * len(dilation)
    if value == "same":
        total = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        return tuple((t // 2, t - t // 2) for t in total)
    return tuple((p, p) for p in _each(value, len(dilation)))
