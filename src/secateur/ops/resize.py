"""Pooling and upsampling: channels pass, positions are not pruned."""

from __future__ import annotations

from typing import Any

from secateur.graph.flow import Call
from secateur.graph.labels import Labels
from secateur.ops import operator


@operator("aten.max_pool1d", "aten.max_pool2d", "aten.max_pool3d", "aten.avg_pool1d", "aten.avg_pool2d",
          "aten.avg_pool3d", "aten.adaptive_avg_pool1d", "aten.adaptive_avg_pool2d", "aten.adaptive_avg_pool3d",
          "aten._adaptive_avg_pool2d", "aten.upsample_nearest1d", "aten.upsample_nearest2d",
          "aten.upsample_nearest3d", "aten._upsample_nearest_exact1d", "aten._upsample_nearest_exact2d",
          "aten.upsample_linear1d", "aten.upsample_bilinear2d", "aten.upsample_trilinear3d",
          "aten.upsample_bicubic2d", "aten._upsample_bilinear2d_aa", "aten._upsample_bicubic2d_aa",
          "aten.reflection_pad1d", "aten.reflection_pad2d", "aten.replication_pad1d",
          "aten.replication_pad2d")  # fmt: skip
def _resize(call: Call) -> Labels:
    """Positions are the trailing dimensions whose number the operator's name ends with."""
    x: Labels = call["self"] if "self" in call.values else call["input"]
    name = str(call.node.target)
    spatial = next(n for n in (1, 2, 3) if f"{n}d" in name)
    first = x.ndim - spatial
    for d in range(first, x.ndim):
        call.c.pin(*x.at(d))
    return Labels(call.shape).with_dims({d: v for d, v in x.dims.items() if d < first})


@operator("aten.max_pool2d_with_indices", "aten.adaptive_max_pool1d", "aten.adaptive_max_pool2d",
          "aten.max_pool1d_with_indices")  # fmt: skip
def _pool_with_positions(call: Call) -> list[Any]:
    """The positions are per channel, so both results carry the channels' labels."""
    values = call.node.meta["val"]
    x: Labels = call["self"]
    first = x.ndim - (1 if "1d" in str(call.node.target) else 2)
    for d in range(first, x.ndim):
        call.c.pin(*x.at(d))
    dims = {d: v for d, v in x.dims.items() if d < first}
    return [
        Labels(tuple(int(getattr(getattr(s, "node", None), "hint", s)) for s in v.shape)).with_dims(dims)
        for v in values
    ]
