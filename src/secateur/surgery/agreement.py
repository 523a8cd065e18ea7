"""When results agree: how far apart numbers are, relative to what an input moves, and shapes operator by operator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.core.errors import VerificationError
from secateur.graph.ops import Kind, facts_of
from secateur.surgery.lifted import Unlike

__all__ = ["NEAR", "ROUNDING", "TOLERANCE", "Called", "Output", "aligned", "apart", "compare", "compare_shapes",
           "unsound"]  # fmt: skip

TOLERANCE = 1e-9
"""Largest accepted max |pruned − masked| relative to what the input moves in that output, in double precision."""

NEAR = 1e-5
"""What two runs of the same operators on the same numbers may differ by in the network's own precision, relative to the
largest value of an output."""

RESOLUTION = 1e-13
"""Of double precision over a whole network, relative to the largest value of an output, where the network does not make
rounding larger. An output of which the input moves less than ``resolution / TOLERANCE`` cannot be decided in that run;
ten times the resolution is accepted there."""

ROUNDING = 2.0**-48
"""By how much weights are moved, relative to themselves, to see what a network makes of rounding (16 units in the last
place: about what the sums of one layer lose)."""

LARGEST_NOISE = 1e-5
"""Of what rounding may make of an output, relative to its largest value: beyond this it may as well be a network that
does not give the same twice."""

Shape = tuple[int, ...] | None

Called = tuple[str, Shape]
"""An operator by name, and the shape of its result (``None`` for several results)."""


@dataclass(frozen=True)
class Output:
    """How one output came out: its error, relative to what the input moves where that is enough to decide."""

    error: float
    moved: bool
    resolution: float = RESOLUTION

    @property
    def right(self) -> bool:
        """Whether the error is accepted."""
        return self.error <= (TOLERANCE if self.moved else 10 * self.resolution)


def compare(got: Tensor, want: Tensor, other: Tensor, *, rounded: Tensor | None = None) -> Output:
    """One output: max |got − want|, relative to what other inputs move in it.

    Args:
        got: Of the pruned network.
        want: Of the masked dense one.
        other: Of the pruned network, for other inputs.
        rounded: Of the pruned network, with weights that are moved by rounding (:data:`ROUNDING`): a network that makes
            larger (hundreds of saturated units after sharpening) decides nothing below that.
    """
    if not want.numel():
        return Output(0.0, True)
    if not (want.is_floating_point() or want.is_complex()):
        return Output(0.0 if torch.equal(got, want) else math.inf, not torch.equal(got, other))
    if bool(got.isnan().any()):
        return Output(math.inf, True)
    gap = torch.where(got == want, 0.0, (got - want).abs()).max()  # equal infinities at equal places agree
    moved, size = _largest(torch.where(got == other, 0.0, (got - other).abs())), _largest(want.abs())
    noise = 0.0 if rounded is None else _largest(torch.where(got == rounded, 0.0, (got - rounded).abs()))
    resolution = max(RESOLUTION, noise / size / 10 if noise <= LARGEST_NOISE * size and size else 0.0)
    decided = moved * TOLERANCE >= size * resolution and moved > 0
    scale = moved if decided else size
    return Output(float(gap) / scale if scale else (0.0 if not float(gap) else math.inf), decided, resolution)


def _largest(values: Tensor) -> float:
    """Of those that are finite."""
    finite = values[values.isfinite()]
    return float(finite.max()) if finite.numel() else 0.0


def apart(got: Tensor, want: Tensor) -> float:
    """max |got − want| / max |want|; infinite where shapes, infinities or whole numbers differ."""
    if got.shape != want.shape:
        return math.inf
    if not want.numel():
        return 0.0
    if not (want.is_floating_point() or want.is_complex()):
        return 0.0 if torch.equal(got, want) else math.inf
    gap = torch.where((got == want) | (got.isnan() & want.isnan()), 0.0, (got - want).abs()).max()
    return float(gap / want.abs().nan_to_num(0, 0, 0).max().clamp_min(1e-30))


def unsound(value: Tensor) -> bool:
    """NaN or plus infinity (minus infinity masks a score)."""
    return bool(value.isnan().any()) or (value.is_floating_point() and bool(value.isposinf().any()))


_MOVES = {Kind.COPY, Kind.CAST, Kind.SIZE, Kind.TYPE_CHECK, Kind.DROPOUT}
_ANCHORS = {Kind.CONV, Kind.CONV_TRANSPOSE, Kind.LINEAR, Kind.MATMUL, Kind.ATTENTION, Kind.SOFTMAX, Kind.LAYER_NORM,
            Kind.GROUP_NORM, Kind.BATCH_NORM, Kind.INSTANCE_NORM}  # fmt: skip


def aligned(
    wanted: Sequence[Called], called: Sequence[Called], *, anchors: bool = False
) -> list[tuple[str, Shape, Shape]] | None:  # fmt: skip
    """Operators that two networks call in the same order, with the shapes of their results; ``None`` where they do not.

    Args:
        wanted: What one calls.
        called: What the other calls.
        anchors: Whether only those that contract, normalise or attend are looked at.
    """
    a, b = ([(n, s) for n, s in several if _compared(n, anchors)] for several in (wanted, called))
    if [_alike(n) for n, _ in a] != [_alike(n) for n, _ in b]:
        return None
    return [(name, want, got) for (name, want), (_, got) in zip(a, b, strict=True)]


def compare_shapes(wanted: Sequence[Called], called: Sequence[Called], *, strict: bool) -> None:
    """Operators that both networks call in the same order give results of the shapes that the plan says.

    All operators are aligned where their names agree one by one, or else those that contract, normalise or attend;
    where these do not agree either (a fast path that the trace did not take), nothing is said, or with ``strict`` that
    they do not (:class:`Unlike`).
    """
    pairs = aligned(wanted, called)
    if pairs is None and strict:
        raise Unlike("it calls other operators than the dense one")
    for name, want, got in aligned(wanted, called, anchors=True) or () if pairs is None else pairs:
        if want is not None and got is not None and want != got:
            raise VerificationError(
                f"The pruned network computes {name} of shape {got} where the plan says {want}: what it splits into "
                "heads or groups is not what was cut."
            )


def _compared(name: str, anchors: bool) -> bool:
    kind = facts_of(name).kind
    return kind in _ANCHORS if anchors else kind not in _MOVES


def _alike(name: str) -> str:
    """One name for all operators that give the same entries under the sizes that they are given."""
    return Kind.RESHAPE if facts_of(name).kind is Kind.RESHAPE else name
