"""Mixtures of experts: a router's largest scores say by number which experts a token goes to.

The numbers point at entries of a dimension (``Labels.points``). When experts go, the ones that are left are counted
anew in their order, so numbers may be sorted, counted and used to pick from tensors whose dimension loses the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from secateur.graph.facts import Facts, Kind
from secateur.graph.flow import Call, MacTerm, unlabelled
from secateur.graph.labels import Labels
from secateur.graph.mixtures import are_in_lists
from secateur.graph.ops.elementwise import elementwise
from secateur.graph.ops.reduce import on_kept
from secateur.graph.reasons import ASKED, CHOSEN, ORDER
from secateur.graph.rules import operator

if TYPE_CHECKING:
    from secateur.graph.masked import Masked
    from secateur.graph.rewriting import Rewriter


def _largest_kept(m: Masked) -> Any:
    """Of the kept entries alone: the others are further down than any."""
    x: Tensor = m["self"]
    dim = (m.get("dim") if m.get("dim") is not None else -1) % x.ndim
    gone = ~m.mask("self", dim).reshape([-1 if d == dim else 1 for d in range(x.ndim)])
    info = torch.finfo(x.dtype) if x.is_floating_point() else torch.iinfo(x.dtype)
    largest = m.get("largest") is not False
    return m.call(self=x.masked_fill(gone, info.min if largest else info.max))


@operator("aten.topk", reference=_largest_kept, numbers=True)
def _topk(call: Call) -> Any:
    """The k largest along a dimension, and their numbers; whatever else is labelled passes."""
    x: Labels = call["self"]
    dim = call["dim"] % x.ndim
    if x.points is not None:
        return call.pin("the largest of numbers of entries")
    values, numbers = unlabelled(call.node)
    if not call.node.all_input_nodes[0].meta["val"].is_floating_point() and x.at(dim):
        call.hold("which of several equal scores come first is not told", [x.with_dims({dim: x.at(dim)})])
        x = x.with_dims({d: v for d, v in x.dims.items() if d != dim})
    left = {d: v for d, v in x.dims.items() if d != dim}
    points = call.c.single(x.at(dim)) if x.at(dim) else None
    if points is not None:
        call.c.at_least(points, call["k"])
    return [values.with_dims(left), numbers.with_dims(left).pointing(points)]


@operator("aten.sort", numbers=True)
def _sort(call: Call) -> Any:
    """Numbers of entries keep their order when those that are left are counted anew."""
    x: Labels = call["self"]
    dim = call["dim"] % x.ndim
    if x.at(dim):
        call.hold(ORDER, [x.with_dims({dim: x.at(dim)})])
    values, places = unlabelled(call.node)
    left = {d: v for d, v in x.dims.items() if d != dim}
    return [values.with_dims(left).pointing(x.points), places.with_dims(left)]


@operator("aten.eq", numbers=True)
def _equal(call: Call) -> Any:
    """Where tensors are equal; numbers of entries that are compared with one number ask for that entry alone."""
    found = elementwise(call)
    one = len(call.tensors) == 1  # compared with a number
    if any(t.points is not None for t in call.tensors) and not (one and are_in_lists()):
        call.point(ASKED if one else CHOSEN)
    return found


def _rewrite_histogram(r: Rewriter) -> None:
    if r.changes(r.node, 0):
        r.set("bins", r.new_size(r.node, 0))
        r.set("max", r.new_size(r.node, 0) - 1)


@operator("aten.histc", rewrite=_rewrite_histogram, reference=on_kept, numbers=True)
def _histogram(call: Call) -> Any:
    """How often every number occurs, one bin for each; of other values, how many of the kept entries are in a bin."""
    x: Labels = call["self"]
    bins = call["bins"]
    if x.points is None or (call["min"], call["max"]) != (0, bins - 1) or bins != len(x.points):
        call.point("bins are other than the numbers of entries")
        return Labels(call.shape)
    call.c.pin_all(x)
    return Labels(call.shape, {0: (x.points,)})


def _rewrite_one_hot(r: Rewriter) -> None:
    last = len(r.labels(r.node).shape) - 1
    if r.changes(r.node, last):
        r.set("num_classes", r.new_size(r.node, last))


@operator("aten.one_hot", rewrite=_rewrite_one_hot, numbers=True)
def _one_hot(call: Call) -> Any:
    """One at the number's place in a new last dimension."""
    x: Labels = call["self"]
    dims = dict(x.dims)
    if x.points is not None and call["num_classes"] == len(x.points):
        dims[x.ndim] = (x.points,)
    else:
        call.point("there are more places than entries")
    return Labels(call.shape).with_dims(dims)


ROW_BYTES = 16
"""PyTorch's kernel takes rows of whole multiples of so many bytes."""


def _grouped_macs(call: Call) -> MacTerm:
    x, w = _operands(call)[:2]
    return MacTerm(float(x.shape[0]), ((w, 1), (w, 2)))


def _kept_experts(m: Masked) -> Tensor:
    """Rows are split where the kept experts end; those of the others are none."""
    weight, ends = m.names[1:3]
    mask = m.mask(ends, 0)
    return m.call(**{weight: m.gather(m[weight], {0: mask}), ends: m.gather(m[ends], {0: mask})})


@operator("transformers.grouped_mm_fallback", "aten._grouped_mm", macs=_grouped_macs, reference=_kept_experts,
          facts=Facts(kind=Kind.GROUPED))  # fmt: skip
def _grouped(call: Call) -> Any:
    """Rows (S, K), sorted by expert, times that expert's weight (E, K, N); ``ends`` (E,) says where each one's end."""
    x, w, ends = _operands(call)
    if x.ndim != 2 or w.ndim != 3 or ends is None:
        return call.pin("several experts in another layout")
    if isinstance(bias := call.get("bias"), Labels):
        call.c.pin_all(bias)
    for vector in (*x.at(1), *w.at(2)):
        call.c.multiple_of(vector, max(1, ROW_BYTES // call.node.meta["val"].element_size()))
    call.c.tie(x.at(1), w.at(1))
    call.flow.consume(w, 1)
    call.c.tie(w.at(0), ends.at(0))
    return Labels(call.shape).with_dims({0: x.at(0), 1: w.at(2)})


def _operands(call: Call) -> tuple[Labels, Labels, Labels | None]:
    x, w, ends = (call.get(argument.name) for argument in call.node.target._schema.arguments[:3])  # type: ignore[union-attr]
    return x, w, ends if isinstance(ends, Labels) else None


def picked(call: Call, x: Labels, dim: int, numbers: Labels) -> bool:
    """Whether numbers pick entries of the dimension that they point at; then these go together."""
    if numbers.points is None or not x.at(dim) or len(numbers.points) != x.shape[dim]:
        return False
    call.c.tie(x.at(dim), (numbers.points,))
    return True
