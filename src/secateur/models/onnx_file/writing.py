"""The file of a network that was cut: the user's own file, with smaller constants in it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.core.errors import ExportError
from secateur.models.onnx_file.network import OnnxNetwork
from secateur.models.onnx_file.node import HELD, NUMBER, TENSOR, OnnxNode
from secateur.models.onnx_file.ops.pieces import PIECES
from secateur.models.onnx_file.proto import constants_of, message, value_of
from secateur.models.onnx_file.registry import OPERATORS

__all__ = ["Unwritable", "file_of"]

Array = NDArray[Any]


class Unwritable(ExportError):
    """The network is not any more what the file's nodes can say."""


def file_of(network: OnnxNetwork) -> bytes:
    """The file that computes what a network computes: names, versions and everything else are those of its source.

    Args:
        network: What :func:`read_onnx` gave, or what was made of it (cut, trained, made sparse).

    Returns:
        The content of the file.

    Raises:
        Unwritable: A submodule is no node of the file any more.
    """
    model = message(network.source.content, network.source.path)
    file = _File(model.graph, constants_of(model))
    for name, node in network.named_children():
        if not isinstance(node, OnnxNode):
            raise Unwritable(f"{name} is no node of an ONNX file any more.")
        proto = model.graph.node[network.source.places[name]]
        arrays, attributes = _arrays(node, file.constants)
        _change_attributes(proto, {**node.attributes, **attributes})
        file.split(proto, node)
        for position, slot in enumerate(node.slots):
            if slot.name in arrays:
                file.wants(proto, position, arrays[slot.name])
    file.settle()
    _infer_again(model)
    content: bytes = model.SerializeToString()
    return content


def _arrays(node: OnnxNode, constants: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Any]]:
    """A node's constants by formal name, and attributes that follow from them."""
    found: dict[str, Array] = {}
    for slot in node.slots:
        if slot.kind == TENSOR:
            found[slot.name] = getattr(node, slot.name).detach().cpu().numpy()
        elif slot.kind == NUMBER:
            found[slot.name] = np.asarray(node.numbers[slot.name], dtype=constants[slot.source].dtype)
    layout = OPERATORS[node.operator].layout
    if layout is None or all(slot.kind != HELD for slot in node.slots):
        return found, {}
    tensors = {name: parameter.detach().cpu() for name, parameter in node.named_parameters()}
    arrays, attributes = layout.store(tensors, node.attributes)
    return {**found, **{name: array.numpy() for name, array in arrays.items()}}, attributes


def _change_attributes(proto: Any, wanted: Mapping[str, Any]) -> None:
    from onnx import helper

    for attribute in proto.attribute:
        if attribute.name in wanted and value_of(attribute) != wanted[attribute.name]:
            attribute.CopyFrom(helper.make_attribute(attribute.name, wanted[attribute.name]))


@dataclass
class _File:
    """The constants of a graph, and what its nodes want them to be."""

    graph: Any
    constants: dict[str, Array]
    wanted: dict[str, list[tuple[Any, int, Array]]] = field(default_factory=dict)

    def wants(self, proto: Any, position: int, array: Array) -> None:
        """Notes what one input of one node has to be."""
        self.wanted.setdefault(proto.input[position], []).append((proto, position, array))

    def split(self, proto: Any, node: OnnxNode) -> None:
        """A split that names no sizes names them where its pieces have become uneven."""
        from onnx import helper

        pieces = node.numbers.get(PIECES, ())
        if len(set(pieces)) < 2:
            return
        if node.opset < 13:
            proto.attribute.append(helper.make_attribute("split", list(pieces)))
            return
        kept = [attribute for attribute in proto.attribute if attribute.name != "num_outputs"]
        del proto.attribute[:]
        proto.attribute.extend(kept)
        proto.input[1:] = [self._added(f"{proto.output[0]}_sizes", np.asarray(pieces, dtype=np.int64))]

    def settle(self) -> None:
        """Changes constants that all their readers want alike; readers that differ get one of their own."""
        for name, wishes in self.wanted.items():
            before, first = self.constants[name], wishes[0][2]
            if all(_same(array, before) for _, _, array in wishes):
                continue
            if all(_same(array, first) for _, _, array in wishes) and name in self._holders:
                self._replace(name, first)
                continue
            for proto, position, array in wishes:
                if not _same(array, before):
                    proto.input[position] = self._added(name, array)
        self._drop_unread()

    @cached_property
    def _holders(self) -> dict[str, Any]:
        """Where constants are that nothing else is an alias of."""
        found = {tensor.name: tensor for tensor in self.graph.initializer}
        for node in self.graph.node:
            if node.op_type == "Constant":
                found[node.output[0]] = node
        for node in self.graph.node:
            if node.op_type == "Identity":
                found.pop(node.input[0], None)
        return found

    def _replace(self, name: str, array: Array) -> None:
        from onnx import helper, numpy_helper

        holder = self._holders[name]
        tensor = numpy_helper.from_array(np.ascontiguousarray(array), name)
        if hasattr(holder, "op_type"):
            holder.attribute[0].CopyFrom(helper.make_attribute("value", tensor))
            return
        holder.CopyFrom(tensor)
        for value in self.graph.input:
            if value.name == name:  # before version 4 of the format every constant is an input with a default
                value.CopyFrom(helper.make_tensor_value_info(name, tensor.data_type, array.shape))

    def _added(self, name: str, array: Array) -> str:
        from onnx import numpy_helper

        taken = {tensor.name for tensor in self.graph.initializer} | {o for n in self.graph.node for o in n.output}
        taken |= {value.name for value in self.graph.input}
        for tensor in self.graph.initializer:
            if tensor.name.startswith(f"{name}_cut") and _same(numpy_helper.to_array(tensor), array):
                return str(tensor.name)
        new = next(f"{name}_cut{k}" for k in range(len(taken) + 1) if f"{name}_cut{k}" not in taken)
        self.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), new))
        return new

    def _drop_unread(self) -> None:
        """Constants that had a reader, and have none any more."""
        read = {name for node in self.graph.node for name in node.input} | {o.name for o in self.graph.output}
        given = {value.name for value in self.graph.input}
        for tensor in list(self.graph.initializer):
            if tensor.name in self.wanted and tensor.name not in read and tensor.name not in given:
                self.graph.initializer.remove(tensor)
        for node in list(self.graph.node):
            if node.op_type == "Constant" and node.output[0] in self.wanted and node.output[0] not in read:
                self.graph.node.remove(node)


def _same(a: Array, b: Array) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def _infer_again(model: Any) -> None:
    """Shapes of values between the nodes, where the file has them, are those of the smaller network."""
    if not model.graph.value_info:
        return
    from onnx import shape_inference

    del model.graph.value_info[:]
    with contextlib.suppress(Exception):  # they are a convenience, and the largest files have no room for it
        model.CopyFrom(shape_inference.infer_shapes(model))
