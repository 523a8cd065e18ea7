"""Reading ``graph.json``: a network from a file that anybody may have made.

Names of inputs and tensors are checked, operators and modules come from tables, and nothing is evaluated.
"""

from __future__ import annotations

import inspect
import keyword
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.fx.graph import _PyTreeCodeGen, _PyTreeInfo
from torch.utils import _pytree as pytree

from secateur.core.errors import PlanError
from secateur.cut.artifact.allowed import constant, named
from secateur.cut.artifact.graph_file import DROPOUTS, FORMAT, NO_SETTINGS, READ, no_weights
from secateur.cut.artifact.graph_file import KINDS as TENSORS
from secateur.graph.guard import GUARD, SizeGuard, Sizes
from secateur.graph.signature import KINDS, REQUIRED, Argument, Call
from secateur.surgery.graph import BatchNormMode
from secateur.surgery.layers import LAYERS, MODES, filled, in_order, made, module_at, settings_of
from secateur.surgery.scripting import PrunedGraph

__all__ = ["from_json"]

_PART = re.compile(r"[A-Za-z0-9_ :+@#/-]{1,200}")
_DEPTH = 20
_FEW = 8
"""Numbers in one setting of a layer, at most: sizes of a kernel, dimensions that are normalised."""


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
    """Builds one network, node by node."""

    def __init__(self, data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        self.data, self.tensors = data, tensors
        self.graph = Graph()
        self.nodes: list[Node] = []
        self.root = nn.Module()
        self.inputs: list[str] = []
        self.layers: dict[str, Any] = {}

    def module(self) -> GraphModule:
        for name, kind in self.data["tensors"].items():
            self._tensor(name, kind)
        for number, line in enumerate(self.data["nodes"]):
            try:
                self.nodes.append(self._node(line))
            except PlanError as error:
                raise PlanError(f"Node {number} of the graph {error}") from None
        self.graph.output(tuple(self._values(self.data["output"])))
        self._outside()
        self.graph.lint()
        module = PrunedGraph(self.root, self.graph, class_name="PrunedGraph")
        in_order(module, self.root)
        no_weights(module, (n for n, kind in self.data["tensors"].items() if kind == "constant")).eval()
        return module.called_by(self._call())

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
        default = self._value(row["default"]) if "default" in row else REQUIRED
        if row["kind"] not in KINDS or not isinstance(row["taken"], bool) or isinstance(default, (list, Node)):
            raise PlanError("The graph has an argument that is none.")
        return Argument(_identifier(row["name"]), row["kind"], row["taken"], default)

    def _outside(self) -> None:
        """How the network is called, and the structure of what comes out."""
        names = [_identifier(name) for name in self.data["arguments"]]
        inputs, outputs = _read_tree(self.data["inputs"]), _read_tree(self.data["outputs"])
        args, kwargs = inputs
        if not isinstance(kwargs, dict) or len(names) != len(args) + len(kwargs) or len(set(names)) != len(names):
            raise PlanError("The graph's inputs are not those of a call.")
        for name in kwargs:
            _identifier(name)
        in_spec, out_spec = pytree.tree_structure(inputs), pytree.tree_structure(outputs)
        if in_spec.num_leaves != len(self.inputs) or out_spec.num_leaves != len(self.data["output"]):
            raise PlanError("The graph's inputs or outputs do not have the structure that it gives them.")
        self.graph.set_codegen(_PyTreeCodeGen(_PyTreeInfo(names, in_spec, out_spec)))

    def _tensor(self, name: Any, kind: Any) -> None:
        parts = _path(name, "The graph has a tensor")
        if kind not in TENSORS or name not in self.tensors:
            raise PlanError(f"The graph has a tensor {name!r} that is not among the stored ones.")
        parent = module_at(self.root, parts[:-1])
        value = self.tensors[name]
        if kind in ("parameter", "frozen"):
            parent.register_parameter(parts[-1], nn.Parameter(value, requires_grad=kind == "parameter"))
        else:
            parent.register_buffer(parts[-1], value, persistent=kind == "buffer")

    def _node(self, line: Any) -> Node:
        if not isinstance(line, dict):
            raise PlanError(f"is a {type(line).__name__}, not an object.")
        if "input" in line:
            name = _identifier(line["input"])
            if name in self.inputs:
                raise PlanError(f"is a second input called {name!r}.")
            self.inputs.append(name)
            return self.graph.create_node("placeholder", name, name=name)
        if "tensor" in line:
            if line["tensor"] not in self.data["tensors"]:
                raise PlanError(f"takes the tensor {str(line['tensor'])[:80]!r}, which the graph does not have.")
            return self.graph.create_node("get_attr", line["tensor"])
        args = tuple(self._values(line.get("args")))
        if "layer" in line:
            return self.graph.create_node("call_module", self._layer(line), args)
        if "module" in line:
            return self.graph.create_node("call_module", self._module(line), args)
        target = named(line["op"]) if isinstance(line.get("op"), str) else None
        if target is None:
            raise PlanError(f"calls {str(line.get('op'))[:80]!r}, which is not an operator that a graph may hold.")
        kwargs = line.get("kwargs", {})
        if not isinstance(kwargs, dict) or not all(isinstance(k, str) and k.isidentifier() for k in kwargs):
            raise PlanError("has keyword arguments that are no names.")
        kwargs = {name: self._value(value) for name, value in kwargs.items()}
        _check_arguments(target, args, kwargs)
        return self.graph.create_node("call_function", target, args, kwargs)

    def _layer(self, line: Mapping[str, Any]) -> str:
        """Puts a layer of the table where tensors of its name are held, and returns its name."""
        parts = _path(line["layer"], "calls a layer")
        kind = LAYERS.get(line["class"]) if isinstance(line["class"], str) else None
        if kind is None:
            raise PlanError(f"calls the layer {str(line['class'])[:80]!r}; there is no such.")
        settings = {n: self._setting(n, v, kind) for n, v in line["settings"].items()}
        path, told = ".".join(parts), (kind, settings)
        if self.layers.setdefault(path, told) != told:
            raise PlanError(f"calls the layer {path[:80]!r} with other settings than before.")
        home, name = module_at(self.root, parts[:-1]), parts[-1]
        held = home._modules.get(name)
        if type(held) is kind:
            return path
        empty = made(kind, settings)
        shapes = {n: t.shape for n, t in (*empty.named_parameters(), *empty.named_buffers())}
        true = {n: v for n, v in settings_of(empty).items() if n not in NO_SETTINGS} == settings
        layer = filled(empty, held) if true else None
        if layer is None or any(shapes[n] != t.shape for n, t in (*layer.named_parameters(), *layer.named_buffers())):
            raise PlanError(f"calls the layer {path[:80]!r}, whose tensors are not those of such a layer.")
        home.add_module(name, layer)
        return path

    def _setting(self, name: str, value: Any, kind: type[nn.Module]) -> Any:
        """A number, a text, or a few numbers: never where tensors are made, nor what writes into a table unchecked."""
        if name in NO_SETTINGS or name.startswith("_") or name not in inspect.signature(kind).parameters:
            raise PlanError(f"has a layer with the setting {name[:80]!r}; there is no such.")
        found = self._value(value)
        if isinstance(found, list) and len(found) <= _FEW and all(isinstance(v, (int, str)) for v in found):
            return tuple(found)
        if found is not None and not isinstance(found, (bool, int, float, str)):
            raise PlanError("has a layer with settings that are no numbers.")
        return found

    def _module(self, line: Mapping[str, Any]) -> str:
        """Adds a module of the table and returns its name."""
        kind = line["module"]
        if kind == "sizes":
            self.root.add_module(GUARD, SizeGuard(_read_sizes(line["sizes"])))
            return GUARD
        made: nn.Module
        if kind == "batch_norm":
            momentum = line["momentum"]
            made = BatchNormMode(
                None if momentum is None else float(momentum), float(line["eps"]), bool(line["always"])
            )
        elif kind in DROPOUTS:
            made = DROPOUTS[kind](float(line["p"]))
        else:
            raise PlanError(f"calls the module {str(kind)[:80]!r}; there is no such.")
        if MODES not in self.root._modules:
            self.root.add_module(MODES, nn.Module())
        name = f"module_{len(self.nodes)}"
        self.root.get_submodule(MODES).add_module(name, made)
        return f"{MODES}.{name}"

    def _values(self, values: Any) -> list[Any]:
        if not isinstance(values, list):
            raise PlanError(f"has arguments that are a {type(values).__name__}, not a list.")
        return [self._value(value) for value in values]

    def _value(self, value: Any, depth: int = 0) -> Any:
        if value is None or isinstance(value, (bool, str, float)):
            return value
        if isinstance(value, int):
            if abs(value) >= 2**63:
                raise PlanError("has a number that is too large.")
            return value
        if depth >= _DEPTH:
            raise PlanError("has arguments that are nested too deeply.")
        if isinstance(value, list):
            return [self._value(v, depth + 1) for v in value]
        ((kind, inner),) = value.items()
        read = self._READ.get(kind)
        if read is None:
            raise PlanError(f"has an argument of the kind {str(kind)[:40]!r}; there is no such.")
        return read(self, inner)

    def _earlier(self, place: Any) -> Node:
        if not isinstance(place, int) or isinstance(place, bool) or not 0 <= place < len(self.nodes):
            raise PlanError(f"takes the result of node {str(place)[:40]}, which does not come before it.")
        return self.nodes[place]

    _READ: Mapping[str, Callable[[_Reader, Any], Any]] = {
        "node": _earlier,
        "float": lambda self, text: {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}[text],
        "complex": lambda self, parts: complex(*map(float, self._values(parts))),
        "dtype": lambda self, name: _constant(name, torch.dtype),
        "layout": lambda self, name: _constant(name, torch.layout),
        "memory_format": lambda self, name: _constant(name, torch.memory_format),
        "device": lambda self, name: torch.device("cpu"),
    }


def _constant(name: Any, kind: type) -> Any:
    if (found := constant(name, kind)) is None:
        raise PlanError(f"has the {kind.__name__} {str(name)[:40]!r}; there is no such.")
    return found


def _path(name: Any, what: str) -> list[str]:
    """The parts of the name of a tensor or a layer."""
    parts = name.split(".") if isinstance(name, str) else []
    if not parts or not all(map(_PART.fullmatch, parts)) or parts[0] in (MODES, GUARD) or len(parts) > 100:
        raise PlanError(f"{what} called {str(name)[:80]!r}, which is no name of one.")
    if any(keyword.iskeyword(part) for part in parts):
        raise PlanError(f"{what} called {name!r}, a word that Python keeps for itself.")
    return parts


def _identifier(name: Any) -> str:
    """A name that is written into the code of ``forward``: letters, digits and underscores, and nothing else."""
    plain = isinstance(name, str) and re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,200}|_[A-Za-z0-9][A-Za-z0-9_]{0,200}", name)
    if not plain or keyword.iskeyword(name) or name in ("self", "torch", "pytree", "fx_pytree"):
        raise PlanError(f"has an input called {str(name)[:80]!r}, which is no name of one.")
    return str(name)


