"""One node of an ONNX graph as a module: its weights are parameters, its sizes numbers in its attributes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from secateur.core.errors import SecateurError, first_line
from secateur.models.onnx_file.host import Host
from secateur.models.onnx_file.registry import OPERATORS, Refused

__all__ = ["ABSENT", "HELD", "NUMBER", "TENSOR", "VALUE", "OnnxNode", "Slot"]

ABSENT, VALUE, TENSOR, NUMBER, HELD = "absent", "value", "tensor", "number", "held"


@dataclass(frozen=True)
class Slot:
    """One input of a node.

    Attributes:
        kind: Left out (``absent``), computed by the graph (``value``), or a constant: a parameter or buffer of the
            node (``tensor``), numbers (``number``), or weights that the node holds in a layout of its own (``held``).
        name: What ONNX calls this input of the operator.
        source: The value or the constant in the file.
    """

    kind: str
    name: str
    source: str = ""


class OnnxNode(nn.Module):
    """One operator with its constants.

    Args:
        operator: ONNX's name of it.
        title: What the file calls the node.
        opset: The version of the operators.
        attributes: The node's attributes, by name: numbers, texts, and tuples of these.
        slots: Its inputs.
        outputs: Names of its outputs; empty for one that is left out.
    """

    def __init__(
        self, operator: str, title: str, opset: int, attributes: Mapping[str, Any], slots: tuple[Slot, ...],
        outputs: tuple[str, ...],
    ) -> None:  # fmt: skip
        """Holds no constants yet."""
        super().__init__()
        self.operator, self.title, self.outputs = operator, title, outputs
        self.slots = slots
        self.attributes, self.numbers = dict(attributes), dict[str, Any]()
        self._opset = str(opset)  # a text: it is no size

    @property
    def opset(self) -> int:
        """The version of the operators."""
        return int(self._opset)

    @property
    def values(self) -> tuple[str, ...]:
        """Names of the values that it is called with, in order."""
        return tuple(slot.source for slot in self.slots if slot.kind == VALUE)

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute, or what ONNX says it is where it is left out."""
        return self.attributes.get(name, default)

    def hold(self, name: str, tensor: Tensor) -> None:
        """Takes a constant, a parameter as such and any other tensor as a buffer."""
        if isinstance(tensor, nn.Parameter):
            self.register_parameter(name, tensor)
        else:
            self.register_buffer(name, tensor)

    def forward(self, *values: Any) -> Any:
        """Computes the operator."""
        given = iter(values)
        return OPERATORS[self.operator].run(self, *(self._input(slot, given) for slot in self.slots))

    def _input(self, slot: Slot, given: Any) -> Any:
        if slot.kind == VALUE:
            return next(given)
        if slot.kind == TENSOR:
            return getattr(self, slot.name)
        return Host(self.numbers[slot.name]) if slot.kind == NUMBER else None

    def extra_repr(self) -> str:
        """The operator and the node's name."""
        return f"{self.operator}, {self.title!r}"

    def first_call(self, values: list[Any]) -> Any:
        """Computes the operator for the first time; whatever goes wrong names the node.

        Raises:
            Refused: With the node's name.
        """
        try:
            return self(*values)
        except Refused as error:
            raise Refused(f"The node {self.title!r} ({self.operator}) {error}.") from error
        except SecateurError:
            raise
        except Exception as error:  # PyTorch raises what it likes
            shapes = ", ".join(_words(v) for v in values) or "nothing"
            raise Refused(
                f"The node {self.title!r} ({self.operator}) cannot be computed on {shapes}: {first_line(error)}."
            ) from error


def _words(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)} and type {str(value.dtype).removeprefix('torch.')}"
    return f"the numbers {value.numbers[:8]}" if isinstance(value, Host) else "nothing"
