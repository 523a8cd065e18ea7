"""Reading ``graph.json``: a network from a file that anybody may have made.

Names of inputs and tensors are checked, operators, layers and modules come from tables, and nothing is evaluated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.fx.graph import _PyTreeCodeGen, _PyTreeInfo
from torch.utils import _pytree as pytree

from secateur.core.errors import PlanError
from secateur.cut.artifact.graph_file import FORMAT, READ
from secateur.cut.artifact.graph_file import KINDS as TENSORS
from secateur.cut.artifact.graph_nodes import DEPTH, NodeReader, identifier, path_of
from secateur.graph.guard import GUARD, TRAIN_GUARD
from secateur.graph.signature import KINDS, REQUIRED, Argument, Call
from secateur.surgery.layers import module_at
from secateur.surgery.pruned_graph import PrunedGraph, call_by, train_by

__all__ = ["from_json"]


def from_json(data: Any, tensors: Mapping[str, Tensor]) -> GraphModule:
    """Builds the network that :func:`.graph_file.to_json` wrote.

    Args:
        data: The parsed file.
        tensors: Values by name.

    Returns:
        A network that can be run and trained, in eval mode.

    Raises:
        PlanError: Another format, or anything that such a file cannot hold; names what.
    """
    if not isinstance(data, dict) or data.get("format") not in READ:
        got = data.get("format") if isinstance(data, dict) else type(data).__name__
        raise PlanError(f"The graph has format {str(got)[:40]!r}; this Secateur reads formats up to {FORMAT}.")
    try:
        return _Reader(data, tensors).module()
    except PlanError:
        raise
    except Exception as error:  # fx and torch raise many classes for graphs that make no sense
        raise PlanError(f"The graph is damaged: {type(error).__name__}: {_short(error)}.") from error


class _Reader:
    """Builds one network."""

    def __init__(self, data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        self.data, self.tensors = data, tensors
        self.root = PrunedGraph(nn.Module(), Graph(), class_name="PrunedGraph")
        self.layers: dict[str, Any] = {}

    def module(self) -> GraphModule:
        for name, kind in self.data["tensors"].items():
            self._tensor(name, kind)
        self.root.graph = self._graph(self.data, GUARD)
        if self.data.get("modes") is not None:
            further, frozen = self.data.get("training"), self.data["modes"]
            if not isinstance(frozen, list) or not all(isinstance(path, str) for path in frozen):
                raise PlanError("The graph's layers that stay in eval mode are no names.")
            train_by(self.root, None if further is None else self._graph(further, TRAIN_GUARD), frozen)
        return call_by(self.root, self._call()).eval()

    def _graph(self, data: Mapping[str, Any], guard: str) -> Graph:
        """What is computed in one mode."""
        nodes = NodeReader(self.root, self.data["tensors"], self.layers, guard)
        graph = nodes.read(data["nodes"], data["output"])
        self._outside(graph, nodes.inputs, data)
        return graph

    def _call(self) -> Call | None:
        """The arguments of the network's own forward."""
        if (rows := self.data.get("call")) is None:
            return None
        found = [self._argument(row) for row in rows]
        call = Call(tuple(found), tuple(self.data["arguments"]))
        names = [a.name for a in found]
        if len(set(names)) != len(names) or {a.name for a in found if a.taken} != set(call.order):
            raise PlanError("The graph's arguments are not those of its inputs.")
        return call

    def _argument(self, row: Mapping[str, Any]) -> Argument:
        plain = NodeReader(self.root, {}, {})
        default = plain.value(row["default"]) if "default" in row else REQUIRED
        if row["kind"] not in KINDS or not isinstance(row["taken"], bool) or isinstance(default, (list, Node)):
            raise PlanError("The graph has an argument that is none.")
        return Argument(identifier(row["name"]), row["kind"], row["taken"], default)

    def _outside(self, graph: Graph, found: list[str], data: Mapping[str, Any]) -> None:
        """How the network is called, and the structure of what comes out."""
        names = [identifier(name) for name in self.data["arguments"]]
        inputs, outputs = _read_tree(self.data["inputs"]), _read_tree(data["outputs"])
        args, kwargs = inputs
        if not isinstance(kwargs, dict) or len(names) != len(args) + len(kwargs) or len(set(names)) != len(names):
            raise PlanError("The graph's inputs are not those of a call.")
        for name in kwargs:
            identifier(name)
        in_spec, out_spec = pytree.tree_structure(inputs), pytree.tree_structure(outputs)
        if in_spec.num_leaves != len(found) or out_spec.num_leaves != len(data["output"]):
            raise PlanError("The graph's inputs or outputs do not have the structure that it gives them.")
        graph.set_codegen(_PyTreeCodeGen(_PyTreeInfo(names, in_spec, out_spec)))

    def _tensor(self, name: Any, kind: Any) -> None:
        parts = path_of(name, "The graph has a tensor")
        if kind not in TENSORS or name not in self.tensors:
            raise PlanError(f"The graph has a tensor {name!r} that is not among the stored ones.")
        parent = module_at(self.root, parts[:-1])
        value = self.tensors[name]
        if kind in ("parameter", "frozen"):
            parent.register_parameter(parts[-1], nn.Parameter(value, requires_grad=kind == "parameter"))
        else:
            parent.register_buffer(parts[-1], value, persistent=kind == "buffer")


def _read_tree(tree: Any, depth: int = 0) -> Any:
    """A structure with ``None`` for every leaf."""
    if tree == "*":
        return None
    if depth >= DEPTH:
        raise PlanError("The graph's inputs or outputs are nested too deeply.")
    ((kind, children),) = tree.items()
    if kind == "dict":
        if not all(isinstance(key, (str, int)) for key, _ in children):
            raise PlanError("The graph's inputs or outputs have keys that are no names.")
        return {key: _read_tree(child, depth + 1) for key, child in children}
    if kind not in ("list", "tuple"):
        raise PlanError(f"The graph's inputs or outputs have a part of the kind {str(kind)[:40]!r}; there is no such.")
    found = [_read_tree(child, depth + 1) for child in children]
    return found if kind == "list" else tuple(found)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
