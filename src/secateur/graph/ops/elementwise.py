"""Element-wise operators: labels are united position by position; a broadcast side lets the other pass."""

from __future__ import annotations

from collections.abc import Sequence

from secateur.graph.facts import Facts, Kind, Only
from secateur.graph.flow import Call
from secateur.graph.labels import Constraints, Labels, Vector
from secateur.graph.reasons import BY_VALUE
from secateur.graph.rules import operator

__all__ = ["elementwise", "join"]

_FUNCTIONS = ("abs", "absolute", "acos", "acosh", "angle", "arccos", "arccosh", "arcsin", "arcsinh", "arctan",
              "arctanh", "asin", "asinh", "atan", "atanh", "ceil", "clamp_max", "cos", "cosh", "deg2rad", "digamma",
              "erf", "erfc", "erfinv", "exp", "exp2", "expm1", "fix", "floor", "frac", "i0", "lgamma", "log", "log10",
              "log1p", "log2", "logit", "nan_to_num", "neg", "negative", "rad2deg", "reciprocal", "round", "rsqrt",
              "sgn", "sign", "sin", "sinc", "sinh", "special_bessel_j0", "special_bessel_j1", "special_digamma",
              "special_entr", "special_erf", "special_erfc", "special_erfcx", "special_erfinv", "special_exp2",
              "special_expm1", "special_gammaln", "special_i0", "special_i0e", "special_i1", "special_i1e",
              "special_log1p", "special_log_ndtr", "special_logit", "special_ndtr", "special_ndtri", "special_psi",
              "special_round", "special_sinc", "sqrt", "square", "tan", "trunc")  # fmt: skip
"""Functions of one number; the activation functions among them are in :mod:`secateur.graph.ops.activations`."""

_UNARY = ("bitwise_left_shift", "bitwise_not", "bitwise_right_shift", "conj", "_conj", "empty_like", "fill",
          "full_like", "imag", "isfinite", "isinf", "isnan", "isneginf", "isposinf", "isreal", "logical_not",
          "__lshift__", "mvlgamma", "ones_like", "polygamma", "positive", "real", "resolve_conj", "resolve_neg",
          "__rshift__", "signbit", "special_multigammaln", "special_polygamma", "zero", "zeros_like")  # fmt: skip

_NARY = ("addcdiv", "addcmul", "__and__", "arctan2", "atan2", "bitwise_and", "bitwise_or", "bitwise_xor", "complex",
         "copy", "copysign", "div", "divide", "float_power", "floor_divide", "fmax", "fmin", "fmod", "gcd",
         "ge", "greater", "greater_equal", "gt", "heaviside", "hypot", "isclose", "lcm", "ldexp", "le", "lerp",
         "less", "less_equal", "logaddexp", "logaddexp2", "logical_and", "logical_or", "logical_xor", "lt",
         "masked_fill", "maximum", "minimum", "mul", "multiply", "ne", "nextafter", "not_equal", "__or__", "polar",
         "pow", "remainder", "rsub", "special_gammainc", "special_gammaincc", "special_xlog1py", "special_xlogy",
         "sub", "subtract", "true_divide", "where", "xlogy", "__xor__")  # fmt: skip


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
@operator(*(f"aten.{name}" for name in _FUNCTIONS), facts=Facts(pointwise=True))
@operator("aten.clamp", "aten.clip", "aten.clamp_min",
          facts=Facts(pointwise=True, makes_zeros=True, flat=("min", "max"),
                      only=(Only("makes_zeros", "min", 0),)))  # fmt: skip
@operator("aten.conj_physical", facts=Facts(pointwise=True, aliases=True))
@operator("aten.add", facts=Facts(kind=Kind.ADD))
@operator("aten.clone", "aten.contiguous", "aten.detach", "aten.detach_", "aten.alias", "aten.lift_fresh_copy",
          facts=Facts(kind=Kind.COPY, same_entries=True))  # fmt: skip
@operator("aten.to", "aten._to_copy", facts=Facts(kind=Kind.CAST))
@operator("aten.type_as", facts=Facts(kind=Kind.CAST, aliases=True))
def elementwise(call: Call) -> Labels:
    """What comes out at a position depends on what goes in there."""
    if isinstance(call.node.meta["val"], (list, tuple)):  # torch.where with a condition alone
        return call.pin(BY_VALUE)  # type: ignore[no-any-return]
    return join(call.c, call.tensors, call.shape)


@operator("aten.frexp")
def _two_numbers(call: Call) -> list[Labels]:
    """Mantissa and exponent of every entry."""
    return [call["self"], call["self"]]


@operator("aten.bucketize", "aten.searchsorted")
def _between(call: Call) -> Labels:
    """Between which boundaries every entry lies; the boundaries stay."""
    x, boundaries = call["self"], call.get("boundaries", call.get("sorted_sequence"))
    call.c.pin(*boundaries.at(-1))
    for d in range(boundaries.ndim - 1):
        call.c.tie(x.at(d), boundaries.at(d))
    return x if isinstance(x, Labels) else Labels(call.shape)


@operator("aten.arange", "aten.linspace", "aten.scalar_tensor", "aten.eye", "aten.tensor")
@operator("aten.lift_fresh", facts=Facts(kind=Kind.COPY, same_entries=True))
def _constant(call: Call) -> Labels:
    return Labels(call.shape)


@operator("aten.sym_size", "aten.sym_numel", "aten.size", facts=Facts(kind=Kind.SIZE))
@operator("aten._assert_tensor_metadata", facts=Facts(kind=Kind.TYPE_CHECK))
@operator("aten.item", "aten._local_scalar_dense", "aten._assert_scalar", "aten._assert_async")
def _number(call: Call) -> None:
    return None
