"""The graph that a cut leaves: called as the network was, and training as it did.

What it knows besides its modules stands in its meta data, which copies keep, and what it can do in functions: a network
may have a submodule of any name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.fx import Graph, GraphModule

from secateur.graph.guard import TRAIN_GUARD
from secateur.graph.signature import Call
from secateur.surgery.pickled import packed, unpacked
from secateur.surgery.scripting import scriptable

__all__ = ["CALL", "FROZEN", "PrunedGraph", "call_by", "eval_graph", "forget_training", "has_train_mode", "train_by",
           "train_graph"]  # fmt: skip


CALL = "secateur_call"
"""Meta data of a graph: the :class:`~secateur.graph.signature.Call` that it is called by."""

MODES, FROZEN = "secateur_modes", "secateur_frozen"
"""Meta data of a graph: the graphs of eval and train mode (which may be one), and layers that stay in eval mode."""


class PrunedGraph(GraphModule):
    """The graph that a cut leaves where the module's own code cannot say it.

    It is called as the network was: by place or by name, with the defaults of its forward.
    """

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
        graphs = [packed(g) for g in (eval_graph(self), train_graph(self)) if g is not None]
        return _unpickled, (rest, meta, graphs, has_train_mode(self))

    def __prepare_scriptable__(self) -> GraphModule:
        """What ``torch.jit.script`` compiles."""
        return scriptable(self)


def call_by(graph: PrunedGraph, call: Call | None) -> PrunedGraph:
    """Makes a graph take its arguments so, in place; ``None`` changes nothing."""
    if call is not None:
        graph.meta[CALL] = call
        graph.recompile()
    return graph


def train_by(small: PrunedGraph, graph: Graph | None, frozen: Sequence[str] = ()) -> PrunedGraph:
    """Makes a graph train as the network does, in place.

    Args:
        small: The graph, in eval mode.
        graph: What is computed in train mode; ``None`` where layers that follow their modes are all there is.
        frozen: Layers that stay in eval mode where the network is put in train mode.
    """
    small.meta[MODES], small.meta[FROZEN] = (small.graph, graph or small.graph), tuple(frozen)
    return small


def forget_training(small: PrunedGraph) -> None:
    """Takes the train mode off a graph again: what it has then are layers that follow their modes."""
    small.graph = small.meta.pop(MODES, (small.graph,))[0]
    small.meta.pop(FROZEN, None)
    small._modules.pop(TRAIN_GUARD, None)


def has_train_mode(graph: nn.Module) -> bool:
    """Whether a graph trains as what it was made of: by a graph of its own, or because there is no difference."""
    return isinstance(graph, PrunedGraph) and MODES in graph.meta


def eval_graph(graph: GraphModule) -> Graph:
    """What is computed in eval mode, whatever the mode is."""
    graphs: tuple[Graph, Graph] = graph.meta.get(MODES, (graph.graph,))
    return graphs[0]


def train_graph(graph: GraphModule) -> Graph | None:
    """What is computed in train mode, where that is another graph."""
    graphs: tuple[Graph, Graph] | None = graph.meta.get(MODES)
    return None if graphs is None or graphs[0] is graphs[1] else graphs[1]


def _unpickled(rest: dict[str, Any], meta: dict[str, Any], graphs: Sequence[Any], modes: bool) -> PrunedGraph:
    made = PrunedGraph(nn.Module(), Graph(), class_name="PrunedGraph")
    made.__dict__.update(rest)
    made.meta = meta
    evaluated, *trained = (unpacked(*rows) for rows in graphs)
    made.graph = evaluated
    if modes:
        train_by(made, trained[0] if trained else None, meta[FROZEN])
        made.graph = made.meta[MODES][made.training]
    return made
