"""What is known of operators beyond their flow rule: facts that stand in the operator's entry and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from math import inf
from typing import Any

from torch import nn

__all__ = ["Bounds", "Facts", "Kind", "Law", "Only"]

Bounds = tuple[float, float]
"""A lower and an upper one; infinite where there is none."""


class Kind(StrEnum):
    """What an operator is. Kinds exist where something asks for them; most operators have none."""

    CONV = "convolution"
    CONV_TRANSPOSE = "transposed convolution"
    LINEAR = "linear layer"
    MATMUL = "product of tensors"
    GROUPED = "product of rows with one of several matrices each"
    ATTENTION = "attention"
    BATCH_NORM = "batch normalisation"
    NATIVE_BATCH_NORM = "batch normalisation that gives its statistics too"
    INSTANCE_NORM = "instance normalisation"
    LAYER_NORM = "layer normalisation"
    GROUP_NORM = "group normalisation"
    FAKE_QUANTISE = "rounding as a quantised network does it"
    ACTIVATION = "activation function"
    DROPOUT = "dropout"
    SOFTMAX = "softmax"
    REDUCE = "reduction over dimensions"
    SCAN = "running sum or product"
    ADD = "sum of two tensors"
    COPY = "the same values under the same shape"
    CAST = "the same values in another type"
    RESHAPE = "the same entries under the sizes that are given"
    PIECE = "some of the entries along a dimension"
    SIZE = "size of a tensor"
    TYPE_CHECK = "statement about types"


class Law(StrEnum):
    """How random numbers depend on tensors, where they do."""

    COINS = "coins that fall by a probability"
    NORMAL = "normal numbers around the entries of tensors"
    DATA = "a law of the data that has no inverse"


@dataclass(frozen=True)
class Only:
    """A claim that depends on an argument of the call.

    Attributes:
        claim: Name of the field of :class:`Facts`.
        argument: Name of the argument in the operator's schema.
        value: The value with which the claim holds.
        otherwise: What the field is with any other value.
    """

    claim: str
    argument: str
    value: object
    otherwise: Any = False


@dataclass(frozen=True)
class Facts:
    """Facts about one operator. A claim that is not made is not known to hold, so it is safe to leave one out.

    Attributes:
        kind: What it is.
        module: Class in :mod:`torch.nn` that computes it; its arguments are the operator's numbers, in order.
        pointwise: A function of numbers, the same for every entry: f(x)[i] depends on x[i] alone.
        homogeneous: f(a·x) = a·f(x) for one a > 0 per channel, with the same f for every channel.
        makes_zeros: Gives exact zeros over a whole range of numbers.
        flat: A function that is constant below the first and constant above the second of two bounds. A name stands
            for the argument that holds the bound.
        gate: An activation that scales other values; what comes out is no feature map.
        fused: Runtimes compute it together with the layer before it.
        same_entries: Gives the entries that it gets, in their order, whatever the shape.
        keeps_mean: A channel's entries have the same mean on average (borders of padded windows aside).
        keeps_constants: A channel whose entries are all c comes out with entries that are all c.
        aliases: May give its first argument's memory back although its schema does not say so.
        writes: Names of arguments that it writes into although its schema does not say so.
        writes_if: The argument that has to be true for that.
        values: Names of arguments whose whole numbers are values, one for every entry (zero points), and no places:
            a buffer of them is cut as weights are.
        draws_if: Arguments that all have to be true for it to draw random numbers.
        law: How its random numbers depend on tensors.
        only: Claims that depend on arguments.
    """

    kind: Kind | None = None
    module: type[nn.Module] | None = None
    pointwise: bool = False
    homogeneous: bool = False
    makes_zeros: bool = False
    flat: tuple[float | str, float | str] | None = None
    gate: bool = False
    fused: bool = False
    same_entries: bool = False
    keeps_mean: bool = False
    keeps_constants: bool = False
    aliases: bool = False
    writes: tuple[str, ...] = ()
    writes_if: str = ""
    values: tuple[str, ...] = ()
    draws_if: tuple[str, ...] = ()
    law: Law | None = None
    only: tuple[Only, ...] = ()

    def given(self, arguments: Mapping[str, Any]) -> Facts:
        """The facts of one call: claims whose argument has another value are dropped."""
        dropped = {o.claim: o.otherwise for o in self.only if arguments.get(o.argument) != o.value}
        return replace(self, **dropped) if dropped else self

    def bounds(self, arguments: Mapping[str, Any]) -> Bounds | None:
        """Between which numbers alone a call depends on what it is given; ``None`` where nothing is known.

        >>> Facts(flat=("min_val", inf)).bounds({"min_val": -1})
        (-1.0, inf)
        """
        if self.flat is None:
            return None
        found = [arguments.get(b) if isinstance(b, str) else b for b in self.flat]
        low, high = (end if b is None else b for b, end in zip(found, (-inf, inf), strict=True))
        numbers = isinstance(low, (int, float)) and isinstance(high, (int, float))
        return (float(low), float(high)) if numbers else None
