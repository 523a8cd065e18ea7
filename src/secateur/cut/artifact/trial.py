"""Looks whether a graph from a file works at all, and how much memory it would want, without computing anything."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Interpreter, Node
from torch.fx._pytree import tree_flatten_spec
from torch.utils import _pytree as pytree

from secateur.core.errors import PlanError, first_line
from secateur.core.types import ExampleInputs
from secateur.cut.artifact.graph_file import graphs_of
from secateur.graph.calling import to_args
from secateur.graph.copies import copy_network

__all__ = ["try_out"]

LEAST = 2**28
"""A tensor of so many bytes may be in any network."""
FACTOR = 64
"""And one of so many times the bytes of the inputs and the weights."""

_BY_VALUE = {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output}
"""Marks of operators whose result may depend on values; some do only for some arguments."""


class _Trial(Interpreter):
    """Runs a graph on tensors without memory."""

    def __init__(self, module: GraphModule, graph: Graph, limit: int) -> None:
        super().__init__(module, garbage_collect_values=True, graph=graph)
        self.extra_traceback = False  # it would be written into our own errors
        self.limit = limit
        self.meta: dict[int, Tensor] = {}

    def run_node(self, n: Node) -> Any:
        try:
            found = super().run_node(n)
        except Exception as error:
            if isinstance(error, NotImplementedError) or _BY_VALUE & set(getattr(n.target, "tags", ())):
                raise PlanError(
                    f"What comes of {n.name!r} ({n.target}) cannot be known without computing ({first_line(error)}); "
                    "it was not loaded. If you know where the file is from, load it with trust=True."
                ) from error
            raise
        for tensor in (t for t in pytree.tree_leaves(found) if isinstance(t, Tensor)):
            size = tensor.numel() * tensor.element_size()
            if size > self.limit and n.op != "get_attr":
                raise PlanError(
                    f"The graph makes a tensor of {size:,} bytes at {n.name!r} ({n.target}), far more than its inputs "
                    "and weights; it was not loaded. If you know where the file is from, load it with trust=True."
                )
        return found

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        value = super().get_attr(target, args, kwargs)
        return self.meta.setdefault(id(value), torch.empty_like(value, device="meta"))

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        """A layer on tensors without memory; sizes are those of eval mode in either."""
        held = (*self.fetch_attr(target).parameters(), *self.fetch_attr(target).buffers())
        empty = {id(t): torch.empty_like(t, device="meta") for t in held}
        return copy_network(self.fetch_attr(target), empty, lambda t: t).eval()(*args, **kwargs)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        args, kwargs = pytree.tree_map_only(torch.device, lambda d: torch.device("meta"), (args, dict(kwargs)))
        schema = getattr(target, "_schema", None)
        makes = schema is not None and any(a.name == "device" for a in schema.arguments)
        if makes and not any(isinstance(v, Tensor) for v in pytree.tree_leaves((args, kwargs))):
            kwargs["device"] = torch.device("meta")
        return super().call_function(target, args, kwargs)


def try_out(module: GraphModule, inputs: ExampleInputs) -> None:
    """Runs a graph on the shapes of its inputs.

    Args:
        module: The graph, in eval mode.
        inputs: Tensors without memory (on the device ``meta``) and plain values.

    Raises:
        PlanError: An operator does not take what it gets, wants far more memory than the inputs and the weights, or
            gives what cannot be known without computing.
    """
    args, kwargs = to_args(inputs)
    tensors = [t for t in (*pytree.tree_leaves((args, kwargs)), *module.state_dict().values()) if isinstance(t, Tensor)]
    limit = max(LEAST, FACTOR * sum(t.numel() * t.element_size() for t in tensors))
    structure = module.graph._codegen.pytree_info.in_spec  # type: ignore[attr-defined]
    try:
        with torch.no_grad():
            for graph in graphs_of(module):
                _Trial(module, graph, limit).run(
                    *tree_flatten_spec((args, kwargs), structure), enable_io_processing=False
                )
    except PlanError:
        raise
    except Exception as error:
        words = " ".join(str(error).split("While executing")[0].split())[:200]
        raise PlanError(f"The graph does not run on inputs of the recorded shapes: {words}") from error
