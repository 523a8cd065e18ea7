"""Fake quantisation: values are rounded entry by entry; scales, zero points and ranges follow their channels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from secateur.graph.facts import Facts, Kind
from secateur.graph.flow import Call
from secateur.graph.labels import Labels
from secateur.graph.rules import operator

if TYPE_CHECKING:
    from torch import Tensor

    from secateur.graph.masked import Masked

_PARAMETERS = ("scale", "zero_point", "running_min", "running_max")
"""Arguments that hold one number for all entries, or one for each channel."""

_SEVERAL = {"aten._fused_moving_avg_obs_fq_helper"}
"""What gives a second result, of the same shape: which entries were not clamped."""


def _reference(m: Masked) -> Tensor:
    """What is observed, and what 0 becomes, are those of the kept entries; the removed ones stay zero."""
    x = m["self"]
    masks = {d: m.mask("self", d) for d in range(x.ndim) if d in m.cut("self")}
    small: dict[str, Any] = {"self": m.gather(x, masks)}
    axis = _axis(m.values, x.ndim)
    if axis in masks:
        small |= {n: m.gather(m[n], {0: masks[axis]}) for n in _PARAMETERS if _by_channel(m.get(n), x, axis)}
    out: Any = m.call(**small)
    several = isinstance(out, (tuple, list))
    found = []
    for value in out if several else (out,):
        for d, mask in masks.items():
            value = m.scatter(value, d, mask)
        found.append(value)
    return found if several else found[0]  # type: ignore[return-value]


def _axis(values: Any, ndim: int) -> int | None:
    """The dimension of the channels; ``None`` where there is one scale for all."""
    axis, rows = values.get("axis", values.get("ch_axis")), values.get("per_row_fake_quant", True)
    return None if axis is None or not rows or not ndim else int(axis) % ndim


def _by_channel(value: Any, x: Any, axis: int) -> bool:
    return value is not None and value.ndim == 1 and value.shape[0] == x.shape[axis]


_FACTS = Facts(kind=Kind.FAKE_QUANTISE, values=_PARAMETERS)


@operator("aten.fake_quantize_per_tensor_affine", "aten.fake_quantize_per_channel_affine",
          "aten._fake_quantize_learnable_per_tensor_affine", "aten._fake_quantize_learnable_per_channel_affine",
          "aten.fused_moving_avg_obs_fake_quant", "aten._fused_moving_avg_obs_fq_helper",
          reference=_reference, facts=_FACTS)  # fmt: skip
def _fake_quantise(call: Call) -> Any:
    """(clamp(round(x / scale) + zero_point, quant_min, quant_max) − zero_point) · scale, entry by entry."""
    x: Labels = call["self"]
    axis = _axis(call.values, x.ndim)
    for name in _PARAMETERS:
        value = call.get(name)
        if isinstance(value, Labels) and axis is not None and _by_channel(value, x, axis):
            call.c.tie(x.at(axis), value.at(0))
        elif isinstance(value, Labels):
            call.c.pin_all(value)
    return [x, x] if str(call.node.target.overloadpacket) in _SEVERAL else x  # type: ignore[union-attr]
