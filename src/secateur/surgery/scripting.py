"""A pruned graph for TorchScript, which compiles neither PyTorch's containers of inputs nor a check of any sizes."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node
from torch.utils import _pytree as pytree

from secateur.graph.guard import SizeGuard, Sizes, require
from secateur.graph.numbers import COMPARISONS

__all__ = ["scriptable"]


def scriptable(module: GraphModule) -> GraphModule:
    """What ``torch.jit.script`` compiles: plain inputs in order, the same checks of sizes, the same results."""
    graph, copies = Graph(), dict[Node, Any]()
    for node in module.graph.nodes:
        copies[node] = _copied(module, graph, node, copies)
    return GraphModule(module, graph)


def _copied(module: GraphModule, graph: Graph, node: Node, copies: dict[Node, Any]) -> Any:
    args: Any = torch.fx.node.map_arg(node.args, copies.__getitem__)
    guard = module.get_submodule(str(node.target)) if node.op == "call_module" else None
    if isinstance(guard, SizeGuard):
        for check, words in _checks(graph, guard.sizes, args):
            graph.call_function(torch._assert, (check, words))
        return None
    if node.target is require:
        left, comparison, right, outcome = args
        held = graph.call_function(COMPARISONS[comparison], (left, right))
        check = graph.call_function(operator.eq, (held, outcome))
        return graph.call_function(torch._assert, (check, "the network goes another way at these sizes"))
    if node.target is torch.ops.aten.sym_size.int:
        return graph.call_method("size", args)
    copied = graph.node_copy(node, copies.__getitem__)
    if isinstance(node.target, torch._ops.OpOverload):
        copied.target = node.target.overloadpacket
    if node.op == "output":
        copied.args = (_structured(module, args[0]),)
    return copied


def _structured(module: GraphModule, results: Any) -> Any:
    """Results in the network's own containers."""
    spec: Any = getattr(module, "_out_spec", None)
    return results if spec is None else pytree.tree_unflatten(list(results), spec)


def _checks(graph: Graph, sizes: Sizes, inputs: Sequence[Any]) -> Iterator[tuple[Node, str]]:
    """Comparisons of sizes with those that the graph was traced for, each with what is wrong where it fails."""
    known: dict[str, Node] = {}
    for name, shape, given in zip(sizes.names, sizes.shapes, inputs, strict=True):
        for dim, wanted in enumerate(shape or ()):
            size = graph.call_method("size", (given, dim))
            words = f"dimension {dim} of {name} is another than this graph was traced for"
            if isinstance(wanted, int):
                yield graph.call_function(operator.eq, (size, wanted)), words
                continue
            step, symbol = wanted
            if step > 1:
                rest = graph.call_function(operator.mod, (size, step))
                yield graph.call_function(operator.eq, (rest, 0)), words
            times = graph.call_function(operator.floordiv, (size, step)) if step > 1 else size
            if symbol in known:
                yield graph.call_function(operator.eq, (times, known[symbol])), words
            known.setdefault(symbol, times)
