"""Reductions: over a labelled dimension they run over the entries that are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from secateur.graph.flow import Call
from secateur.graph.labels import Labels
from secateur.ops import operator

if TYPE_CHECKING:
    from torch import Tensor

    from secateur.surgery.reference import Masked


def _on_kept(m: Masked) -> Tensor:
    """Gathers the kept entries of the reduced dimensions first: mean, variance and extrema count those alone."""
    x = m["self"]
    dims = m.dims("dim") if "dim" in m.names else list(range(x.ndim))
    return m.call(self=m.gather(x, {d: m.mask("self", d) for d in dims}))


def _scattered(m: Masked) -> Tensor:
    """The same for operators that keep the dimension: removed entries come out as zeros."""
    dim = m["dim"] % m["self"].ndim
    mask = m.mask("self", dim)
    return m.scatter(m.call(self=m.gather(m["self"], {dim: mask})), dim, mask)


@operator("aten.mean", "aten.sum", "aten.amax", "aten.amin", "aten.var", "aten.std", "aten.logsumexp", "aten.prod",
          "aten.norm", "aten.linalg_vector_norm", "aten.any", "aten.all", "aten.count_nonzero", "aten.nansum",
          reference=_on_kept)  # fmt: skip
def _reduce(call: Call) -> Labels | Any:
    x: Labels = call["self"]
    dims = set(call.dims() if "dim" in call.values else range(x.ndim))
    if "dim" in call.values and call.get("dim") is None:
        dims = set(range(x.ndim))
    keepdim = bool(call.get("keepdim", False))
    left = {d: v for d, v in x.dims.items() if d not in dims}
    if not keepdim:
        left = {d - sum(r < d for r in dims): v for d, v in left.items()}
    return Labels(call.shape).with_dims(left)


@operator("aten.softmax", "aten.log_softmax", "aten._softmax", "aten._log_softmax", "aten.softmin",
          reference=_scattered)  # fmt: skip
def _softmax(call: Call) -> Labels:
    """Runs over the kept entries of its dimension."""
    return call["self"]  # type: ignore[no-any-return]


@operator("aten.cumsum")
def _cumsum(call: Call) -> Labels:
    """Σ over what comes before: removed entries count nothing, so every kept entry keeps its value."""
    return call["self"]  # type: ignore[no-any-return]


@operator("aten.glu")
def _glu(call: Call) -> Labels:
    """First half × σ(second half): both halves lose the same entries."""
    x: Labels = call["self"]
    dim = call["dim"] % x.ndim
    half = x.shape[dim] // 2
    dims = dict(x.dims)
    if x.at(dim):
        vector = call.c.single(x.at(dim))
        call.c.unite(vector[:half], vector[half:])
        dims[dim] = (vector[:half],)
    return Labels(call.shape).with_dims(dims)
