"""The network that an ONNX file describes, as a module: one submodule for every node."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.errors import InputError
from secateur.models.onnx_file.host import LARGEST, tensor_of
from secateur.models.onnx_file.node import ABSENT, HELD, NUMBER, TENSOR, VALUE, OnnxNode, Slot
from secateur.models.onnx_file.ops.shapes import MOST
from secateur.models.onnx_file.proto import constants_of, inputs_of, title_of, value_of
from secateur.models.onnx_file.registry import OPERATORS, OnnxOperator, Refused

__all__ = ["OnnxNetwork", "Source", "built", "random_tensor"]


class Source:
    """What is kept of a file; copies of a network share it.

    Args:
        content: The whole file, all weights inside.
        path: Where it was.
        places: Index of every submodule's node in the file, by the submodule's name.
    """

    __slots__ = ("content", "path", "places")

    def __init__(self, content: bytes, path: str, places: dict[str, int]) -> None:
        """Keeps them."""
        self.content, self.path, self.places = content, path, places

    def __copy__(self) -> Source:
        """Itself: nobody changes it."""
        return self

    def __deepcopy__(self, memo: Any) -> Source:
        """Itself."""
        return self


class OnnxNetwork(nn.Module):
    """Computes what an ONNX file computes, and is a module like any other.

    Every node is a submodule, named after it; its constants are parameters, named as PyTorch (``conv1_Conv.weight``) or
    else ONNX calls them. `secateur.export(pruned, "small.onnx")` cuts the file itself.

    Attributes:
        source: The file.
        given: Names of the inputs, in order.
        made: Names of the outputs, in order.
    """

    def __init__(self, source: Source, given: tuple[str, ...], made: tuple[str, ...]) -> None:
        """An empty one; :func:`built` fills it."""
        super().__init__()
        self.source, self.given, self.made = source, given, made
        self._done: dict[str, tuple[str, ...]] = {}
        self._samples: dict[str, Any] = {}
        self._free: dict[str, tuple[int, ...]] = {}

    @property
    def example_inputs(self) -> tuple[Any, ...]:
        """What it is called with: seeded random numbers of the sizes that the file, or whoever read it, says."""
        return tuple(sample.clone() for sample in self._samples.values())

    def other_inputs(self, inputs: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
        """Inputs of other sizes where the file leaves them free: one more sample and twice the rest, or only some."""
        free: list[tuple[str, int]] = [(name, k) for name, dims in self._free.items() for k in dims]
        batch: list[tuple[str, int]] = [(name, k) for name, k in free if k == 0]
        tries: list[list[tuple[str, int]]] = [free, batch, *([one] for one in free if one[1])]
        for chosen in tries:
            if chosen:
                yield self._resized(inputs, chosen)

    def _resized(self, inputs: tuple[Any, ...], chosen: list[tuple[str, int]]) -> tuple[Any, ...]:
        generator, found = torch.Generator().manual_seed(1), []
        for name, tensor in zip(self.given, inputs, strict=True):
            shape = [s if (name, k) not in chosen else 2 * s if k else s + 1 for k, s in enumerate(tensor.shape)]
            found.append(random_tensor(shape, tensor.dtype, generator))
        return tuple(found)

    def forward(self, *inputs: Any) -> Any:
        """Runs all nodes in order."""
        return self._outputs(lambda node, values: node(*values), inputs)

    def first_run(self, *inputs: Any, seen: Callable[[OnnxNode, Any], None] = lambda node, found: None) -> Any:
        """The same, with words for whatever goes wrong; ``seen`` is called with every node and what it gives.

        Raises:
            Refused: Names the node.
        """

        def run(node: Any, values: list[Any]) -> Any:
            found = node.first_call(values)
            several = found if isinstance(found, (tuple, list)) else (found,)
            for name in node.outputs[len(several) :]:
                raise Refused(f"The node {node.title!r} ({node.operator}) makes {len(several)} values; its output "
                              f"{name!r} is one more.")  # fmt: skip
            for tensor in several:
                if isinstance(tensor, Tensor) and tensor.numel() > MOST:
                    raise Refused(f"The node {node.title!r} ({node.operator}) makes {tensor.numel():,} numbers; "
                                  f"{MOST:,} are the most.")  # fmt: skip
            seen(node, found)
            return found

        return self._outputs(run, inputs)

    def _outputs(self, run: Any, inputs: tuple[Any, ...]) -> Any:
        if len(inputs) != len(self.given):
            raise InputError(f"The network takes {len(self.given)} inputs ({', '.join(self.given)}); got "
                             f"{len(inputs)}.")  # fmt: skip
        values: dict[str, Any] = dict(zip(self.given, inputs, strict=True))
        for name, node in self.named_children():
            wires = self._wires[name]
            found = run(node, [values[wire] for wire in wires[0]])
            several = found if isinstance(found, (tuple, list)) else (found,)
            values.update(zip(wires[1], several, strict=False))
            for gone in self._done.get(name, ()):
                del values[gone]
        outputs = tuple(tensor_of(values[name]) for name in self.made)
        return outputs[0] if len(outputs) == 1 else outputs

    def wire(self, wires: dict[str, tuple[tuple[str, ...], tuple[str, ...]]]) -> None:
        """Takes what every submodule reads and makes, and works out when a value is needed no more."""
        self._wires = wires
        last = {name: node for node, (reads, makes) in wires.items() for name in (*makes, *reads)}
        kept = {*self.made, ""}
        for name, node in last.items():
            if name not in kept:
                self._done[node] = (*self._done.get(node, ()), name)


def random_tensor(shape: list[int], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Normal random numbers; zeros and ones where whole numbers are wanted."""
    if dtype.is_floating_point:
        return torch.randn(shape, generator=generator).to(dtype)
    return torch.randint(0, 2, shape, generator=generator).to(dtype)


