"""Activation functions and dropout: element-wise, with all that is known of them."""

from __future__ import annotations

from math import inf
from typing import Any

from torch import nn

from secateur.graph.facts import Facts, Kind, Law, Only
from secateur.graph.flow import Call
from secateur.graph.labels import Labels
from secateur.graph.ops.elementwise import elementwise, join
from secateur.graph.rules import operator


def _activation(module: type[nn.Module] | None, **claims: Any) -> Facts:
    return Facts(kind=Kind.ACTIVATION, module=module, pointwise=True, **claims)


_ACTIVATIONS = {
    "celu": _activation(nn.CELU),
    "elu": _activation(nn.ELU),
    "gelu": _activation(nn.GELU, fused=True),
    "hardshrink": _activation(nn.Hardshrink, makes_zeros=True),
    "hardsigmoid": _activation(nn.Hardsigmoid, makes_zeros=True, gate=True, flat=(-3.0, 3.0)),
    "hardswish": _activation(nn.Hardswish, makes_zeros=True, fused=True, flat=(-3.0, inf)),
    "hardtanh": _activation(nn.Hardtanh, makes_zeros=True, fused=True, flat=("min_val", "max_val"),
                            only=(Only("makes_zeros", "min_val", 0),)),
    "leaky_relu": _activation(nn.LeakyReLU, homogeneous=True, fused=True),
    "log_sigmoid": _activation(nn.LogSigmoid),
    "mish": _activation(nn.Mish),
    "relu": _activation(nn.ReLU, homogeneous=True, makes_zeros=True, fused=True, flat=(0.0, inf)),
    "relu6": _activation(nn.ReLU6, makes_zeros=True, fused=True, flat=(0.0, 6.0)),
    "selu": _activation(nn.SELU),
    "sigmoid": _activation(nn.Sigmoid, gate=True, fused=True),
    "silu": _activation(nn.SiLU, fused=True),
    "softplus": _activation(nn.Softplus),
    "softshrink": _activation(nn.Softshrink, makes_zeros=True),
    "special_expit": _activation(nn.Sigmoid, gate=True),
    "tanh": _activation(nn.Tanh, fused=True),
    "threshold": _activation(nn.Threshold, makes_zeros=True, flat=("threshold", inf),
                             only=(Only("makes_zeros", "value", 0),)),
    # Its slopes are drawn in train mode; nn.RReLU would need to know what the operator was called with.
    "rrelu": _activation(None, homogeneous=True, draws_if=("training",),
                         only=(Only("pointwise", "training", False), Only("homogeneous", "training", False))),
}  # fmt: skip

for _name, _facts in _ACTIVATIONS.items():
    operator(f"aten.{_name}", facts=_facts)(elementwise)


@operator("aten.prelu", "aten._prelu_kernel", facts=Facts(kind=Kind.ACTIVATION))
def _prelu(call: Call) -> Labels:
    """One slope for all, or one per channel (dimension 1)."""
    x, weight = call["self"], call["weight"]
    if weight.ndim == 1 and weight.shape[0] > 1:
        call.c.tie(x.at(1), weight.at(0))
    else:
        call.c.pin_all(weight)
    return x if weight.ndim == 1 else join(call.c, [x, weight], call.shape)


# ------------------------------------------------------------------------------------------------------- dropout


def _dropout(module: type[nn.Module], **claims: Any) -> Facts:
    """Hands its input on where it is off, which its schema does not say."""
    idle = tuple(Only(claim, "train", False) for claim in ("same_entries", "aliases"))
    return Facts(kind=Kind.DROPOUT, module=module, same_entries=True, aliases=True, draws_if=("train",), only=idle,
                 **claims)  # fmt: skip


operator("aten.dropout", facts=_dropout(nn.Dropout, homogeneous=True, keeps_mean=True))(elementwise)
operator("aten.feature_dropout", facts=_dropout(nn.Dropout2d, homogeneous=True, keeps_mean=True))(elementwise)
operator("aten.alpha_dropout", facts=_dropout(nn.AlphaDropout))(elementwise)
operator("aten.feature_alpha_dropout", facts=_dropout(nn.FeatureAlphaDropout))(elementwise)


@operator("aten.native_dropout", facts=Facts(kind=Kind.DROPOUT, law=Law.COINS))
def _native_dropout(call: Call) -> list[Labels]:
    """The values and which of them were left."""
    return [call["input"], call["input"]]
