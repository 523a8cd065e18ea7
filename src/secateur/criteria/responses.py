"""The response of a convolution or linear layer at sampled places, split by input channel."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx import Node

from secateur.graph.flow import Call, Flow

__all__ = ["Splitter", "splitter"]

_CHUNK = 128
"""Positions that are taken apart at a time: the parts of all of them would be larger than the maps themselves."""


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

    def rows(self, value: Tensor, sampler: np.random.Generator, positions: int, outputs: int) -> Tensor:
        """Parts of sampled responses by input channel, shape (samples × positions × outputs, channels).

        Every sample has its own random positions, and every position its own output channels; all of them where
        there are no more. Numbers are drawn sample by sample, so that batches make no difference.

        Args:
            value: Input of the layer, first dimension the samples.
            sampler: Source of randomness.
            positions: Positions per sample.
            outputs: Output channels per position.
        """
        count, channels = self.places(value), self.weight.shape[0]
        where, which = min(positions, count), min(outputs, channels)
        drawn = [
            (_draw(sampler, count, where), np.stack([_draw(sampler, channels, which) for _ in range(where)]))
            for _ in range(len(value))
        ]
        sample = torch.arange(len(value)).repeat_interleave(where)
        position = torch.from_numpy(np.concatenate([p for p, _ in drawn]))
        output = torch.from_numpy(np.concatenate([o for _, o in drawn]))
        chunks = zip(*(torch.split(t.to(value.device), _CHUNK) for t in (sample, position, output)), strict=True)
        return torch.cat([self.split(self.patches(value, s, p), o) for s, p, o in chunks])

    @abstractmethod
    def places(self, value: Tensor) -> int:
        """How many positions the response has per sample."""

    @abstractmethod
    def patches(self, value: Tensor, sample: Tensor, position: Tensor) -> Tensor:
        """What the response at ``position`` of ``sample`` is computed from, shape (rows, channels, kernel)."""

    @abstractmethod
    def split(self, patches: Tensor, output: Tensor) -> Tensor:
        """Parts of the response in channels ``output`` (rows, outputs), shape (rows × outputs, channels)."""


def _draw(sampler: np.random.Generator, count: int, wanted: int) -> Any:
    return np.arange(count) if wanted == count else np.sort(sampler.choice(count, wanted, replace=False))


class Linear(Splitter):
    """x (N, …, I) with weight (O, I): x̂_c = w_oc·x_c."""

    def places(self, value: Tensor) -> int:
        """Positions (tokens) per sample."""
        return prod(value.shape[1:-1])

    def patches(self, value: Tensor, sample: Tensor, position: Tensor) -> Tensor:
        """Inputs at the sampled positions."""
        return value.reshape(len(value), -1, value.shape[-1])[sample, position].unsqueeze(-1)

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

    def _sizes(self, value: Tensor) -> list[int]:
        """Output size of every spatial dimension."""
        reach = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.weight.shape[2:], strict=True)]
        return [
            (size + before + after - r) // s + 1
            for size, (before, after), r, s in zip(value.shape[2:], self.padding, reach, self.stride, strict=True)
        ]

    def places(self, value: Tensor) -> int:
        """Positions of the output map."""
        return prod(self._sizes(value))

    def patches(self, value: Tensor, sample: Tensor, position: Tensor) -> Tensor:
        """The input under the kernel at the sampled positions, without unfolding the whole map."""
        padded = F.pad(value, [p for pair in reversed(self.padding) for p in pair])
        kernel, spatial = self.weight.shape[2:], len(self.stride)
        at = torch.stack(torch.unravel_index(position, self._sizes(value)))
        index: list[Any] = [sample.view(-1, *[1] * spatial), slice(None)]
        for d in range(spatial):
            offsets = torch.arange(kernel[d], device=value.device) * self.dilation[d]
            shape = [1] * (spatial + 1)
            shape[d + 1] = kernel[d]
            index.append((at[d] * self.stride[d]).view(-1, *[1] * spatial) + offsets.view(shape))
        return padded[tuple(index)].movedim(-1, 1).flatten(2)  # indices come first: (rows, k…, C)

    def split(self, patches: Tensor, output: Tensor) -> Tensor:
        """Products with the kernels of the sampled outputs; a channel of another group has no part in them."""
        weight = self.weight.flatten(2)[output]  # (rows, outputs, C/groups, k)
        if self.groups == 1:
            return torch.linalg.vecdot(weight, patches.unsqueeze(1)).flatten(0, 1)
        rows, outputs, inner, _ = weight.shape
        channels = torch.arange(inner, device=output.device)
        first = torch.div(output, self.weight.shape[0] // self.groups, rounding_mode="floor") * inner
        own = first.unsqueeze(-1) + channels  # (rows, outputs, C/groups)
        seen = patches.unsqueeze(1).expand(-1, outputs, -1, -1)
        taken = seen.gather(2, own.unsqueeze(-1).expand(-1, -1, -1, patches.shape[2]))
        parts = patches.new_zeros(rows, outputs, patches.shape[1])
        return parts.scatter_(2, own, (weight * taken).sum(-1)).flatten(0, 1)


def splitter(flow: Flow, node: Node) -> Splitter | None:
    """How the response of ``node`` is split by input channel.

    ``None`` where that is not known (transposed convolutions, products), and for a depthwise convolution: its
    channels do not meet, so it passes units on and uses none.
    """
    name = str(getattr(node.target, "overloadpacket", ""))
    if name not in ("aten.linear", "aten.conv1d", "aten.conv2d", "aten.conv3d"):
        return None
    arguments = Call(flow, node).nodes
    source, weight = arguments["input"], arguments["weight"]
    if weight.op != "get_attr":
        return None
    tensor = operator.attrgetter(str(weight.target))(flow.traced.module).detach()
    dims = source.meta["val"].ndim
    if name == "aten.linear":
        return Linear(node, source, tensor, dims - 1) if dims > 1 else None
    spatial = tensor.ndim - 2
    if dims != tensor.ndim or (arguments["groups"] > 1 and tensor.shape[1] == 1):
        return None
    stride, dilation = (_each(arguments[k], spatial) for k in ("stride", "dilation"))
    padding = _padding(arguments["padding"], tensor, dilation)
    return Conv(node, source, tensor, 1, stride, padding, dilation, arguments["groups"])


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
