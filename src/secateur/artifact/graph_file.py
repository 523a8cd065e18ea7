"""``graph.json``: a traced network as a list of allowed operators with plain arguments.

Nothing in it is evaluated, imported or unpickled. Results are referred to by their place in the list, names are those
of tensors and inputs and are checked, operators come from :mod:`.allowed`, and modules are the few of this table:
batch norm and dropout that follow ``train()`` and ``eval()``, and the guard of the sizes.
"""

from __future__ import annotations

import json
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

from secateur.artifact.allowed import name_of, named
from secateur.errors import ExportError, PlanError
from secateur.graph.guard import GUARD, SizeGuard, Sizes
from secateur.surgery.graph import BatchNormMode

__all__ = ["FORMAT", "from_json", "tensors_of", "to_json"]

FORMAT = 1
MODES = "_mode"
"""Where the modules that follow ``train()`` and ``eval()`` lie in a traced network."""

_DROPOUTS = {c.__name__: c for c in (nn.Dropout, nn.Dropout2d, nn.AlphaDropout, nn.FeatureAlphaDropout)}
_PART = re.compile(r"[A-Za-z0-9_ :+@#/-]{1,200}")
_DEPTH = 20
_KINDS = ("parameter", "frozen", "buffer", "constant")


def tensors_of(module: GraphModule) -> dict[str, tuple[str, Tensor]]:
    """Every tensor of a traced network by name, with its kind.

    Kinds: ``parameter``, ``frozen`` (one without a gradient), ``buffer`` (part of the state dict), ``constant`` (not).
    """
    state = module.state_dict(keep_vars=True)
    found: dict[str, tuple[str, Tensor]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        found[name] = ("parameter" if parameter.requires_grad else "frozen", parameter)
    for name, buffer in module.named_buffers(remove_duplicate=False):
        found[name] = ("buffer" if name in state else "constant", buffer)
    for node in module.graph.nodes:
        if node.op == "get_attr" and node.target not in found:
            value = _attribute(module, node.target)
            if not isinstance(value, Tensor):
                raise ExportError(f"The graph holds {node.target!r}, a {type(value).__name__}, which is no tensor.")
            found[node.target] = ("constant", value)
    return found


# ------------------------------------------------------------------------------------------------------ writing


def to_json(module: GraphModule) -> str:
    """Writes a traced network that follows its mode and guards its sizes (``surgery.finished``).

    Returns:
        JSON text with one node a line. Values of tensors are not in it.

    Raises:
        ExportError: It holds an operator, an argument or an output that has no place in such a file.
    """
    places = {node: number for number, node in enumerate(module.graph.nodes)}
    lines = [_write_node(module, node, places) for node in module.graph.nodes if node.op != "output"]
    output = next(n for n in module.graph.nodes if n.op == "output")
    info = module.graph._codegen.pytree_info  # type: ignore[attr-defined]
    head = {
        "format": FORMAT,
        "arguments": list(info.orig_args),
        "inputs": _write_tree(info.in_spec, "an input"),
        "outputs": _write_tree(info.out_spec, "an output", free=True),
        "tensors": {name: kind for name, (kind, _) in tensors_of(module).items()},
        "output": _write_value(list(output.args[0]), places, "the output"),
    }
    nodes = ",\n ".join(json.dumps(line, allow_nan=False) for line in lines)
    return json.dumps(head, allow_nan=False)[:-1] + f',\n"nodes": [\n {nodes}]}}\n'


def _write_node(module: GraphModule, node: Node, places: Mapping[Node, int]) -> dict[str, Any]:
    if node.op == "placeholder":
        return {"input": str(node.target)}
    if node.op == "get_attr":
        return {"tensor": str(node.target)}
    where = str(node.target)
    if node.op == "call_module":
        found = _write_module(module.get_submodule(where), where)
    else:
        name = name_of(node.target)
        if name is None:
            raise ExportError(
                f"{where!r} is not among the operators that an artifact's graph may hold. Save with graph=False, or "
                "write a .pt2 file: secateur.export(model, inputs, 'network.pt2')."
            )
        found = {"op": name}
    found["args"] = _write_value(list(node.args), places, where)
    if node.kwargs:
        found["kwargs"] = {name: _write_value(value, places, where) for name, value in node.kwargs.items()}
    return found


def _write_module(module: nn.Module, where: str) -> dict[str, Any]:
    if isinstance(module, BatchNormMode):
        return {"module": "batch_norm", "momentum": module.momentum, "eps": module.eps, "always": module.always}
    if isinstance(module, SizeGuard):
        return {"module": "sizes", "sizes": _write_sizes(module.sizes)}
    if type(module) in _DROPOUTS.values():
        return {"module": type(module).__name__, "p": module.p}
    raise ExportError(f"{where!r}, a {type(module).__name__}, has no place in an artifact's graph.")


def _write_sizes(sizes: Sizes) -> list[dict[str, Any]]:
    rows = zip(sizes.names, sizes.shapes, sizes.values, strict=True)
    return [
        {"name": name, "shape": None if shape is None else [s if isinstance(s, int) else list(s) for s in shape],
         "value": _write_value(value, {}, name)}
        for name, shape, value in rows
    ]  # fmt: skip


def _write_value(value: Any, places: Mapping[Node, int], where: str) -> Any:
    """Arguments: numbers, texts and lists as they are; other things as an object with one key that says what."""
    if isinstance(value, Node):
        return {"node": places[value]}
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, complex):
        return {"complex": [_write_value(v, places, where) for v in (value.real, value.imag)]}
    if isinstance(value, (list, tuple)):
        return [_write_value(v, places, where) for v in value]
    if isinstance(value, (torch.dtype, torch.layout, torch.memory_format)):
        kind, _, name = str(value).rpartition(".")
        return {type(value).__name__: name} if kind == "torch" else None
    if isinstance(value, torch.device):
        return {"device": "cpu"}  # a network is loaded onto the CPU
    raise ExportError(f"{where} has an argument of type {type(value).__name__}, which no artifact can hold.")


