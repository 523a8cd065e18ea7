"""Writing into a tensor by numbers: scatter and its sums, index_add and its kin, assignments ``x[i] = y``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch.fx import Node

from secateur.graph.flow import Call
from secateur.graph.labels import Labels, Vector
from secateur.graph.ops.elementwise import elementwise
from secateur.graph.ops.index import Picks, hold_numbers, picks_of
from secateur.graph.ops.routing import picked
from secateur.graph.reasons import BY_NUMBER, ELSEWHERE
from secateur.graph.rules import find, operator

if TYPE_CHECKING:
    from torch import Tensor

    from secateur.graph.masked import Masked

__all__: list[str] = []


def _first(vectors: Sequence[Vector], size: int) -> tuple[Vector, ...]:
    """Labels of the first ``size`` entries; of all, where the data decide how many they are."""
    return tuple(v[: size or None] for v in vectors)


def _tied(call: Call, index: Sequence[Vector], *entries: Sequence[Vector]) -> None:
    """Ties entries to the numbers that go with them; numbers that stay pin them, and it is said."""
    if entries and all(entries) and not index:
        size = len(entries[0][0])
        reason = f"{BY_NUMBER}, and there is a number for every entry of this dimension too"
        call.hold(reason, [Labels((size,), {0: tuple(vectors)}) for vectors in entries])
        return
    for vectors in entries:
        call.c.tie(vectors, index)


@operator("aten.scatter", "aten.scatter_add", "aten.scatter_reduce", numbers=True)
def _scatter(call: Call) -> Labels:
    """y[…, index[…, j, …], …] (⊕)= src[…, j, …]: other dimensions pass, those of the target stay.

    The index may be smaller than what it writes from and into; then it is about their first entries.
    """
    x, index, source = call["self"], call["index"], call.get("src")
    dim = call["dim"] % x.ndim if x.ndim else 0
    if not picked(call, x, dim, index):
        hold_numbers(call, x, [dim])
        call.point(ELSEWHERE)
    for d in range(index.ndim):
        parts = [x] * (d != dim) + [source] * isinstance(source, Labels)
        _tied(call, index.at(d), *(_first(part.at(d), index.shape[d]) for part in parts))
    return x  # type: ignore[no-any-return]


@operator("aten.index_add", "aten.index_copy", "aten.index_reduce", "aten.index_fill")
def _index_add(call: Call) -> Labels:
    """y[…, index[j], …] (⊕)= source[…, j, …]: other dimensions pass, that of the target stays."""
    x, index, source = call["self"], call["index"], call.get("source")
    dim = call["dim"] % x.ndim if x.ndim else 0
    hold_numbers(call, x, [dim])
    for d in range(x.ndim if isinstance(source, Labels) and source.ndim else 0):
        if d != dim:
            call.c.tie(x.at(d), source.at(d))
        else:
            _tied(call, index.at(0) if index.ndim else (), source.at(d))
    return x  # type: ignore[no-any-return]


# ------------------------------------------------------------------------------------------------- assignments


def _is_number(values: Labels) -> bool:
    return all(size == 1 for size in values.shape)


@operator("aten.index_put")
def _index_put(call: Call) -> Labels:
    """x[i, :, j] = values: entries that tensors pick stay, the other dimensions lose the same entries in both.

    A mask of the whole tensor with one number is element-wise.
    """
    x, values = call["self"], call["values"]
    picks = picks_of(call)
    whole = len(picks.masks) == 1 and next(iter(picks.masks.values())).ndim == x.ndim
    if whole and _is_number(values):
        for d in range(x.ndim):
            call.c.tie(x.at(d), next(iter(picks.masks.values())).at(d))
        return x  # type: ignore[no-any-return]
    hold_numbers(call, x, picks.dims)
    for tensor in picks.tensors:
        call.c.pin_all(tensor)
    _tie_values(call, x, values, picks)
    return x  # type: ignore[no-any-return]


def _tie_values(call: Call, x: Labels, values: Labels, picks: Picks) -> None:
    """Ties what is written to what it is written into, on the dimensions that are not picked."""
    ndim = len(picks.left) + picks.width
    places = {place: d for d, place in picks.places().items()}
    for own in range(values.ndim):
        place = own + ndim - values.ndim
        d = places.get(place)
        if d is not None and values.shape[own] == x.shape[d]:
            call.c.tie(x.at(d), values.at(own))
        else:
            call.c.pin(*values.at(own))


@operator("aten.slice_scatter", "aten.select_scatter", "aten.diagonal_scatter")
def _piece_scatter(call: Call) -> Labels:
    """A copy with a piece of it replaced: the dimension of the piece stays, the others go together."""
    x, source, name = call["self"], call["src"], str(call.node.target)
    if "diagonal" in name:
        return call.pin("where an entry is written depends on its position")  # type: ignore[no-any-return]
    dim, one = call["dim"] % x.ndim, "select" in name
    reason = "a piece of this dimension is replaced, by its position"
    call.hold(reason, [x.with_dims({dim: x.at(dim)})])
    if not one:
        call.hold(reason, [source.with_dims({dim: source.at(dim)})])
    for d in range(x.ndim):
        if d != dim:
            call.c.tie(x.at(d), source.at(d - (one and d > dim)))
    return x  # type: ignore[no-any-return]


def _by_kept_rows(m: Masked) -> Tensor:
    """Gathers the kept entries of the rows first: those that are read in order are these."""
    last = m["self"].ndim - 1
    keep = {last: m.mask("self", last)}
    mask = m["mask"] if m["mask"].shape[-1] == 1 else m.gather(m["mask"], {m["mask"].ndim - 1: keep[last]})
    source = m.gather(m["source"], {m["source"].ndim - 1: keep[last]})
    return m.scatter(m.call(self=m.gather(m["self"], keep), mask=mask, source=source), last, keep[last])


@operator("aten.masked_scatter", reference=_by_kept_rows)
def _masked_scatter(call: Call) -> Any:
    """Entries where the mask is true, in order, from a row of numbers: a mask by rows lets the last dimension go."""
    x, mask, source = call["self"], call["mask"], call["source"]
    rows = x.ndim > 0 and source.ndim > 1 and source.shape[-1] == x.shape[-1] and _by_rows(call.nodes["mask"])
    if not rows:
        return call.pin("which entries are written depends on how many come before them")
    last = x.ndim - 1
    reason = "which rows are written depends on how many come before them"
    call.hold(reason, [x.with_dims({d: v for d, v in x.dims.items() if d != last})])
    call.hold(reason, [source.with_dims({d: v for d, v in source.dims.items() if d != source.ndim - 1})])
    call.c.tie(x.at(-1), source.at(-1))
    if mask.shape[-1] == x.shape[-1]:
        call.c.tie(x.at(-1), mask.at(-1))
    return x


def _by_rows(mask: Any) -> bool:
    """Whether a mask is the same along its last dimension: that has one entry, or is spread from one."""
    while isinstance(mask, Node):
        if mask.meta["val"].shape[-1:] == (1,):
            return True
        rule = find(mask.target) if hasattr(mask.target, "_schema") else None  # type: ignore[arg-type]
        spread = getattr(mask.target, "_opname", "") in ("expand", "expand_as", "broadcast_to")
        one = rule is not None and rule.flow is elementwise and len(mask.all_input_nodes) == 1
        mask = mask.args[0] if spread or one else None
    return False
