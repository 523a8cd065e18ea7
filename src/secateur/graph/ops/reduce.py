"""Reductions: over a labelled dimension they run over the entries that are kept."""

from __future__ import annotations

import operator as operator_of
from typing import TYPE_CHECKING, Any

from torch import Tensor

from secateur.graph.facts import Facts, Kind
from secateur.graph.flow import Call, unlabelled
from secateur.graph.labels import Labels, Vector
from secateur.graph.ops.elementwise import join
from secateur.graph.reasons import ORDER
from secateur.graph.rules import operator

if TYPE_CHECKING:
    from secateur.graph.masked import Masked


def on_kept(m: Masked) -> Tensor:
    """Gathers the kept entries of the reduced dimensions first: mean, variance and extrema count those alone."""
    if "other" in m.names:  # the larger of two tensors, entry by entry
        return m.call()
    x = m["self"]
    dims = m.dims("dim") if "dim" in m.names else list(range(x.ndim))
    return m.call(self=m.gather(x, {d: m.mask("self", d) for d in dims}))


def _scattered(m: Masked) -> Any:
    """The same for operators that keep the dimension: removed entries come out as zeros."""
    dim = m["dim"] % m["self"].ndim
    mask = m.mask("self", dim)
    found = m.call(self=m.gather(m["self"], {dim: mask}))
    if isinstance(found, Tensor):
        return m.scatter(found, dim, mask)
    return [m.scatter(each, dim, mask) for each in found]


@operator("aten.mean", reference=on_kept,
          facts=Facts(kind=Kind.REDUCE, homogeneous=True, keeps_mean=True, keeps_constants=True))  # fmt: skip
@operator("aten.sum", "aten.amax", "aten.amin", "aten.var", "aten.std", "aten.logsumexp", "aten.prod",
          "aten.norm", "aten.linalg_vector_norm", "aten.any", "aten.all", "aten.count_nonzero", "aten.nansum",
          "aten.nanmean",
          reference=on_kept, facts=Facts(kind=Kind.REDUCE))  # fmt: skip
def _reduce(call: Call) -> Labels | Any:
    _at_least_two(call)
    return Labels(call.shape).with_dims(_left(call))


def _at_least_two(call: Call) -> None:
    """A deviation that divides by the number of entries less one needs more than that."""
    correction = call.get("correction", 1 if call.get("unbiased", False) else 0)
    x: Labels = call["self"]
    dims = call.dims() if "dim" in call.values else list(range(x.ndim))
    if correction != 0 and len(dims) == 1 and x.at(dims[0]):
        call.c.at_least(call.c.single(x.at(dims[0])), int(1 if correction is None else correction) + 1)


def _left(call: Call) -> dict[int, tuple[Vector, ...]]:
    """Labels of the dimensions that are not reduced, where they stand in the result."""
    x: Labels = call["self"]
    dims = set(call.dims())
    left = {d: v for d, v in x.dims.items() if d not in dims}
    if not call.get("keepdim", False):
        left = {d - sum(r < d for r in dims): v for d, v in left.items()}
    return left


@operator("aten.var_mean", "aten.std_mean", "aten.aminmax", reference=on_kept, facts=Facts(kind=Kind.REDUCE))
def _two_reductions(call: Call) -> list[Labels]:
    _at_least_two(call)
    return [found.with_dims(_left(call)) for found in unlabelled(call.node)]


@operator("aten.max", "aten.min", "aten.median", "aten.nanmedian", reference=on_kept,
          facts=Facts(kind=Kind.REDUCE))  # fmt: skip
def _extremum(call: Call) -> Any:
    """Of two tensors, of all entries, or along a dimension; positions along a cut dimension change their meaning."""
    if isinstance(call.get("other"), Labels):
        return join(call.c, call.tensors, call.shape)
    if "dim" not in call.values:
        return Labels(call.shape)
    _hold_positions(call)
    return [found.with_dims(_left(call)) for found in unlabelled(call.node)]


def _hold_positions(call: Call) -> None:
    """Pins the dimension along which positions are told, where somebody uses these."""
    used = [user for user in call.node.users if user.users]
    if any(user.target is not operator_of.getitem or user.args[1] != 0 for user in used):
        x = call["self"]
        dim = call.dims()[0] if x.ndim else 0
        call.hold("the position of an extremum changes when entries go", [x.with_dims({dim: x.at(dim)})])


@operator("aten.cummax", "aten.cummin", reference=_scattered, facts=Facts(kind=Kind.SCAN))
def _running_extremum(call: Call) -> Any:
    """Extrema of what comes before, of the kept entries; positions along a cut dimension change their meaning."""
    _hold_positions(call)
    return [call["self"], call["self"]]


@operator("aten.kthvalue", "aten.mode", "aten.argsort", "aten.msort", "aten.argmax", "aten.argmin")
def _by_order(call: Call) -> Any:
    """What comes where depends on all entries of the dimension: it stays, the others pass."""
    x: Labels = call["self"]
    dims = [0] if "dim" not in call.values and x.ndim else call.dims()
    call.hold(ORDER, [x.with_dims({d: x.at(d) for d in dims})])
    kept = {d: v for d, v in x.dims.items() if d not in dims}

    def labelled(found: Labels) -> Labels:
        gone = len(dims) if found.ndim < x.ndim else 0
        return found.with_dims({d - (sum(g < d for g in dims) if gone else 0): v for d, v in kept.items()})

    found = unlabelled(call.node)
    return [labelled(each) for each in found] if isinstance(found, list) else labelled(found)


@operator("aten.quantile", "aten.nanquantile", reference=on_kept, facts=Facts(kind=Kind.REDUCE))
def _quantile(call: Call) -> Labels:
    """Over the kept entries; several quantiles come first, in a dimension of their own."""
    q = call["q"]
    several = isinstance(q, Labels) and q.ndim > 0
    if isinstance(q, Labels):
        call.c.pin_all(q)
    return Labels(call.shape).with_dims({d + several: v for d, v in _left(call).items()})


@operator("aten.softmax", "aten.log_softmax", "aten._softmax", "aten._log_softmax",
          reference=_scattered, facts=Facts(kind=Kind.SOFTMAX))  # fmt: skip
def _softmax(call: Call) -> Labels:
    """Runs over the kept entries of its dimension."""
    return call["self"]  # type: ignore[no-any-return]


@operator("aten.cumprod", "aten.logcumsumexp", reference=_scattered, facts=Facts(kind=Kind.SCAN))
def _cumulative(call: Call) -> Labels:
    """Products and exponential sums over what comes before, of the kept entries."""
    return call["self"]  # type: ignore[no-any-return]


@operator("aten.cumsum", facts=Facts(kind=Kind.SCAN))
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
