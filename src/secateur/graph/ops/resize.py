"""Pooling and upsampling: channels pass, positions are not pruned."""

from __future__ import annotations

from typing import Any

from secateur.graph.facts import Facts
from secateur.graph.flow import Call, unlabelled
from secateur.graph.labels import Labels, Vector
from secateur.graph.ops.elementwise import join
from secateur.graph.rules import operator

_MAXIMA = Facts(homogeneous=True, keeps_constants=True)


@operator("aten.max_pool1d", "aten.max_pool2d", "aten.max_pool3d", facts=_MAXIMA)
@operator("aten.avg_pool1d", "aten.avg_pool2d", "aten.avg_pool3d",  # zero padding counts in their means
          facts=Facts(homogeneous=True, keeps_mean=True))  # fmt: skip
@operator("aten.adaptive_avg_pool1d", "aten.adaptive_avg_pool2d", "aten.adaptive_avg_pool3d",
          "aten._adaptive_avg_pool2d",
          facts=Facts(homogeneous=True, keeps_mean=True, keeps_constants=True))  # fmt: skip
@operator("aten.upsample_nearest1d", "aten.upsample_nearest2d", "aten.upsample_nearest3d",
          "aten._upsample_nearest_exact1d", "aten._upsample_nearest_exact2d", "aten.upsample_linear1d",
          "aten.upsample_bilinear2d", "aten.upsample_trilinear3d", "aten.upsample_bicubic2d",
          "aten._upsample_bilinear2d_aa", "aten._upsample_bicubic2d_aa", "aten.reflection_pad1d",
          "aten.reflection_pad2d", "aten.reflection_pad3d", "aten.replication_pad1d", "aten.replication_pad2d",
          "aten.replication_pad3d")  # fmt: skip
def _resize(call: Call) -> Labels:
    """Positions are the trailing dimensions whose number the operator's name ends with."""
    x: Labels = call["self"] if "self" in call.values else call["input"]
    return Labels(call.shape).with_dims(_channels(call, x))


def _channels(call: Call, x: Labels) -> dict[int, tuple[Vector, ...]]:
    """Labels of what no window slides over; the rest is pinned and reported."""
    name = str(call.node.target.overloadpacket)  # type: ignore[union-attr]
    first = x.ndim - next(n for n in (1, 2, 3) if f"{n}d" in name)
    reason = "windows slide over this dimension (over channels: local_response_norm)"
    call.hold(reason, [x.with_dims({d: x.at(d) for d in range(first, x.ndim)})])
    return {d: v for d, v in x.dims.items() if d < first}


@operator("aten.max_pool2d_with_indices", "aten.adaptive_max_pool1d", "aten.adaptive_max_pool2d",
          "aten.adaptive_max_pool3d", "aten.max_pool1d_with_indices", "aten.max_pool3d_with_indices",
          facts=_MAXIMA)  # fmt: skip
def _pool_with_positions(call: Call) -> list[Any]:
    """The positions are per channel, so both results carry the channels' labels."""
    dims = _channels(call, call["self"])
    return [found.with_dims(dims) for found in unlabelled(call.node)]


@operator("aten.max_unpool2d", "aten.max_unpool3d")
def _unpool(call: Call) -> Labels:
    """Positions are per channel: values and positions lose the same channels."""
    x, where = call["self"], call["indices"]
    shape = x.shape[: x.ndim - 2]
    lead = [Labels(shape).with_dims(_channels(call, t)) for t in (x, where)]
    return Labels(call.shape).with_dims(join(call.c, lead, shape).dims)


@operator("aten.grid_sampler", "aten.grid_sampler_2d", "aten.grid_sampler_3d")
def _grid_sampler(call: Call) -> Labels:
    """x (N, C, …) read at places (N, …, 2 or 3): channels pass, places stay."""
    x, grid = call["input"], call["grid"]
    reason = "places of this dimension are told by numbers"
    for tensor, first in ((x, 2), (grid, 1)):
        call.hold(reason, [tensor.with_dims({d: tensor.at(d) for d in range(first, tensor.ndim)})])
    call.c.tie(x.at(0), grid.at(0))
    return Labels(call.shape).with_dims({d: x.at(d) for d in (0, 1)})