def _check_arguments(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    schema = getattr(target, "_schema", None)
    if schema is None:
        return
    names = [argument.name for argument in schema.arguments]
    if len(args) > len(names) or not set(kwargs) <= set(names[len(args) :]):
        raise PlanError(f"calls {target} with arguments that it does not take; it takes {', '.join(names)}.")


def _read_sizes(rows: Any) -> Sizes:
    names, shapes, values = [], [], []
    for row in rows:
        names.append(_identifier(row["name"]))
        shape = row["shape"]
        shapes.append(None if shape is None else tuple(map(_read_size, shape)))
        value = row["value"]
        values.append(value if value is None or isinstance(value, (bool, int, float, str)) else None)
    return Sizes(tuple(names), tuple(shapes), tuple(values))


def _read_size(size: Any) -> Any:
    if isinstance(size, list):
        step, name = size
        if not isinstance(step, int) or step < 1 or not isinstance(name, str):
            raise PlanError("guards a size that is none.")
        return step, name[:200]
    if not isinstance(size, int) or size < 0:
        raise PlanError("guards a size that is none.")
    return size


def _read_tree(tree: Any, depth: int = 0) -> Any:
    """A structure with ``None`` for every leaf."""
    if tree == "*":
        return None
    if depth >= _DEPTH:
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
