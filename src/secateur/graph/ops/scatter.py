"""Writing into a tensor by numbers: scatter and its sums, index_add and its kin, assignments ``x[i] = y``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.fx import Node

from secateur.graph.flow import Call
from secateur.graph.labels import Labels, Vector
from secateur.graph.ops.elementwise import elementwise
from secateur.graph.ops.index import NUMBERS, Picks, hold_numbers, picks_of
from secateur.graph.rules import find, operator

__all__: list[str] = []


def _first(vectors: Sequence[Vector], size: int) -> tuple[Vector, ...]:
    """Labels of the first ``size`` entries; of all, where the data decide how many they are."""
    return tuple(v[: size or None] for v in vectors)


def _tied(call: Call, one: Sequence[Vector], index: Sequence[Vector]) -> None:
    """Ties entries to the numbers that go with them; numbers whose entries nobody follows pin them, and it is said."""
    if one and not index:
        size = len(one[0])
        call.hold(f"{NUMBERS}, one for every entry of this dimension too", [Labels((size,), {0: tuple(one)})])
    else:
        call.c.tie(one, index)


@operator("aten.scatter", "aten.scatter_add", "aten.scatter_reduce")
def _scatter(call: Call) -> Labels:
    """y[…, index[…, j, …], …] (⊕)= src[…, j, …]: other dimensions pass, those of the target stay.

    The index may be smaller than what it writes from and into; then it is about their first entries.
    """
    x, index, source = call["self"], call["index"], call.get("src")
    dim = call["dim"] % x.ndim if x.ndim else 0
    _hold(call, x, [dim])
    for d in range(index.ndim):
        size = index.shape[d]
        if d != dim:
            _tied(call, _first(x.at(d), size), index.at(d))
        if isinstance(source, Labels):
            _tied(call, _first(source.at(d), size), index.at(d))
    return x  # type: ignore[no-any-return]


def _hold(call: Call, x: Labels, dims: Sequence[int]) -> None:
    hold_numbers(call, x, dims)


@operator("aten.index_add", "aten.index_copy", "aten.index_reduce", "aten.index_fill")
def _index_add(call: Call) -> Labels:
    """y[…, index[j], …] (⊕)= source[…, j, …]: other dimensions pass, that of the target stays."""
    x, index, source = call["self"], call["index"], call.get("source")
    dim = call["dim"] % x.ndim if x.ndim else 0
    _hold(call, x, [dim])
    for d in range(x.ndim if isinstance(source, Labels) and source.ndim else 0):
        if d != dim:
            call.c.tie(x.at(d), source.at(d))
        else:
            _tied(call, source.at(d), index.at(0) if index.ndim else ())
    return x  # type: ignore[no-any-return]


# ------------------------------------------------------------------------------------------------- assignments


def _is_number(values: Labels) -> bool:
    return all(size == 1 for size in values.shape)


@operator("aten.index_put", "aten._index_put_impl")
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
    _hold(call, x, picks.dims)
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


@operator("aten.masked_scatter")
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
