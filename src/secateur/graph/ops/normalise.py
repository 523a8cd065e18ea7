"""Normalisations: labels are united over the normalised dimension; statistics count the kept entries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from secateur.graph.facts import Facts, Kind
from secateur.graph.flow import Call
from secateur.graph.labels import Labels
from secateur.graph.rules import operator

if TYPE_CHECKING:
    from torch import Tensor

    from secateur.graph.masked import Masked
    from secateur.graph.rewriting import Rewriter


_STATISTICS = ("running_mean", "running_var")


def _tie_vectors(call: Call, x: Labels, dim: int, *names: str) -> None:
    """Ties per-channel vectors (scale, offset, statistics) to dimension ``dim``."""
    for name in names:
        vector = call.get(name)
        if isinstance(vector, Labels):
            call.c.tie(x.at(dim), vector.at(0))


def _batch_norm_reference(m: Masked) -> Tensor:
    """Statistics of the batch (standardised weights are normalised so) run over the kept entries."""
    masks = {d: m.mask("input", d) for d in m.cut("input") - {1}}
    out = m.call(input=m.gather(m["input"], masks))
    for d, mask in masks.items():
        out = m.scatter(out, d, mask)
    return out


@operator("aten.batch_norm", reference=_batch_norm_reference,
          facts=Facts(kind=Kind.BATCH_NORM, fused=True, writes=_STATISTICS, writes_if="training"))  # fmt: skip
@operator("aten.instance_norm", reference=_batch_norm_reference,
          facts=Facts(kind=Kind.INSTANCE_NORM, writes=_STATISTICS, writes_if="use_input_stats"))  # fmt: skip
def _batch_norm(call: Call) -> Labels:
    """Per-channel statistics: nothing crosses channels."""
    x: Labels = call["input"]
    _tie_vectors(call, x, 1, "weight", "bias", "running_mean", "running_var")
    return x


@operator("aten.native_batch_norm",
          facts=Facts(kind=Kind.NATIVE_BATCH_NORM, writes=_STATISTICS, writes_if="training"))  # fmt: skip
@operator("aten._native_batch_norm_legit", "aten._native_batch_norm_legit_no_training",
          facts=Facts(kind=Kind.NATIVE_BATCH_NORM))  # fmt: skip
def _native_batch_norm(call: Call) -> list[Any]:
    x: Labels = call["input"]
    _tie_vectors(call, x, 1, "weight", "bias", "running_mean", "running_var")
    return [x, None, None]


def _layer_norm_rewrite(r: Rewriter) -> None:
    x, shape = r.node_of("input"), r["normalized_shape"]
    first = len(r.labels(x).shape) - len(shape)
    r.set("normalized_shape", [r.new_size(x, first + k) for k in range(len(shape))])


def _layer_norm_reference(m: Masked) -> Tensor:
    x, count = m["input"], len(m["normalized_shape"])
    dims = range(x.ndim - count, x.ndim)
    masks = {d: m.mask("input", d) for d in dims}
    small: dict[str, Any] = {"input": m.gather(x, masks)}
    for name in ("weight", "bias"):
        if m.get(name) is not None:
            small[name] = m.gather(m[name], {k: masks[d] for k, d in enumerate(dims)})
    small["normalized_shape"] = list(small["input"].shape[-count:])
    out = m.call(**small)
    for d in dims:
        out = m.scatter(out, d, masks[d])
    return out


@operator("aten.layer_norm", "aten.rms_norm", rewrite=_layer_norm_rewrite, reference=_layer_norm_reference,
          facts=Facts(kind=Kind.LAYER_NORM))  # fmt: skip
def _layer_norm(call: Call) -> Labels:
    """x (…, *normalized_shape) with weight and bias (*normalized_shape)."""
    x: Labels = call["input"]
    first = x.ndim - len(call["normalized_shape"])
    for name in ("weight", "bias"):
        vector = call.get(name)
        if isinstance(vector, Labels):
            for d in range(vector.ndim):
                call.c.tie(x.at(first + d), vector.at(d))
    return x


def _group_norm_rewrite(r: Rewriter) -> None:
    x = r.node_of("input")
    if r.changes(x, 1):
        r.set("num_groups", _groups_left(r.mask(x, 1), r["num_groups"]))


def _groups_left(mask: Any, groups: int) -> int:
    return int(np.asarray(mask).reshape(groups, -1).any(axis=1).sum())


def _group_norm_reference(m: Masked) -> Tensor:
    mask = m.mask("input", 1)
    small: dict[str, Any] = {"input": m.gather(m["input"], {1: mask})}
    for name in ("weight", "bias"):
        if m.get(name) is not None:
            small[name] = m.gather(m[name], {0: mask})
    small["num_groups"] = _groups_left(mask.cpu().numpy(), m["num_groups"])
    return m.scatter(m.call(**small), 1, mask)


@operator("aten.group_norm", rewrite=_group_norm_rewrite, reference=_group_norm_reference,
          facts=Facts(kind=Kind.GROUP_NORM))  # fmt: skip
def _group_norm(call: Call) -> Labels:
    """x (N, C, …): whole groups go, or the same positions in every group."""
    x: Labels = call["input"]
    if x.at(1):
        vector = call.c.single(x.at(1))
        call.c.split(vector.reshape(call["num_groups"], -1))
    _tie_vectors(call, x, 1, "weight", "bias")
    return x


# -------------------------------------------------------------------------------------------- norms of weights


@operator("aten._weight_norm")
def _weight_norm(call: Call) -> Labels:
    """w = g · v/‖v‖ with norms over all dimensions but ``dim``: removed entries are zero and count nothing.

    g has the size of v in ``dim`` and 1 elsewhere; with ``dim`` −1 it is one number.
    """
    v, g = call["v"], call["g"]
    _scaled_by(call, v, g, call.get("dim", 0))
    return v  # type: ignore[no-any-return]


@operator("aten._weight_norm_interface")
def _weight_norm_interface(call: Call) -> list[Labels]:
    v, g, dim = call["v"], call["g"], call.get("dim", 0)
    _scaled_by(call, v, g, dim)
    return [v, Labels(g.shape).with_dims({dim: v.at(dim)} if dim >= 0 else {})]


def _scaled_by(call: Call, v: Labels, g: Labels, dim: int) -> None:
    for d in range(g.ndim):
        if d == dim:
            call.c.tie(v.at(d), g.at(d))
        else:
            call.c.pin(*g.at(d))


@operator("aten.norm_except_dim")
def _norm_except_dim(call: Call) -> Labels:
    v, dim = call["v"], call.get("dim", 0)
    return Labels(call.shape).with_dims({dim: v.at(dim)} if dim >= 0 else {})
