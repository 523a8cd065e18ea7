"""Element-wise operators: labels are united position by position; a broadcast side lets the other pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from secateur.graph.flow import Call
from secateur.graph.labels import Constraints, Labels, Vector
from secateur.ops import operator

if TYPE_CHECKING:
    from secateur.surgery.graph import Rewriter

__all__ = ["join"]

_UNARY = [
    "abs",
    "acos",
    "acosh",
    "angle",
    "asin",
    "asinh",
    "atan",
    "atanh",
    "bernoulli",
    "bitwise_not",
    "ceil",
    "celu",
    "clamp",
    "clamp_max",
    "clamp_min",
    "clone",
    "conj",
    "_conj",
    "conj_physical",
    "contiguous",
    "cos",
    "cosh",
    "deg2rad",
    "detach",
    "detach_",
    "digamma",
    "dropout",
    "elu",
    "erf",
    "erfc",
    "erfinv",
    "exp",
    "exp2",
    "expm1",
    "feature_dropout",
    "alpha_dropout",
    "feature_alpha_dropout",
    "floor",
    "frac",
    "gelu",
    "hardshrink",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "isfinite",
    "isinf",
    "isnan",
    "leaky_relu",
    "lgamma",
    "log",
    "log10",
    "log1p",
    "log2",
    "log_sigmoid",
    "logical_not",
    "logit",
    "mish",
    "nan_to_num",
    "neg",
    "negative",
    "positive",
    "rad2deg",
    "real",
    "imag",
    "reciprocal",
    "resolve_conj",
    "resolve_neg",
    "relu",
    "relu6",
    "round",
    "rrelu",
    "rsqrt",
    "selu",
    "sgn",
    "sigmoid",
    "sign",
    "silu",
    "sin",
    "sinh",
    "softplus",
    "softshrink",
    "softsign",
    "special_erf",
    "special_expit",
    "sqrt",
    "square",
    "tan",
    "tanh",
    "threshold",
    "to",
    "_to_copy",
    "type_as",
    "trunc",
    "zero",
    "alias",
    "lift_fresh_copy",
    "fill",
    "zeros_like",
    "ones_like",
    "full_like",
    "empty_like",
    "rand_like",
    "randn_like",
    "randint_like",
    "exponential",
    "uniform",
    "cauchy",
    "geometric",
    "log_normal",
    "random",
    "poisson",
]

_NARY = [
    "add",
    "addcdiv",
    "addcmul",
    "atan2",
    "bitwise_and",
    "bitwise_or",
    "bitwise_xor",
    "complex",
    "copy",
    "div",
    "divide",
    "eq",
    "floor_divide",
    "fmax",
    "fmin",
    "fmod",
    "ge",
    "greater",
    "gt",
    "heaviside",
    "hypot",
    "le",
    "less",
    "lerp",
    "logaddexp",
    "logical_and",
    "logical_or",
    "logical_xor",
    "lt",
    "masked_fill",
    "maximum",
    "minimum",
    "mul",
    "multiply",
    "ne",
    "not_equal",
    "polar",
    "pow",
    "remainder",
    "rsub",
    "sub",
    "subtract",
    "true_divide",
    "where",
    "xlogy",
]


def join(c: Constraints, tensors: Sequence[Labels], shape: Sequence[int]) -> Labels:
    """Unites broadcastable tensors position by position.

    Per dimension of the result: operands of the full size are tied together (one without labels pins the
    others); operands of size 1 are broadcast and must keep their only entry.
    """
    dims: dict[int, tuple[Vector, ...]] = {}
    for d, size in enumerate(shape):
        full: list[tuple[Vector, ...]] = []
        for t in tensors:
            own = d - (len(shape) - t.ndim)
            if own < 0:
                continue
            if t.shape[own] == size:
                full.append(t.at(own))
            else:
                c.pin(*t.at(own))
        if not full:
            continue
        for other in full[1:]:
            c.tie(full[0], other)
        dims[d] = full[0]
    return Labels(tuple(shape)).with_dims(dims)


@operator(*(f"aten.{name}" for name in _UNARY + _NARY))
def _elementwise(call: Call) -> Labels:
    return join(call.c, call.tensors, call.shape)


@operator("aten.prelu", "aten._prelu_kernel")
def _prelu(call: Call) -> Labels:
    """One slope for all, or one per channel (dimension 1)."""
    x, weight = call["self"], call["weight"]
    if weight.ndim == 1 and weight.shape[0] > 1:
        call.c.tie(x.at(1), weight.at(0))
    else:
        call.c.pin_all(weight)
    return x if weight.ndim == 1 else join(call.c, [x, weight], call.shape)


def _rewrite_full(r: Rewriter) -> None:
    if r.get("size") is not None:
        r.set("size", r.sizes(r["size"]))


@operator("aten.zeros", "aten.ones", "aten.full", "aten.new_zeros", "aten.new_ones", "aten.new_full", "aten.rand",
          "aten.randn", "aten.randint", "aten.empty", "aten.new_empty",
          rewrite=_rewrite_full)  # fmt: skip
def _full(call: Call) -> Labels:
    """A constant or random numbers of any size: fresh labels that belong to no parameter."""
    return Labels(call.shape, {d: (call.c.fresh(n),) for d, n in enumerate(call.shape)})


@operator("aten.normal", rewrite=_rewrite_full)
def _normal(call: Call) -> Labels:
    """Of a given size, around the entries of a tensor, or into one."""
    return _full(call) if call.get("size") is not None else join(call.c, call.tensors, call.shape)


@operator("aten.native_dropout")
def _native_dropout(call: Call) -> list[Labels]:
    """The values and which of them were left."""
    return [call["input"], call["input"]]


@operator("aten.arange", "aten.linspace", "aten.scalar_tensor", "aten.eye", "aten.lift_fresh", "aten.tensor")
def _constant(call: Call) -> Labels:
    return Labels(call.shape)


@operator("aten.sym_size", "aten.sym_numel", "aten.size", "aten.item", "aten._local_scalar_dense",
          "aten._assert_tensor_metadata", "aten._assert_scalar", "aten._assert_async")  # fmt: skip
def _number(call: Call) -> None:
    return None