# ------------------------------------------------------------------------------------------------------- building


@dataclass
class _Parts:
    """What nodes are built from."""

    constants: dict[str, Any]
    opset: int
    sizes: set[str]
    shared: dict[tuple[str, bool], Tensor] = field(default_factory=dict)


def built(model: Any, content: bytes, path: str) -> OnnxNetwork:
    """The module of a file that was checked.

    Args:
        model: Its ``ModelProto``.
        content: The same as bytes.
        path: Where it lies.

    Raises:
        InputError: Something in it cannot be followed; names the node.
    """
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    constants = constants_of(model)
    parts = _Parts(constants, int(opset), _sizes(model.graph, constants))
    outputs = tuple(value.name for value in model.graph.output)
    network = OnnxNetwork(Source(content, path, {}), tuple(value.name for value in inputs_of(model)), outputs)
    wires: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {}
    for index, node in enumerate(model.graph.node):
        if all(name in parts.constants for name in node.output):
            continue
        name = _module_name(network, node, index)
        made = _node(node, index, parts)
        network.add_module(name, made)
        network.source.places[name] = index
        wires[name] = made.values, made.outputs
    for name in outputs:
        if name in parts.constants:
            raise InputError(f"{path}: its output {name!r} is a constant.")
    network.wire(wires)
    return network.eval()


def _sizes(graph: Any, constants: dict[str, Any]) -> set[str]:
    """Names of values that are computed from shapes alone, and of constants that may be such numbers."""
    found = {name for name, array in constants.items() if array.dtype.kind in "iub" and array.size <= LARGEST}
    for node in graph.node:
        if node.op_type in ("Shape", "Size") or (node.input and all(name in found for name in node.input if name)):
            found.update(node.output)
    return found


def _module_name(network: nn.Module, node: Any, index: int) -> str:
    """The node's name as Python can write it."""
    plain = re.sub(r"\W+", "_", title_of(node, index), flags=re.ASCII).strip("_") or node.op_type
    if not plain[0].isalpha() or hasattr(network, plain):
        plain = f"{node.op_type}_{plain}"
    while hasattr(network, plain):
        plain = f"{plain}_{index}"
    return plain


def _node(node: Any, index: int, parts: _Parts) -> OnnxNode:
    operator = OPERATORS[node.op_type]
    attributes = {attribute.name: value_of(attribute) for attribute in node.attribute}
    title = title_of(node, index)
    constants = {formal: parts.constants[name] for formal, name in _formal(node, parts.opset)
                 if name in parts.constants}  # fmt: skip
    held = set(operator.layout.slots) & set(constants) if operator.layout is not None else set()
    tensors = operator.tensors if node.input and node.input[0] not in parts.sizes else frozenset()
    slots = tuple(
        _slot(formal, name, held, replace(operator, tensors=tensors), parts)
        for formal, name in _formal(node, parts.opset)
    )
    made = OnnxNode(node.op_type, title, parts.opset, attributes, slots, tuple(node.output))
    if operator.layout is not None and held:
        arrays = {name: torch.from_numpy(constants[name].copy()) for name in held}
        for name, tensor in operator.layout.load(arrays, attributes).items():
            made.hold(name, nn.Parameter(tensor.contiguous()))
    for slot in slots:
        if slot.kind == NUMBER:
            value = parts.constants[slot.source].tolist()
            made.numbers[slot.name] = tuple(value) if isinstance(value, list) else value
        elif slot.kind == TENSOR:
            buffer = slot.name in {operator.names.get(formal, formal) for formal in operator.buffers}
            made.hold(slot.name, _shared(slot.source, parts, weight=not buffer))
    return made


def _formal(node: Any, opset: int) -> Iterator[tuple[str, str]]:
    """What ONNX calls every input of a node, and the value that it is."""
    import onnx

    schema = onnx.defs.get_schema(node.op_type, opset)
    for position, name in enumerate(node.input):
        formal = schema.inputs[min(position, len(schema.inputs) - 1)]
        several = formal.option == onnx.defs.OpSchema.FormalParameterOption.Variadic
        title = f"{formal.name}_{position - len(schema.inputs) + 1}" if several else formal.name
        yield (f"{title}_" if title in _TAKEN else title), name


_TAKEN = frozenset(dir(OnnxNode("Identity", "", 1, {}, (), ())))
"""Names that no parameter of a node can have."""


def _slot(formal: str, name: str, held: set[str], operator: OnnxOperator, parts: _Parts) -> Slot:
    own = operator.names.get(formal, formal)
    if not name:
        return Slot(ABSENT, own)
    if name not in parts.constants:
        return Slot(VALUE, own, name)
    if formal in held:
        return Slot(HELD, own, name)
    array = parts.constants[name]
    listed = array.ndim < 2 and array.size <= LARGEST
    if array.dtype.kind in "iub":
        few = listed if formal not in operator.tensors else array.ndim == 0
    else:
        few = listed and (formal in operator.lists or (operator.numbers and array.size <= 1))
    return Slot(NUMBER if few or not array.size else TENSOR, own, name)


def _shared(name: str, parts: _Parts, *, weight: bool) -> Tensor:
    """A constant as a parameter or a buffer, the same one for all nodes that read it."""
    array = parts.constants[name]
    weight = weight and array.dtype.kind == "f"
    key = name, weight
    if key not in parts.shared:
        tensor = torch.from_numpy(array.copy())
        parts.shared[key] = nn.Parameter(tensor) if weight else tensor
    return parts.shared[key]
