"""Fused attention and einsum: contractions with more than two labelled dimensions."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np

from secateur.graph.facts import Facts, Kind
from secateur.graph.flow import Call, MacTerm
from secateur.graph.labels import Labels, Vector
from secateur.graph.ops.elementwise import join
from secateur.graph.rules import operator

if TYPE_CHECKING:
    from secateur.graph.rewriting import Rewriter


def _sdpa_macs(call: Call) -> MacTerm:
    """Q·Kᵀ and weights·V: queries × keys × (head size + value size), counted as one term each.

    The two products have the sizes of the head (from Q) and of the value; where they differ the mean is taken.
    """
    q, k, v = call["query"], call["key"], call["value"]
    positions = q.shape[-2] * k.shape[-2] * (1 + v.shape[-1] / q.shape[-1])
    batch = q.shape[0]
    sizes = tuple((q, d) for d in range(1, q.ndim - 2))
    return MacTerm(float(batch * positions), (*sizes, (q, q.ndim - 1)))


def _sdpa_rewrite(r: Rewriter) -> None:
    """Keeps the dense network's scale 1/√(head size) where the head size changes."""
    query = r.node_of("query")
    size = r.labels(query).shape[-1]
    if r.get("scale") is None and r.changes(query, len(r.labels(query).shape) - 1):
        r.set("scale", size**-0.5)


@operator("aten.scaled_dot_product_attention", rewrite=_sdpa_rewrite, macs=_sdpa_macs,
          facts=Facts(kind=Kind.ATTENTION, draws_if=("dropout_p",)))  # fmt: skip
def _sdpa(call: Call) -> Labels:
    """softmax(Q·Kᵀ/√d)·V with Q (…, L, d), K (…, S, d), V (…, S, e): heads go as leading dimensions."""
    c, q, k, v = call.c, call["query"], call["key"], call["value"]
    c.tie(q.at(-1), k.at(-1))
    for t in (q, k, v):
        c.pin(*t.at(-2))
    mask = call.get("attn_mask")
    lead = [_leading(t) for t in ((q, k, v) if not call.get("enable_gqa") else _grouped_heads(call, q, k, v))]
    if isinstance(mask, Labels):
        c.pin(*mask.at(-1), *(mask.at(-2) if mask.ndim > 1 else ()))
        lead += [_leading(mask)] if mask.ndim > 2 else []
    batch = join(c, lead, call.shape[:-2])
    dims: dict[int, tuple[Vector, ...]] = {**batch.dims, len(call.shape) - 1: v.at(-1)}
    return Labels(call.shape).with_dims(dims)


def _grouped_heads(call: Call, q: Labels, *several: Labels) -> list[Labels]:
    """Keys and values with a label per query head: a key head goes with all the query heads that share it."""
    heads = q.shape[-3]
    found = [q]
    for t in several:
        repeated = {d: v for d, v in t.dims.items() if d != t.ndim - 3}
        repeated[t.ndim - 3] = tuple(np.repeat(v, heads // t.shape[-3]) for v in t.at(-3))
        found.append(Labels((*t.shape[:-3], heads, *t.shape[-2:])).with_dims(repeated))
    return found


def _leading(t: Labels) -> Labels:
    return Labels(t.shape[:-2]).with_dims({d: v for d, v in t.dims.items() if d < t.ndim - 2})


# ---------------------------------------------------------------------------------------------------- einsum


def _terms(equation: str, tensors: list[Labels]) -> tuple[list[str], str]:
    """Letters of every operand and of the result; an ellipsis becomes capital letters that are not used."""
    left, _, right = equation.replace(" ", "").partition("->")
    inputs = left.split(",")
    spare = [ch for ch in "ZYXWVUTSRQPONM" if ch not in equation]
    hidden = [t.ndim - len(term.replace("...", "")) for t, term in zip(tensors, inputs, strict=True) if "..." in term]
    width = max(hidden, default=0)
    wide = "".join(spare[:width])
    own = [term.replace("...", wide[len(wide) - (t.ndim - len(term.replace("...", ""))) :] if "..." in term else "")
           for t, term in zip(tensors, inputs, strict=True)]  # fmt: skip
    if "->" not in equation:
        letters = "".join(inputs).replace(".", "")
        right = ("..." if width else "") + "".join(sorted(ch for ch in set(letters) if letters.count(ch) == 1))
    return own, right.replace("...", wide)


def _einsum_macs(call: Call) -> MacTerm:
    """The product of the sizes of all indices (of one pairwise contraction)."""
    tensors = call["tensors"]
    inputs, out = _terms(call["equation"], tensors)
    where = {ch: (t, d) for t, term in zip(tensors, inputs, strict=True) for d, ch in enumerate(term)}
    first = out[:1]
    factor = prod(where[ch][0].shape[where[ch][1]] for ch in first if ch in where)
    return MacTerm(float(factor), tuple(pair for ch, pair in where.items() if ch != first))


@operator("aten.einsum", macs=_einsum_macs, facts=Facts(kind=Kind.MATMUL))
def _einsum(call: Call) -> Labels:
    """Equal letters are united; letters that are summed away are contracted."""
    c, tensors = call.c, call["tensors"]
    inputs, out = _terms(call["equation"], tensors)
    size = {ch: max(t.shape[d] for t, term in zip(tensors, inputs, strict=True) for d, e in enumerate(term) if e == ch)
            for ch in set("".join(inputs))}  # fmt: skip
    found: dict[str, tuple[Vector, ...]] = {}
    seen: set[str] = set()
    for tensor, term in zip(tensors, inputs, strict=True):
        for d, ch in enumerate(term):
            if tensor.shape[d] != size[ch]:
                c.pin(*tensor.at(d))
            elif ch in seen:
                c.tie(found[ch], tensor.at(d))
            else:
                found[ch] = tensor.at(d)
                seen.add(ch)
            if ch not in out and tensor is not tensors[0]:
                call.flow.consume(tensor, d)
    return Labels(call.shape).with_dims({d: found[ch] for d, ch in enumerate(out) if ch in found})
