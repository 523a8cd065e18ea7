"""The graph back end: the exported graph with its constants recomputed and its weights sliced."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from secateur.core.errors import PlanError
from secateur.graph.groups import Groups
from secateur.graph.guard import Sizes, guarded
from secateur.graph.labels import Labels
from secateur.graph.ops import Kind, arguments, facts, find
from secateur.graph.ops.index import pointer
from secateur.graph.rewriting import Rewriter
from secateur.graph.signature import Call, call_like
from secateur.graph.trace import CUMULATIVE
from secateur.graph.traced import Traced
from secateur.surgery.layers import MODES, put_layers
from secateur.surgery.pruned_graph import PrunedGraph, call_by
from secateur.surgery.reference import CutEntries

__all__ = ["Surgeon", "finished", "prune_graph", "rewritten", "shapes_after", "slice_tensor", "twin_graph"]

Mask = NDArray[np.bool_]


def slice_tensor(tensor: Tensor, keep: Mapping[int, Sequence[int]]) -> Tensor:
    """Returns a contiguous copy with the kept indices of every dimension in ``keep``.

    >>> slice_tensor(torch.arange(6).reshape(2, 3), {1: [0, 2]})
    tensor([[0, 2],
            [3, 5]])
    """
    tensor = tensor.detach()
    for dim, indices in keep.items():
        tensor = tensor.index_select(dim, torch.as_tensor(indices, dtype=torch.long, device=tensor.device))
    return tensor.clone() if not keep else tensor


def sliced_parameter(tensor: Tensor, keep: Mapping[int, Sequence[int]]) -> Tensor:
    """Slices a parameter or buffer; a parameter stays one, with its ``requires_grad``."""
    small = _laid_out_as(tensor, slice_tensor(tensor, keep))
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(small, requires_grad=tensor.requires_grad)
    return small


def _laid_out_as(tensor: Tensor, small: Tensor) -> Tensor:
    """Channels last where ``tensor`` is."""
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(tensor.ndim)
    if last is None or tensor.is_contiguous() or not tensor.is_contiguous(memory_format=last):
        return small
    return small.contiguous(memory_format=last)


class Surgeon:
    """Copies the dense graph node by node into a new module."""

    def __init__(self, groups: Groups, keep: Mask, view: Traced | None = None) -> None:
        """``keep`` says which labels stay; ``view`` is the way through the network, as a rule the main one."""
        self.groups, self.keep = groups, keep
        self.traced = view or groups.flow.traced
        self.dense = self.traced.module
        self.copies: dict[Any, Any] = {}
        self.origins: dict[Node, Node] = {}
        self.result = PrunedGraph(nn.Module(), torch.fx.Graph(), class_name="PrunedGraph")

    def mapped(self, value: Any) -> Any:
        """An argument with copies in the place of nodes."""
        return torch.fx.node.map_arg(value, lambda n: self.copies[n])

    def constant(self, tensor: Tensor) -> str:
        """Registers an index that belongs to the graph alone; it is not part of the state dict."""
        name = f"_secateur_index_{sum(1 for n, _ in self.result.named_buffers() if '_secateur_index' in n)}"
        self.result.register_buffer(name, tensor, persistent=False)
        return name

    def operate(self, keep: Mapping[str, Mapping[int, Sequence[int]]]) -> PrunedGraph:
        """The graph with its tensors; ``keep`` are their kept indices by name and dimension."""
        _copy_tensors(self.dense, self.result, keep)
        graph = self.rewrite()
        graph._codegen = self.dense.graph._codegen
        self.result.graph = graph
        return self.result

    def rewrite(self) -> torch.fx.Graph:
        """Copies the nodes, with other numbers."""
        graph = torch.fx.Graph()
        for node in self.traced.nodes:
            copied = graph.node_copy(node, lambda n: self.copies[n])
            self.copies[node], self.origins[copied] = copied, node
        for node in list(self.origins.values()):
            rule = find(node.target) if isinstance(node.target, torch._ops.OpOverload) else None
            if rule is not None and rule.rewrite is not None:
                rule.rewrite(Rewriter(self, node, self.copies[node]))
        return graph


def new_indices(groups: Groups, keep: Mask) -> dict[str, tuple[int, ...]]:
    """New values of the buffers of numbers that point at entries of which some go.

    Raises:
        PlanError: One buffer would need other values in another place.
    """
    found: dict[str, tuple[int, ...]] = {}
    for node in (n for view in groups.flow.views for n in view.nodes if n.op == "call_function"):
        points = pointer(node)
        labels = None if points is None else groups.flow.labels.get(points.source)
        if points is None or not isinstance(labels, Labels):
            continue
        mask = groups.masks(labels, keep).get(points.dim, np.ones(labels.shape[points.dim], dtype=bool))
        places = np.cumsum(mask) - 1
        numbers = tuple(int(places[i]) for i in points.numbers if mask[i])
        if found.setdefault(points.name, numbers) != numbers:
            raise PlanError(f"the numbers in {points.name!r} point at two things that are cut differently")
    own = dict(groups.flow.traced.module.named_buffers(remove_duplicate=False))
    return {n: v for n, v in found.items() if n in own and v != tuple(own[n].tolist())}


def rewritten(groups: Groups, keep: Mask, view: Traced) -> dict[Node, Node]:
    """The operators of one way through the dense network, each with a copy that has the numbers after the cut."""
    surgeon = Surgeon(groups, keep, view)
    surgeon.rewrite()
    return {origin: copy for copy, origin in surgeon.origins.items()}


def twin_graph(
    groups: Groups, keep: Mask, kept: Mapping[str, Mapping[int, Sequence[int]]]
) -> tuple[PrunedGraph, dict[Node, Node]]:
    """The pruned graph with its operators as they are in the dense one, and which is the copy of which."""
    surgeon = Surgeon(groups, keep)
    return surgeon.operate(kept), {origin: copy for copy, origin in surgeon.origins.items()}


def prune_graph(
    groups: Groups, keep: Mask, kept: Mapping[str, Mapping[int, Sequence[int]]], model: nn.Module | None = None
) -> PrunedGraph:
    """Builds the pruned graph.

    Args:
        groups: Groups of the dense network.
        keep: Which labels stay, shape (labels,).
        kept: Kept indices by tensor name and dimension.
        model: The dense network; the graph gets layers of PyTorch where it has them.

    Returns:
        A trainable module whose parameters keep their names; in eval mode.
    """
    small, copies = twin_graph(groups, keep, kept)
    traced = groups.flow.traced
    if model is not None:
        put_layers(small, model, shapes_after(copies, CutEntries(groups, keep)), kept)
    return finished(small, traced.sizes, None if model is None else call_like(model.forward, *traced.given))


def shapes_after(copies: Mapping[Node, Node], cut: CutEntries) -> Callable[[Node], tuple[int, ...] | None]:
    """Shapes of the values in a pruned graph; ``copies`` are its nodes by those of the dense graph."""
    origins = {copy: origin for origin, copy in copies.items()}
    return lambda node: cut.shape_after(origins.get(node))


def _copy_tensors(source: GraphModule, target: nn.Module, keep: Mapping[str, Mapping[int, Sequence[int]]]) -> None:
    """Slices every parameter, buffer and constant into ``target``; a tensor with two names stays one tensor."""
    done: dict[int, Tensor] = {}
    persistent = set(source.state_dict(keep_vars=True))
    for name, tensor in _tensors_of(source).items():
        if id(tensor) not in done:
            done[id(tensor)] = sliced_parameter(tensor, keep.get(name, {}))
        path, _, leaf = name.rpartition(".")
        parent, small = _submodule(target, path), done[id(tensor)]
        if isinstance(small, nn.Parameter):
            parent.register_parameter(leaf, small)
        else:
            parent.register_buffer(leaf, small, persistent=name in persistent)


def _tensors_of(graph: GraphModule) -> dict[str, Tensor]:
    """Parameters and buffers (all names of shared ones), and constants that the graph refers to."""
    found: dict[str, Any] = dict(graph.named_parameters(remove_duplicate=False))
    found |= dict(graph.named_buffers(remove_duplicate=False))
    for node in graph.graph.nodes:
        if node.op == "get_attr" and node.target not in found:
            found[node.target] = operator.attrgetter(node.target)(graph)
    return {name: value for name, value in found.items() if isinstance(value, Tensor)}


def _submodule(module: nn.Module, path: str) -> nn.Module:
    for part in filter(None, path.split(".")):
        if not hasattr(module, part):
            module.add_module(part, nn.Module())
        module = getattr(module, part)
    return module


# ------------------------------------------------------------------------------------- train and eval modes


class BatchNormMode(nn.Module):
    """Batch normalisation that follows ``train()`` and ``eval()``; parameters and the counter come as arguments.

    Args:
        momentum: As of :class:`nn.BatchNorm2d`; ``None`` averages over all batches.
        eps: Added to the variance.
        always: Whether it takes the batch's own statistics in eval mode too.
    """

    def __init__(self, momentum: float | None, eps: float, always: bool) -> None:
        super().__init__()
        self.momentum, self.eps, self.always = momentum, eps, always

    def forward(
        self, x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor | None, var: Tensor | None,
        batches: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        momentum = self.momentum or 0.0
        if self.training and mean is not None and batches is not None:
            batches.add_(1)
            momentum = 1.0 / float(batches) if self.momentum is None else momentum
        training = self.training or mean is None or self.always
        return nn.functional.batch_norm(x, mean, var, weight, bias, training, momentum, self.eps)


def follow_mode(module: GraphModule) -> GraphModule:
    """Makes batch normalisation and dropout of an exported graph follow ``train()`` and ``eval()``.

    Export freezes them in eval mode; each becomes a call of a small module without parameters, so that
    parameter names stay as they were. A dropout that was on in eval mode stays on.
    """
    counters = {n.target: n for n in module.graph.nodes if n.op == "get_attr"}
    for node in list(module.graph.nodes):
        known = facts(node)
        if known.kind is Kind.BATCH_NORM:
            made, args = _batch_norm_mode(node, counters)
        elif known.kind is Kind.DROPOUT and known.module is not None and not arguments(node)["train"]:
            made, args = known.module(arguments(node)["p"]), node.args[:1]
        else:
            continue
        if MODES not in module._modules:
            module.add_module(MODES, nn.Module())
        module.get_submodule(MODES).add_module(node.name, made)
        with module.graph.inserting_before(node):
            call = module.graph.call_module(f"{MODES}.{node.name}", args)
        call.meta = dict(node.meta)
        node.replace_all_uses_with(call)
        module.graph.erase_node(node)
    module.graph.lint()
    module.recompile()
    return module


def _batch_norm_mode(node: Node, tensors: Mapping[Any, Node]) -> tuple[nn.Module, tuple[Any, ...]]:
    """The module that stands for a batch norm, and what it is called with: the counter of its batches too."""
    x, weight, bias, mean, var, always, momentum, eps = node.args[:8]
    home = str(mean.target).rpartition(".")[0] if isinstance(mean, Node) else ""
    batches = tensors.get(f"{home}.num_batches_tracked".removeprefix("."))
    cumulative = node.meta.get(CUMULATIVE, batches is not None and not momentum)  # a file does not say; export wrote 0
    made = BatchNormMode(None if cumulative else momentum, eps, bool(always))  # type: ignore[arg-type]
    return made, (x, weight, bias, mean, var, batches)


def finished(module: PrunedGraph, sizes: Sizes, call: Call | None = None) -> PrunedGraph:
    """A graph as users get it: it follows ``train()`` and ``eval()`` and guards its sizes; in eval mode.

    Args:
        module: The graph.
        sizes: What it was traced for.
        call: The arguments of the network's own forward.
    """
    guarded(follow_mode(module), sizes).eval()
    return call_by(module, call)