def _write_tree(spec: Any, where: str, *, free: bool = False) -> Any:
    """The structure of inputs or outputs: ``"*"`` for a leaf; ``free`` makes a dictionary of what is like one."""
    if spec.is_leaf():
        return "*"
    children = [_write_tree(child, where, free=free) for child in spec.children()]
    if spec.type in (list, tuple):
        return {spec.type.__name__: children}
    keys = spec.context
    named = isinstance(keys, list) and all(isinstance(key, (str, int)) for key in keys)
    if (spec.type is dict or free) and named and len(keys) == len(children):
        return {"dict": [list(pair) for pair in zip(keys, children, strict=True)]}
    if free:
        return {"tuple": children}
    raise ExportError(f"{where} of the network is a {spec.type.__name__}, which no artifact can hold.")


# ------------------------------------------------------------------------------------------------------ reading


def from_json(data: Any, tensors: Mapping[str, Tensor]) -> GraphModule:
    """Builds the network that :func:`to_json` wrote.

    Args:
        data: The parsed file.
        tensors: Values by name.

    Returns:
        A network that can be run and trained, in eval mode.

    Raises:
        PlanError: Another format, or anything that such a file cannot hold; names what.
    """
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        got = data.get("format") if isinstance(data, dict) else type(data).__name__
        raise PlanError(f"The graph has format {str(got)[:40]!r}; this Secateur reads format {FORMAT}.")
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
        module = GraphModule(self.root, self.graph, class_name="PrunedGraph")
        for name in (n for n, kind in self.data["tensors"].items() if kind == "constant"):  # it makes them weights
            home, _, leaf = name.rpartition(".")
            module.get_submodule(home).register_buffer(leaf, self.tensors[name], persistent=False)
        return module.eval()

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
        parts = name.split(".") if isinstance(name, str) else []
        if not parts or not all(map(_PART.fullmatch, parts)) or parts[0] in (MODES, GUARD) or len(parts) > 100:
            raise PlanError(f"The graph has a tensor called {str(name)[:80]!r}, which is no name of one.")
        if any(keyword.iskeyword(part) for part in parts):
            raise PlanError(f"The graph has a tensor called {name!r}, a word that Python keeps for itself.")
        if kind not in _KINDS or name not in self.tensors:
            raise PlanError(f"The graph has a tensor {name!r} that is not among the stored ones.")
        parent = self.root
        for part in parts[:-1]:
            if part not in parent._modules:
                parent.add_module(part, nn.Module())
            parent = parent.get_submodule(part)
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
        elif kind in _DROPOUTS:
            made = _DROPOUTS[kind](float(line["p"]))
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
    found = getattr(torch, name, None) if isinstance(name, str) and re.fullmatch(r"[a-z][a-z0-9_]*", name) else None
    if not isinstance(found, kind):
        raise PlanError(f"has the {kind.__name__} {str(name)[:40]!r}; there is no such.")
    return found


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


def _attribute(module: nn.Module, path: str) -> Any:
    home, _, leaf = path.rpartition(".")
    return getattr(module.get_submodule(home), leaf)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
