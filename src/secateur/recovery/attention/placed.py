"""An attention's queries, keys and logits of one batch, head by head, in the dense and in the pruned network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from secateur.graph.facts import Kind
from secateur.graph.ops import facts
from secateur.graph.schema import arguments, plain_name
from secateur.recovery.attention.ahead import Ahead
from secateur.recovery.attention.find import Attention
from secateur.recovery.attention.operands import Operand, Unrepaired

__all__ = ["FLOOR", "MASKED", "Placed", "View", "full"]

PIECE = 1 << 22
"""Logits that are looked at at a time; of one sample with more of them, some of the queries are."""

MASKED, FLOOR = 1e3, -1e30
"""An entry whose bias is so far below the largest of its row is masked; no bias is smaller than the second number."""


def full(values: Tensor) -> Tensor:
    """The same in single precision where they are in half."""
    return values if values.dtype in (torch.float32, torch.float64) else values.float()


@dataclass(frozen=True)
class Placed:
    """Where the vectors of an operand come from: head h, instance n (a sample, or a window of one), position l.

    Attributes:
        rows: Row of the layer's outputs, (H, n, L).
        channels: Output channels of the layer, (H, d).
        mix: What is done to every vector, (n or 1, L, d, d); ``None`` if nothing.
        scale: What all vectors are multiplied by.
    """

    rows: Tensor
    channels: Tensor
    mix: Tensor | None
    scale: float

    def taken(self, outputs: Tensor) -> Tensor:
        """Vectors (H, n, L, d) out of the layer's outputs (rows, channels), before they are mixed and scaled."""
        return outputs[self.rows[..., None], self.channels[:, None, None, :]]


