"""Reading the nodes of one graph from ``graph.json``: names are checked, operators and layers come from tables."""

from __future__ import annotations

import inspect
import keyword
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.fx import Graph, Node

from secateur.core.errors import PlanError
from secateur.cut.artifact.allowed import constant, named
from secateur.cut.artifact.graph_file import DROPOUTS, NO_SETTINGS
from secateur.graph.guard import GUARD, TRAIN_GUARD, SizeGuard, Sizes
from secateur.surgery.graph import BatchNormMode
from secateur.surgery.layers import LAYERS, MODES, filled, made, module_at, settings_of

__all__ = ["DEPTH", "NodeReader", "identifier", "path_of"]

_PART = re.compile(r"[A-Za-z0-9_ :+@#/-]{1,200}")
DEPTH = 20
"""How deep arguments and structures are nested, at most."""
_FEW = 8
"""Numbers in one setting of a layer, at most: sizes of a kernel, dimensions that are normalised."""


class NodeReader:
    """Builds one graph, node by node."""

    def __init__(self, root: nn.Module, tensors: Mapping[str, Any], layers: dict[str, Any], guard: str = GUARD) -> None:
        """Nothing is read yet.

        Args:
            root: Holds the tensors; layers take the places of what holds theirs.
            tensors: By name, all that there are.
            layers: What is known of layers by name; those of other graphs of the network among them.
            guard: Name under which the guard of the sizes lies.
        """
        self.root, self.tensors, self.layers, self.guard = root, tensors, layers, guard
        self.graph = Graph()
        self.nodes: list[Node] = []
        self.inputs: list[str] = []

    def read(self, lines: Any, output: Any) -> Graph:
        """The graph of some nodes and of what it gives."""
        for number, line in enumerate(lines):
            try:
                self.nodes.append(self._node(line))
            except PlanError as error:
                raise PlanError(f"Node {number} of the graph {error}") from None
        self.graph.output(tuple(self._values(output)))
        self.graph.lint()
        return self.graph

    def _node(self, line: Any) -> Node:
        if not isinstance(line, dict):
            raise PlanError(f"is a {type(line).__name__}, not an object.")
        if "input" in line:
            name = identifier(line["input"])
            if name in self.inputs:
                raise PlanError(f"is a second input called {name!r}.")
            self.inputs.append(name)
            return self.graph.create_node("placeholder", name, name=name)
        if "tensor" in line:
            if line["tensor"] not in self.tensors:
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
        kwargs = {name: self.value(value) for name, value in kwargs.items()}
        _check_arguments(target, args, kwargs)
        return self.graph.create_node("call_function", target, args, kwargs)

    def _layer(self, line: Mapping[str, Any]) -> str:
        """Puts a layer of the table where tensors of its name are held, and returns its name."""
        parts = path_of(line["layer"], "calls a layer")
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
        found = self.value(value)
        if isinstance(found, list) and len(found) <= _FEW and all(isinstance(v, (int, str)) for v in found):
            return tuple(found)
        if found is not None and not isinstance(found, (bool, int, float, str)):
            raise PlanError("has a layer with settings that are no numbers.")
        return found

    def _module(self, line: Mapping[str, Any]) -> str:
        """Adds a module of the table and returns its name."""
        kind = line["module"]
        if kind == "sizes":
            self.root.add_module(self.guard, SizeGuard(_read_sizes(line["sizes"])))
            return self.guard
        found: nn.Module
        if kind == "batch_norm":
            momentum = line["momentum"]
            found = BatchNormMode(
                None if momentum is None else float(momentum), float(line["eps"]), bool(line["always"])
            )
        elif kind in DROPOUTS:
            found = DROPOUTS[kind](float(line["p"]))
        else:
            raise PlanError(f"calls the module {str(kind)[:80]!r}; there is no such.")
        holder = module_at(self.root, [MODES])
        name = f"module_{len(holder._modules)}"
        holder.add_module(name, found)
        return f"{MODES}.{name}"

    def _values(self, values: Any) -> list[Any]:
        if not isinstance(values, list):
            raise PlanError(f"has arguments that are a {type(values).__name__}, not a list.")
        return [self.value(value) for value in values]

    def value(self, value: Any, depth: int = 0) -> Any:
        """One argument."""
        if value is None or isinstance(value, (bool, str, float)):
            return value
        if isinstance(value, int):
            if abs(value) >= 2**63:
                raise PlanError("has a number that is too large.")
            return value
        if depth >= DEPTH:
            raise PlanError("has arguments that are nested too deeply.")
        if isinstance(value, list):
            return [self.value(v, depth + 1) for v in value]
        ((kind, inner),) = value.items()
        read = self._READ.get(kind)
        if read is None:
            raise PlanError(f"has an argument of the kind {str(kind)[:40]!r}; there is no such.")
        return read(self, inner)

    def _earlier(self, place: Any) -> Node:
        if not isinstance(place, int) or isinstance(place, bool) or not 0 <= place < len(self.nodes):
            raise PlanError(f"takes the result of node {str(place)[:40]}, which does not come before it.")
        return self.nodes[place]

    _READ: Mapping[str, Callable[[NodeReader, Any], Any]] = {
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


def path_of(name: Any, what: str) -> list[str]:
    """The parts of the name of a tensor or a layer."""
    parts = name.split(".") if isinstance(name, str) else []
    if not parts or not all(map(_PART.fullmatch, parts)) or parts[0] in (MODES, GUARD, TRAIN_GUARD) or len(parts) > 100:
        raise PlanError(f"{what} called {str(name)[:80]!r}, which is no name of one.")
    if any(keyword.iskeyword(part) for part in parts):
        raise PlanError(f"{what} called {name!r}, a word that Python keeps for itself.")
    return parts


def identifier(name: Any) -> str:
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
        names.append(identifier(row["name"]))
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
