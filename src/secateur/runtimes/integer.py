"""What is known of a file that computes in integers alone, for processors without floating point."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["IntegerFacts", "QuantisedTensor"]


@dataclass(frozen=True)
class QuantisedTensor:
    """An input or output: ``real = scale · (integer − zero_point)``.

    Attributes:
        name: In the file.
        shape: With the batch.
        scale: One quantisation step; 0 where the tensor is not quantised.
        zero_point: The integer that means 0.
    """

    name: str
    shape: tuple[int, ...]
    scale: float
    zero_point: int


@dataclass(frozen=True)
class IntegerFacts:
    """What a file says of its integers.

    Attributes:
        inputs: What goes in.
        outputs: What comes out.
        floats: Operators that read or write floating-point numbers; none in a full-integer file.
        activations: Bytes of the activations that are alive at once, at most, if operators run in the file's order and
            none works in place: what an arena has to hold besides what the runtime adds of its own.
    """

    inputs: tuple[QuantisedTensor, ...]
    outputs: tuple[QuantisedTensor, ...]
    floats: tuple[str, ...]
    activations: int