class View:
    """One network's attention on one batch.

    Args:
        attention: In the dense graph.
        ahead: Values of the network.
        copy: A dense operator's place in the network's graph.
        numbers: The head of every output channel of the layer that the queries come out of, 0 … H − 1.
    """

    def __init__(
        self, attention: Attention, ahead: Ahead, copy: Callable[[Node], Node], numbers: Mapping[int, int]
    ) -> None:
        """Finds the heads."""
        self._attention, self._ahead, self._copy = attention, ahead, copy
        q, k = (self._found(side) for side in (attention.query, attention.key))
        self._repeat = self._times(q[0].shape, k[0].shape)
        k = self._repeated(k[0]), self._repeated(k[1]), None if k[2] is None else self._repeated(k[2])
        self._lead: tuple[int, ...] = np.broadcast_shapes(tuple(q[0].shape[:-1]), tuple(k[0].shape[:-1]))
        owner = self._flat(q[1], 1)[:, 0]
        self._order = self._by_head(owner.tolist(), numbers)
        self.stride = -(-len(self._order) * q[0].shape[-1] * k[0].shape[-1] // PIECE)
        self.query, self.key = (self._placed(s, *f) for s, f in ((attention.query, q), (attention.key, k)))
        self.scale, self._bias = self._affine()

    @staticmethod
    def _by_head(channels: Sequence[int], numbers: Mapping[int, int]) -> Tensor:
        """Which products belong to every head, (H, n); those of heads that went are left out."""
        heads = torch.tensor([numbers.get(c, -1) for c in channels])
        count = len(set(numbers.values()))
        own = heads.argsort(stable=True)[int((heads < 0).sum()) :]
        if len(own) % count or (heads[own].reshape(count, -1) != torch.arange(count)[:, None]).any():
            raise Unrepaired("its heads are not the same in every sample")
        return own.reshape(count, -1)

    # ------------------------------------------------------------------------------------------ vectors

    def outputs(self, side: Operand) -> Tensor:
        """What the layer gives, (rows, channels)."""
        value: Tensor = self._ahead.get(self._copy(side.projection.node))
        return value.reshape(-1, value.shape[-1])

    def inputs(self, side: Operand) -> Tensor:
        """What the layer is given, (rows, channels)."""
        value: Tensor = self._ahead.get(self._copy(side.projection.input))
        return value.reshape(-1, value.shape[-1])

    def _found(self, side: Operand) -> tuple[Tensor, Tensor, Tensor | None]:
        """Rows (…, L), channels (…, L, d) and, where they are mixed, numbers of the vectors (…, L)."""
        start = self._copy(side.projection.node)
        shape = self._ahead.get(start).shape
        rows, channels = self._numbered(side.gather, start, shape, side.scale)
        if not side.mix:
            rows, channels = self._straight(rows, side), self._straight(channels, side)
            return rows[..., 0], channels, None
        vectors, places = self._numbered(side.spread, self._copy(side.mix[-1]), rows.shape, 1.0)
        vectors, places = self._straight(vectors, side)[..., 0], self._straight(places, side)
        size = rows.shape[-1]
        if (places != torch.arange(size, device=places.device)).any():
            raise Unrepaired("its heads are turned inside out")
        return rows.reshape(-1, size)[vectors][..., 0], channels.reshape(-1, size)[vectors], vectors

    def _numbered(self, path: Sequence[Node], source: Node, shape: Sequence[int], scale: float) -> list[Tensor]:
        """Where the entries of the end of ``path`` stood in ``source``: number of the vector, place in it."""
        device = self._device
        last = torch.arange(shape[-1], dtype=torch.float64, device=device).expand(*shape)
        count = last.numel() // shape[-1]
        lead = torch.arange(count, dtype=torch.float64, device=device).reshape(*shape[:-1], 1).expand(*shape)
        steps = [self._copy(n) for n in path]
        return [(self._ahead.through(steps, source, v) / scale).round().long() for v in (lead, last)]

    @staticmethod
    def _straight(value: Tensor, side: Operand) -> Tensor:
        return value.mT if side.transposed else value

    def _times(self, query: Sequence[int], key: Sequence[int]) -> int:
        shared = arguments(self._attention.product).get("enable_gqa")
        return query[-2] // key[-2] if shared and key[-2] != query[-2] else 1

    def _repeated(self, value: Tensor) -> Tensor:
        """Keys once for every query head; of (…, heads, L) and (…, heads, L, d)."""
        if self._repeat == 1:
            return value
        return value.repeat_interleave(self._repeat, -2 if value.ndim == self._key_dims else -3)

    @property
    def _device(self) -> torch.device:
        found: torch.device = self._ahead.get(self._copy(self._attention.first)).device
        return found

    @cached_property
    def _key_dims(self) -> int:
        side = self._attention.key
        dims: int = self._ahead.get(self._copy(side.node)).ndim
        return dims - 1

    def _flat(self, value: Tensor, own: int) -> Tensor:
        """Leading dimensions as one; ``own`` is how many there are behind positions and before that."""
        tail = value.shape[value.ndim - 1 - own :]
        return value.expand(*self._lead, *tail).reshape(-1, *tail)[:, 0] if own == 1 else self._all(value)

    def _all(self, value: Tensor) -> Tensor:
        return value.expand(*self._lead, value.shape[-1]).reshape(-1, value.shape[-1])

    def _sorted(self, value: Tensor) -> Tensor:
        """(E, …) as (H, n, …)."""
        return value[self._order]

    def _placed(self, side: Operand, rows: Tensor, channels: Tensor, vectors: Tensor | None) -> Placed:
        own = self._sorted(self._flat(channels, 1))
        if (own != own[:, :1]).any():
            raise Unrepaired("its heads are not the same in every sample")
        some = self._some(side)
        mix = None if vectors is None else self._mix(side, self._sorted(self._all(vectors))[..., some])
        return Placed(self._sorted(self._all(rows))[..., some], own[:, 0], mix, side.scale)

    def _some(self, side: Operand) -> slice:
        """Which positions are looked at: all keys, and as many queries as there is room for."""
        return slice(None, None, self.stride if side is self._attention.query else 1)

    def _mix(self, side: Operand, vectors: Tensor) -> Tensor:
        """The matrices that vectors are multiplied by: what becomes of every unit vector."""
        like = self._ahead.get(self._copy(side.vectors))
        shape, steps = like.shape, [self._copy(n) for n in side.mix]
        columns = []
        for unit in torch.eye(shape[-1], dtype=like.dtype, device=like.device):
            made = self._ahead.through(steps, self._copy(side.vectors), unit.expand(*shape))
            column = made.reshape(-1, shape[-1])[vectors]
            if not torch.equal(column, column[:1].expand_as(column)):
                raise Unrepaired("its heads are turned in different ways")
            columns.append(column[0])
        found = torch.stack(columns, -1)
        return found[:1] if torch.equal(found, found[:1].expand_as(found)) else found

    # ------------------------------------------------------------------------------------------- logits

    def pieces(self) -> list[slice]:
        """Instances that are looked at at a time."""
        heads, count, queries = self.query.rows.shape
        many = max(1, PIECE // (heads * queries * self.key.rows.shape[-1]))
        return [slice(k, min(k + many, count)) for k in range(0, count, many)]

    def logits(self, some: slice) -> Tensor:
        """scale · Q·Kᵀ of some instances, (H, n, L, S), in single precision at least."""
        query, key = (full(self._operand(side, some)) for side in (self._attention.query, self._attention.key))
        return self.scale * query @ key.mT

    def _operand(self, side: Operand, some: slice) -> Tensor:
        """Vectors as they are multiplied, (H, n, L, d)."""
        value = self._straight(self._ahead.get(self._copy(side.node)), side)
        if side is self._attention.key and self._repeat > 1:
            value = value.repeat_interleave(self._repeat, -3)
        return self._picked(value[..., self._some(side), :], some)

    def bias(self, some: slice) -> Tensor:
        """What is added to the logits of some instances, (H, n, L, S); masked entries are very small."""
        return self._picked(full(self._bias), some).clamp_min(FLOOR)

    def free(self, some: slice) -> Tensor:
        """Which logits of some instances are not masked, (H, n, L, S)."""
        bias = self.bias(some)
        return (bias > bias.amax(-1, keepdim=True) - MASKED) & (bias > FLOOR)

    def _picked(self, value: Tensor, some: slice) -> Tensor:
        """Some instances of (…, a, b), the leading dimensions stretched as those of the products, as (H, n, a, b)."""
        whole = value.expand(*self._lead, *value.shape[-2:])
        at = torch.unravel_index(self._order[:, some].to(value.device), self._lead)
        return whole[at]

    def _affine(self) -> tuple[float, Tensor]:
        """What the products are multiplied by, and what is added to them, (…, L, S)."""
        product = self._copy(self._attention.product)
        fused = facts(product).kind is Kind.ATTENTION
        scale, bias = self._fused(product) if fused else self._spelled(product)
        return scale, bias[..., :: self.stride, :] if bias.shape[-2] > 1 else bias.expand(
            *bias.shape[:-2], self.query.rows.shape[-1], bias.shape[-1]
        )

    def _sizes(self) -> tuple[int, int]:
        return tuple(self._straight(self._ahead.get(self._copy(s.node)), s).shape[-2] for s in self._sides)  # type: ignore[return-value]

    @property
    def _sides(self) -> tuple[Operand, Operand]:
        return self._attention.query, self._attention.key

    def _fused(self, product: Node) -> tuple[float, Tensor]:
        call, sizes = arguments(product), self._sizes()
        like = self.outputs(self._attention.query)
        bias = like.new_zeros(sizes) if call.get("attn_mask") is None else self._ahead.get(call["attn_mask"])
        if bias.dtype == torch.bool:
            bias = like.new_zeros(bias.shape).masked_fill(~bias, -torch.inf)
        if call.get("is_causal"):
            bias = bias + torch.full_like(like.new_zeros(sizes), -torch.inf).triu(1)
        size = self.query.channels.shape[-1]
        scale = float(size**-0.5 if call.get("scale") is None else call["scale"])
        return scale, bias.expand(*bias.shape[:-2], *sizes) if bias.ndim > 1 else bias.expand(sizes)

    def _spelled(self, product: Node) -> tuple[float, Tensor]:
        """By what becomes of products that are all 0, and all 1."""
        start, own = self.outputs(self._attention.query).new_zeros((*self._lead, *self._sizes())), 1.0
        if plain_name(product.target) == "aten.baddbmm":
            call = arguments(product)
            start, own = start + float(call["beta"]) * self._ahead.get(call["self"]), float(call["alpha"])
        steps = [self._copy(n) for n in self._attention.path]
        bias, more = (self._ahead.through(steps, product, start + k) for k in (0.0, 1.0))
        free = bias > bias.amax(-1, keepdim=True) - MASKED
        slopes = (more - bias)[free]
        if not slopes.numel() or (slopes - slopes.mean()).abs().max() > 1e-3 * slopes.mean().abs():
            raise Unrepaired("what is done to its logits is more than a scale and a bias")
        return own * float(slopes.double().mean()), bias
