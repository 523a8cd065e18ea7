"""A traced network: what every later step works on."""

from __future__ import annotations

import operator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch._ops import OpOverload
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from secateur.graph.batch import Batch
from secateur.graph.calling import entered, has_batch
from secateur.graph.guard import Sizes

__all__ = ["Traced"]


@dataclass(eq=False)
class Traced:
    """A traced network. Its graph and its sizes change where sizes besides the batch are freed.

    Attributes:
        module: Flat graph; parameters keep the names and the memory of the network's own.
        args: Positional example inputs that the graph was traced with.
        kwargs: Keyword example inputs that the graph was traced with.
        batch: Size of the batch in the example inputs (1 where there is none).
        dynamic: Whether the batch size stayed free.
        given: The user's example inputs (positional, keyword); a batch of one was traced as a batch of two.
        sizes: What the graph was traced for, input by input.
        method: What was traced: ``forward``, or another method.
        training: Whether it was traced in train mode.
        notes: What the user should know about the way it was traced.
        odd: Of a recorded network, what its whole numbers are read by; ``None`` where ``torch.export`` traced it.
        freed: What was found out about sizes besides the batch, by ``graph.free``; ``None`` before that.
        in_graph: What is otherwise in a graph than in the network.
        state: Numbers of the outputs that the network hands to its own next call: keys and values in a cache.
        once: In train mode, why a graph of it would not do in every step what the network does (Python decides by
            chance, changes what the network holds, switches gradients off); empty where nothing of the kind was seen.
    """

    module: GraphModule
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    batch: int
    dynamic: bool
    given: tuple[tuple[Any, ...], dict[str, Any]]
    sizes: Sizes
    method: str = "forward"
    training: bool = False
    notes: tuple[str, ...] = ()
    odd: Batch | None = None
    freed: object = None
    in_graph: tuple[str, ...] = ()
    state: frozenset[int] = frozenset()
    once: str = ""

    def without_state(self) -> Traced:
        """The same way through the network, of which what it keeps for its own next call is no result."""
        if not self.state:
            return self
        output = next(n for n in self.nodes if n.op == "output")
        given: Any = output.args[0]
        output.args = (tuple(None if k in self.state else leaf for k, leaf in enumerate(given)),)
        return replace(self, state=frozenset())

    @property
    def recorded(self) -> bool:
        """Whether the recorder traced it."""
        return self.odd is not None

    @property
    def nodes(self) -> list[Node]:
        """The operators in the order of execution."""
        return list(self.module.graph.nodes)

    @property
    def operators(self) -> list[Node]:
        """Operators, and the single ones of several results; what computes sizes (of a freed graph) is left out."""
        return [
            node
            for node in self.nodes
            if node.target is operator.getitem
            or (isinstance(node.target, OpOverload) and node.target is not torch.ops.aten.sym_size.int)
        ]

    @property
    def given_batch(self) -> int | None:
        """Size of the batch in the user's own inputs, ``None`` where there is none."""
        return next((t.shape[0] for t in pytree.tree_leaves(self.given) if has_batch(t)), None)

    @property
    def any_batch(self) -> bool:
        """Whether every batch size will do (a free one may have to be a multiple of two, say)."""
        steps = [s[0] for shape in self.sizes.shapes for s in shape or () if not isinstance(s, int)]
        return self.dynamic and set(steps) == {1}

    @property
    def name(self) -> str:
        """What was traced, in words."""
        return f"{self.method} in train mode" if self.training else self.method

    def enter(self, model: nn.Module) -> nn.Module:
        """Puts a (copied) network of the same class in the state that was traced: mode, and method as ``forward``."""
        return entered(model, self.method, self.training)
