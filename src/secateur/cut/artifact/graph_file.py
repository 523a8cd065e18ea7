"""``graph.json``: a traced network as a list of allowed operators with plain arguments.

Results are referred to by their place in the list, names are those of tensors and inputs, operators come from
:mod:`.allowed`, and modules are few: plain layers of PyTorch, batch norm and dropout that follow ``train()`` and
``eval()``, and the guard of the sizes. :mod:`.graph_read` builds the network again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

from secateur.core.errors import ExportError
from secateur.cut.artifact.allowed import name_of
from secateur.graph.guard import SizeGuard, Sizes
from secateur.graph.internals import parts_of
from secateur.graph.signature import REQUIRED, Call
from secateur.surgery.graph import BatchNormMode
from secateur.surgery.layers import MODES, is_layer, settings_of
from secateur.surgery.pruned_graph import CALL, FROZEN, eval_graph, train_graph

__all__ = ["DROPOUTS", "FORMAT", "KINDS", "NO_SETTINGS", "READ", "graphs_of", "no_weights", "tensors_of", "to_json"]

FORMAT = 2
"""2: layers are layers (``layer``), no longer operators alone; the arguments of forward (``call``); train mode."""
READ = (1, 2)
"""Formats that are read."""

DROPOUTS = {c.__name__: c for c in (nn.Dropout, nn.Dropout2d, nn.AlphaDropout, nn.FeatureAlphaDropout)}
KINDS = ("parameter", "frozen", "buffer", "constant")


NO_SETTINGS = ("device", "dtype", "process_group", "max_norm")
"""What layers are built with besides, and no file may say: ``max_norm`` is ``aten.embedding_renorm``."""


def no_weights(module: GraphModule, names: Iterable[str]) -> GraphModule:
    """Takes buffers out of the state dict, in place: a graph module makes all of its buffers weights."""
    for name in names:
        home, _, leaf = name.rpartition(".")
        owner = module.get_submodule(home)
        owner.register_buffer(leaf, owner.get_buffer(leaf), persistent=False)
    return module


def tensors_of(module: GraphModule) -> dict[str, tuple[str, Tensor]]:
    """Every tensor of a traced network by name, with its kind.

    Kinds: ``parameter``, ``frozen`` (one without a gradient), ``buffer`` (part of the state dict), ``constant`` (not).
    """
    state = module.state_dict(keep_vars=True)
    found: dict[str, tuple[str, Tensor]] = {}
    for path, inside in module.named_modules(remove_duplicate=False):  # in the order of the state dict
        for leaf, tensor in (*inside._parameters.items(), *inside._buffers.items()):
            name = f"{path}.{leaf}".lstrip(".")
            if isinstance(tensor, nn.Parameter):
                found[name] = ("parameter" if tensor.requires_grad else "frozen", tensor)
            elif tensor is not None:
                found[name] = ("buffer" if name in state else "constant", tensor)
    for node in (n for graph in graphs_of(module) for n in graph.nodes):
        if node.op == "get_attr" and node.target not in found:
            value = _attribute(module, node.target)
            if not isinstance(value, Tensor):
                raise ExportError(f"The graph holds {node.target!r}, a {type(value).__name__}, which is no tensor.")
            found[node.target] = ("constant", value)
    return found


def to_json(module: GraphModule) -> str:
    """Writes a traced network that follows its mode and guards its sizes (``surgery.finished``).

    Returns:
        JSON text with one node a line. Values of tensors are not in it.

    Raises:
        ExportError: It holds an operator, an argument or an output that has no place in such a file.
    """
    evaluated, *trained = graphs_of(module)
    info = evaluated._codegen.pytree_info  # type: ignore[attr-defined]
    head = {
        "format": FORMAT,
        "arguments": list(info.orig_args),
        "call": _write_call(module.meta.get(CALL)),
        "inputs": _write_tree(info.in_spec, "an input"),
        "tensors": {name: kind for name, (kind, _) in tensors_of(module).items()},
        "modes": module.meta.get(FROZEN),
    }
    further = f',\n"training": {_write_graph(module, trained[0])}' if trained else ""
    return f"{json.dumps(head, allow_nan=False)[:-1]}, {_write_graph(module, evaluated)[1:-1]}{further}}}\n"


def graphs_of(module: GraphModule) -> list[Graph]:
    """What it computes in eval mode, and in train mode where that is another graph."""
    trained = train_graph(module)
    return [eval_graph(module), *([trained] if trained is not None else [])]


def _write_graph(module: GraphModule, graph: Graph) -> str:
    places = {node: number for number, node in enumerate(graph.nodes)}
    lines = [_write_node(module, node, places) for node in graph.nodes if node.op != "output"]
    output: Any = next(n for n in graph.nodes if n.op == "output")
    info = graph._codegen.pytree_info  # type: ignore[attr-defined]
    head = {
        "outputs": _write_tree(info.out_spec, "an output", free=True),
        "output": _write_value(list(output.args[0]), places, "the output"),
    }
    nodes = ",\n ".join(json.dumps(line, allow_nan=False) for line in lines)
    return f'{json.dumps(head, allow_nan=False)[:-1]},\n"nodes": [\n {nodes}]}}'


def _write_call(call: Call | None) -> list[dict[str, Any]] | None:
    """Arguments of the network's own forward; one without a default has to be given."""
    if call is None:
        return None
    return [
        {"name": a.name, "kind": a.kind, "taken": a.taken}
        | ({} if a.default is REQUIRED else {"default": _write_value(a.default, {}, a.name)})
        for a in call.arguments
    ]


