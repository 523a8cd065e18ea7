"""The train mode of a graph: the recording of the network in train mode, over the same layers and tensors.

Layers follow their own modes, so a network whose classes do nothing else in train mode needs no second graph. Where
they do (other heads, depth that is drawn, other results), there are two, and ``train()`` and ``eval()`` change between
them.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx import Graph, Node

from secateur.core.errors import first_line
from secateur.graph.batch import Unfollowed
from secateur.graph.copies import shallow_copy
from secateur.graph.facts import Kind
from secateur.graph.flow import module_of, shape_of
from secateur.graph.groups import Groups
from secateur.graph.guard import TRAIN_GUARD, guarded
from secateur.graph.record import record_call
from secateur.graph.rules import facts
from secateur.graph.schema import arguments
from secateur.graph.traced import Traced
from secateur.surgery.graph import Surgeon, shapes_after
from secateur.surgery.layers import Shapes, by_mode, counts_batches, in_its_mode, is_layer, put_layers
from secateur.surgery.pruned_graph import PrunedGraph, train_by
from secateur.surgery.reference import CutEntries

__all__ = ["EVAL_ALONE", "add_train_mode", "frozen_layers", "more_than_layers", "only_layers_differ", "same_every_time",
           "trained_graph"]  # fmt: skip

Mask = NDArray[np.bool_]


def frozen_layers(model: nn.Module) -> tuple[str, ...]:
    """Modules that stay in eval mode where the network is put in train mode, because its own ``train()`` says so."""
    twin = shallow_copy(model).train()
    return tuple(path for path, module in twin.named_modules() if not module.training)


EVAL_ALONE = "in train mode the graph has batch norm and dropout, and nothing else of the network's"
"""What has to be said of a graph whose train mode is not known."""


def more_than_layers(model: nn.Module, evaluated: Traced) -> str:
    """Why a graph would not train as its network does by layers that follow their modes; empty where it would.

    Args:
        model: The network.
        evaluated: Its recording in eval mode, with no sizes freed.
    """
    if not evaluated.recorded:
        return "it was traced by torch.export"
    try:
        trained = same_every_time(record_call(model, *evaluated.given, training=True))
    except Unfollowed as reason:
        return first_line(reason)
    return "" if only_layers_differ(model, evaluated, trained) else "it calls other operators there"


def same_every_time(trained: Traced) -> Traced:
    """A recording of train mode, unless a graph of it would do something else in the next step than the network does.

    Raises:
        Unfollowed: It would; says why.
    """
    if trained.once:
        raise Unfollowed(f"in train mode {trained.once}")
    return trained


def only_layers_differ(model: nn.Module, evaluated: Traced, trained: Traced) -> bool:
    """Whether a network does nothing else in train mode than that its layers follow it.

    Args:
        model: The network.
        evaluated: Its recording in eval mode, with no sizes freed.
        trained: Its recording in train mode.
    """
    first, second = _computing(evaluated), _computing(trained)
    if len(first) != len(second) or _results(evaluated) != _results(trained):
        return False
    pairs: dict[Any, Any] = dict(zip(first, second, strict=True))
    follows = partial(_follows, model, frozenset(frozen_layers(model)))
    return all(_alike(follows, evaluated, trained, one, other, pairs) for one, other in pairs.items())


def trained_graph(
    small: PrunedGraph, groups: Groups, keep: Mask, view: Traced
) -> tuple[Graph, Callable[[Node], tuple[int, ...] | None]]:
    """What a pruned graph computes in train mode, and the shapes of the values in it.

    Args:
        small: The graph of eval mode; it gets the constants.
        groups: Groups of the dense network with labels on the nodes of ``view``.
        keep: Which labels stay, shape (labels,).
        view: The network in train mode.
    """
    surgeon = Surgeon(groups, keep, view)
    surgeon.result = small
    graph = surgeon.rewrite()
    graph._codegen = view.module.graph._codegen
    copies = {origin: copy for copy, origin in surgeon.origins.items()}
    return graph, shapes_after(copies, CutEntries(groups, keep))


def add_train_mode(
    small: PrunedGraph, trained: Graph, view: Traced, model: nn.Module, shape: Shapes = shape_of,
    kept: Mapping[str, Mapping[int, Sequence[int]]] | None = None,
) -> None:  # fmt: skip
    """Gives a graph its train mode, in place.

    Args:
        small: The graph of eval mode.
        trained: What is computed in train mode.
        view: The recording that ``trained`` was made of.
        model: The network that was recorded.
        shape: Shape of what a node of ``trained`` gives.
        kept: Kept indices by tensor name and dimension, where the graph is smaller than ``model``.
    """
    evaluated = small.graph
    _add_tensors(small, view, trained)
    small.graph = trained
    frozen = frozen_layers(model)
    put_layers(small, model, shape, kept, frozen=frozen)
    guarded(small, view.sizes, TRAIN_GUARD)
    small.graph = evaluated
    train_by(small, trained, frozen)


def _add_tensors(small: PrunedGraph, view: Traced, graph: Graph) -> None:
    """Constants that only the recording of train mode has; one that is called like another is called otherwise."""
    own = {n for n, _ in (*view.module.named_parameters(remove_duplicate=False), *view.module.named_buffers())}
    for node in [n for n in graph.nodes if n.op == "get_attr"]:
        name = str(node.target)
        held, value = _held(small, name), _held(view.module, name)
        if (held is None and value is None) or name in own or (held is not None and value is None):
            continue
        if held is not None and _same(held, value):
            continue
        plain = f"_in_training_{name.replace('.', '_')}"
        if plain not in small._buffers:
            small.register_buffer(plain, value, persistent=False)
        node.target = plain


def _held(module: nn.Module, name: str) -> Any:
    try:
        return operator.attrgetter(name)(module)
    except AttributeError:
        return None


def _same(one: Any, other: Any) -> bool:
    return isinstance(one, Tensor) and isinstance(other, Tensor) and one.shape == other.shape and (
        one.dtype == other.dtype and torch.equal(one, other))  # fmt: skip


# ------------------------------------------------------------------------------------------------ two recordings


def _computing(traced: Traced) -> list[Node]:
    """Inputs and operators, without the counters of batches and what names tensors."""
    return [n for n in traced.nodes if n.op != "get_attr" and not counts_batches(n)]


def _results(traced: Traced) -> Any:
    return traced.module.graph._codegen.pytree_info.out_spec  # type: ignore[attr-defined]


def _alike(
    follows: Callable[..., bool], evaluated: Traced, trained: Traced, one: Node, other: Node, pairs: Mapping[Any, Any]
) -> bool:  # fmt: skip
    """Whether an operator is the same in both recordings, but for what the mode of a layer says."""
    if one.op != other.op or (one.op == "call_function" and one.target != other.target):
        return False

    def same(a: Any, b: Any) -> bool:
        if isinstance(a, Node) and a.op == "get_attr":
            return isinstance(b, Node) and b.op == "get_attr" and _same_tensor(evaluated, trained, a, b)
        if isinstance(a, Node):
            return pairs.get(a) is b
        if isinstance(a, (list, tuple)):
            return isinstance(b, (list, tuple)) and len(a) == len(b) and all(map(same, a, b))
        return type(a) is type(b) and (a == b or a != a)

    if not isinstance(one.target, torch._ops.OpOverload):
        return same(one.args, other.args) and one.kwargs == other.kwargs
    ours, theirs, flags = arguments(one), arguments(other), by_mode(one)
    if not all(same(ours[name], theirs[name]) for name in ours if name not in flags):
        return False
    return follows(one, {n: (ours[n], theirs[n]) for n in flags if n in ours})


def _follows(
    model: nn.Module, frozen: Collection[str], node: Node, flags: Mapping[str, tuple[Any, Any]]
) -> bool:  # fmt: skip
    """Whether what stands for an operator in a graph changes as these arguments do."""
    if not flags:
        return True
    modes = [pair for name, pair in flags.items() if name != "momentum"]
    if is_layer(model.get_submodule(module_of(node))):
        trains = module_of(node) not in frozen
        return all(in_its_mode(*pair, trains=trains) for pair in modes)
    if facts(node).kind in (Kind.BATCH_NORM, Kind.DROPOUT):
        return all(pair in ((False, True), (True, True)) for pair in modes)
    return all(a == b for a, b in flags.values())


def _same_tensor(evaluated: Traced, trained: Traced, one: Node, other: Node) -> bool:
    a, b = _held(evaluated.module, str(one.target)), _held(trained.module, str(other.target))
    return a is b or (one.target == other.target and _same(a, b))
