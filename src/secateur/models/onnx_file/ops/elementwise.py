"""Arithmetic, comparisons and logic, of tensors and of sizes."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from secateur.models.onnx_file.host import Host, beside, divided, is_host, tensor_of
from secateur.models.onnx_file.node import OnnxNode
from secateur.models.onnx_file.registry import Refused, reads

__all__ = ["dtype_of"]

_TYPES = {
    1: torch.float32, 2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32, 7: torch.int64, 9: torch.bool,
    11: torch.float64,
}  # fmt: skip
"""ONNX's numbers of types."""


def dtype_of(number: int) -> torch.dtype:
    """The type that ONNX numbers so.

    Raises:
        Refused: Half precision, quantised, text and the like.
    """
    if int(number) not in _TYPES:
        from onnx import TensorProto

        known = int(number) in TensorProto.DataType.values()
        kind = TensorProto.DataType.Name(int(number)).lower() if known else int(number)
        raise Refused(f"makes values of ONNX's type {kind}; read are float32, float64, whole numbers and bool")
    return _TYPES[int(number)]


def _binary(name: str, on_tensors: Callable[[Any, Any], Any], on_numbers: Callable[[Any, Any], Any]) -> None:
    def run(node: OnnxNode, a: Any, b: Any) -> Any:
        if is_host(a, b):
            return a.each(on_numbers, b)
        left = beside(a, b) if isinstance(a, Host) else a
        return on_tensors(left, beside(b, a) if isinstance(b, Host) else b)

    reads(name, numbers=True)(run)


def _divide(a: Any, b: Any) -> Any:
    whole = not any(v.is_floating_point() if isinstance(v, Tensor) else isinstance(v, float) for v in (a, b))
    return torch.div(a, b, rounding_mode="trunc") if whole else a / b


for _name, _both in {
    "Add": operator.add, "Sub": operator.sub, "Mul": operator.mul, "Equal": operator.eq, "Less": operator.lt,
    "LessOrEqual": operator.le, "Greater": operator.gt, "GreaterOrEqual": operator.ge,
}.items():  # fmt: skip
    _binary(_name, _both, _both)
_binary("Div", _divide, divided)
_binary("Pow", lambda a, b: torch.pow(a, b), operator.pow)
_binary("And", torch.logical_and, lambda a, b: bool(a) and bool(b))
_binary("Or", torch.logical_or, lambda a, b: bool(a) or bool(b))
_binary("Xor", torch.logical_xor, lambda a, b: bool(a) != bool(b))


@reads("Mod", numbers=True)
def _mod(node: OnnxNode, a: Any, b: Any) -> Any:
    if is_host(a, b):
        return a.each(operator.mod, b)
    a, b = tensor_of(a, b if isinstance(b, Tensor) else None), beside(b, a) if isinstance(b, Host) else b
    return torch.fmod(a, b) if node.attribute("fmod", 0) else torch.remainder(a, b)


def _several(name: str, on_tensors: Callable[[Any, Any], Any], on_numbers: Callable[[Any, Any], Any]) -> None:
    def run(node: OnnxNode, *given: Any) -> Any:
        if is_host(*given):
            return reduce(lambda a, b: a.each(on_numbers, b), given)
        like = next(v for v in given if isinstance(v, Tensor))
        return reduce(on_tensors, [tensor_of(v, like) for v in given])

    reads(name, numbers=True)(run)


_several("Max", torch.maximum, max)
_several("Min", torch.minimum, min)
_several("Sum", operator.add, operator.add)


@reads("Mean", numbers=True)
def _mean(node: OnnxNode, *given: Any) -> Any:
    like = next(v for v in given if isinstance(v, Tensor))
    return reduce(operator.add, [tensor_of(v, like) for v in given]) / len(given)


def _unary(name: str, on_tensors: Callable[[Any], Any], on_numbers: Callable[[Any], Any] | None = None) -> None:
    def run(node: OnnxNode, x: Any) -> Any:
        if isinstance(x, Host) and on_numbers is not None:
            return x.of(on_numbers)
        return on_tensors(tensor_of(x))

    reads(name, numbers=True)(run)


_unary("Neg", torch.neg, operator.neg)
_unary("Abs", torch.abs, abs)
_unary("Sqrt", torch.sqrt, math.sqrt)
_unary("Exp", torch.exp, math.exp)
_unary("Log", torch.log)
_unary("Erf", torch.erf)
_unary("Reciprocal", torch.reciprocal, lambda v: 1 / v)
# What is rounded stays a broken number: a cast makes whole ones of them.
_unary("Floor", torch.floor, lambda v: math.floor(v) * 1.0)
_unary("Ceil", torch.ceil, lambda v: math.ceil(v) * 1.0)
_unary("Round", torch.round, lambda v: round(v) * 1.0)
_unary("Sign", torch.sign)
_unary("Not", torch.logical_not, operator.not_)
_unary("IsNaN", torch.isnan)
_unary("IsInf", torch.isinf)
for _name in ("Sin", "Cos", "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh", "Acosh", "Atanh"):
    _unary(_name, getattr(torch, _name.lower()))


@reads("Identity", "Dropout")
def _identity(node: OnnxNode, x: Any, *options: Any) -> Any:
    if any(node.outputs[1:]):
        raise Refused("gives the mask of a dropout")
    return x


@reads("Cast")
def _cast(node: OnnxNode, x: Any) -> Any:
    dtype = dtype_of(node.attribute("to"))
    if not isinstance(x, Host):
        return x.to(dtype)
    if dtype.is_floating_point:  # a product, for a number that remembers where it is from would forget it in float()
        return x.of(lambda v: v * 1.0)
    if dtype is torch.bool:
        return x.of(bool)
    return x.of(
        lambda v: v if type(v) is not bool and isinstance(v, int) else math.floor(v) if v >= 0 else math.ceil(v)
    )


@reads("CastLike")
def _cast_like(node: OnnxNode, x: Any, like: Any) -> Any:
    return x if isinstance(x, Host) else x.to(tensor_of(like).dtype)


@reads("Where", numbers=True)
def _where(node: OnnxNode, condition: Any, a: Any, b: Any) -> Any:
    if is_host(condition, a, b):
        return condition.chosen(a, b)
    if isinstance(condition, Host) and condition.single:
        return a if condition.number else b
    like = next((v for v in (a, b) if isinstance(v, Tensor)), None)
    return torch.where(tensor_of(condition), tensor_of(a, like), tensor_of(b, like))