def _write_node(module: GraphModule, node: Node, places: Mapping[Node, int]) -> dict[str, Any]:
    if node.op == "placeholder":
        return {"input": str(node.target)}
    if node.op == "get_attr":
        return {"tensor": str(node.target)}
    where = str(node.target)
    if node.op == "call_module":
        called = module.get_submodule(where)
        layer = is_layer(called) and where.partition(".")[0] != MODES
        found = _write_layer(called, where) if layer else _write_module(called, where)
    else:
        name = name_of(node.target)
        if name is None:
            raise ExportError(
                f"{where!r} is not among the operators that an artifact's graph may hold. Save with graph=False, or "
                "write a .pt2 file (secateur export, or secateur.export(model, inputs, 'network.pt2'))."
            )
        found = {"op": name}
    found["args"] = _write_value(list(node.args), places, where)
    if node.kwargs:
        found["kwargs"] = {name: _write_value(value, places, where) for name, value in node.kwargs.items()}
    return found


def _write_layer(layer: nn.Module, where: str) -> dict[str, Any]:
    """A layer by its class and what it is built with; its tensors are among the others, by name."""
    settings = {n: _write_value(v, {}, where) for n, v in settings_of(layer).items() if n not in NO_SETTINGS}
    return {"layer": where, "class": type(layer).__name__, "settings": settings}


def _write_module(module: nn.Module, where: str) -> dict[str, Any]:
    if isinstance(module, BatchNormMode):
        return {"module": "batch_norm", "momentum": module.momentum, "eps": module.eps, "always": module.always}
    if isinstance(module, SizeGuard):
        return {"module": "sizes", "sizes": _write_sizes(module.sizes)}
    if type(module) in DROPOUTS.values():
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
    children = [_write_tree(child, where, free=free) for child in parts_of(spec)]
    if spec.type in (list, tuple):
        return {spec.type.__name__: children}
    keys = spec.context
    named = isinstance(keys, list) and all(isinstance(key, (str, int)) for key in keys)
    if (spec.type is dict or free) and named and len(keys) == len(children):
        return {"dict": [list(pair) for pair in zip(keys, children, strict=True)]}
    if free:
        return {"tuple": children}
    raise ExportError(f"{where} of the network is a {spec.type.__name__}, which no artifact can hold.")


def _attribute(module: nn.Module, path: str) -> Any:
    home, _, leaf = path.rpartition(".")
    return getattr(module.get_submodule(home), leaf)
