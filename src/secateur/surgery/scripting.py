"""A pruned graph for TorchScript, which compiles neither PyTorch's containers of inputs nor a check of any sizes."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.fx import Graph, GraphModule, Node
from torch.utils import _pytree as pytree

from secateur.graph.guard import TRAIN_GUARD, SizeGuard, Sizes, require
from secateur.graph.numbers import COMPARISONS
from secateur.graph.signature import Call
from secateur.surgery.pickled import packed, unpacked

__all__ = ["CALL", "FROZEN", "PrunedGraph", "is_trained"]


CALL = "secateur_call"
"""Meta data of a graph: the :class:`~secateur.graph.signature.Call` that it is called by."""


MODES, FROZEN = "secateur_modes", "secateur_frozen"
"""Meta data of a graph: the graphs of eval and train mode (which may be one), and layers that stay in eval mode."""


class PrunedGraph(GraphModule):
    """The graph that a cut leaves where the module's own code cannot say it.

    It is called as the network was: by place or by name, with the defaults of its forward.
    """

    @property
    def modes(self) -> bool:
        """Whether its train mode is that of the network: by a graph of its own, or because there is no difference."""
        return MODES in self.meta

    @property
    def evaluated(self) -> Graph:
        """What is computed in eval mode, whatever the mode is."""
        graphs: tuple[Graph, Graph] = self.meta.get(MODES, (self.graph,))
        return graphs[0]

    @property
    def trained(self) -> Graph | None:
        """What is computed in train mode, where that is another graph."""
        graphs: tuple[Graph, Graph] | None = self.meta.get(MODES)
        return None if graphs is None or graphs[0] is graphs[1] else graphs[1]

    def trained_by(self, graph: Graph | None, frozen: Sequence[str] = ()) -> PrunedGraph:
        """Makes it train as the network does, in place.

        Args:
            graph: What is computed in train mode; ``None`` where layers that follow their modes are all there is.
            frozen: Layers that stay in eval mode where the network is put in train mode.
        """
        self.meta[MODES], self.meta[FROZEN] = (self.graph, graph or self.graph), tuple(frozen)
        return self

    def forget_training(self) -> None:
        """Takes its train mode off again: what it has then are layers that follow their modes."""
        self.graph = self.meta.pop(MODES, (self.graph,))[0]
        self.meta.pop(FROZEN, None)
        self._modules.pop(TRAIN_GUARD, None)

    def train(self, mode: bool = True) -> PrunedGraph:
        """Puts it in train or eval mode, as the network's own ``train()`` does."""
        super().train(mode)
        inside = dict(self.named_modules()) if mode else {}
        for path in self.meta.get(FROZEN, ()):
            if path in inside:
                inside[path].training = False
        graphs = self.meta.get(MODES)
        if graphs is not None and self.graph is not graphs[mode]:
            self.graph = graphs[mode]
        return self

    def called_by(self, call: Call | None) -> PrunedGraph:
        """Makes it take its arguments so, in place; ``None`` changes nothing."""
        if call is not None:
            self.meta[CALL] = call
            self.recompile()
        return self

    def recompile(self) -> Any:
        """Writes the code of the graph anew, and puts the network's own arguments in front of it."""
        code = super().recompile()
        call, flat = getattr(self, "meta", {}).get(CALL), type(self).forward
        if call is not None:

            def forward(self: PrunedGraph, *args: Any, **kwargs: Any) -> Any:
                return flat(self, *call.values(args, kwargs))

            forward.__signature__ = call.signature  # type: ignore[attr-defined]
            type(self).forward = forward
        return code

    def __deepcopy__(self, memo: Any) -> PrunedGraph:
        """A copy with its own code: what a graph is copied without stands in its meta data."""
        copied: PrunedGraph = super().__deepcopy__(memo)  # type: ignore[assignment]
        copied._non_persistent_buffers_set = set(self._non_persistent_buffers_set)  # or else constants became weights
        copied.recompile()
        return copied

    def __reduce__(self) -> tuple[Any, ...]:
        """What pickles keep: both graphs as rows, everything else as it is."""
        rest = {n: v for n, v in self.__dict__.items() if n not in ("_graph", "meta")}
        meta = {n: v for n, v in self.meta.items() if n != MODES}
        graphs = [packed(g) for g in (self.evaluated, self.trained) if g is not None]
        return _unpickled, (rest, meta, graphs, self.modes)

    def __prepare_scriptable__(self) -> GraphModule:
        """What ``torch.jit.script`` compiles: plain inputs in order, the same checks of sizes, the same results."""
        graph, copies = Graph(), dict[Node, Any]()
        for node in self.graph.nodes:
            copies[node] = _copied(self, graph, node, copies)
        return GraphModule(self, graph)


def is_trained(graph: nn.Module) -> bool:
    """Whether a graph has the train mode of what it was made of."""
    return isinstance(graph, PrunedGraph) and graph.modes


def _unpickled(rest: dict[str, Any], meta: dict[str, Any], graphs: Sequence[Any], modes: bool) -> PrunedGraph:
    made = PrunedGraph(nn.Module(), Graph(), class_name="PrunedGraph")
    made.__dict__.update(rest)
    made.meta = meta
    evaluated, *trained = (unpacked(*rows) for rows in graphs)
    made.graph = evaluated
    if modes:
        made.trained_by(trained[0] if trained else None, meta[FROZEN])
        made.graph = made.meta[MODES][made.training]
    return made


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
