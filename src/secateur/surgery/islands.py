"""Submodules whose code cannot say the new sizes become graphs; the network around them keeps its classes.

A submodule is traced with what it is really called with. Its operators are those of the whole network's trace inside
it, in the same order, so the labels are known. What the graph back end makes of it takes its place: the same parameters
under the same names, the same arguments and results.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from secateur.core.errors import VerificationError, first_line
from secateur.graph.batch import Unfollowed
from secateur.graph.calling import cloned, followed, preserved_rng
from secateur.graph.calls import calls_of
from secateur.graph.copies import running_copy
from secateur.graph.flow import modules_of
from secateur.graph.free import free_sizes
from secateur.graph.groups import Groups
from secateur.graph.guard import Size, Sizes
from secateur.graph.labels import Labels
from secateur.graph.outside import undisturbed
from secateur.graph.record import record_call
from secateur.graph.schema import plain_name
from secateur.graph.signature import call_like
from secateur.graph.traced import Traced
from secateur.surgery.graph import finished, shapes_after, twin_graph
from secateur.surgery.layers import put_layers
from secateur.surgery.module import Keep
from secateur.surgery.pruned_graph import train_by
from secateur.surgery.reference import CutEntries
from secateur.surgery.training import frozen_layers, more_than_layers

__all__ = ["with_islands"]

Mask = NDArray[np.bool_]

MOST = 64
"""Submodules that become graphs, at most."""


def with_islands(
    model: nn.Module, small: nn.Module, groups: Groups, label_keep: Mask, keep: Keep
) -> tuple[str, ...]:  # fmt: skip
    """Replaces the submodules of ``small`` whose code does not fit, one after the other.

    Args:
        model: The dense network; it is not touched.
        small: Its copy that is cut; its submodules are replaced.
        groups: Groups of the dense network.
        label_keep: Which labels stay, shape (labels,).
        keep: Kept indices by tensor name and dimension.

    Returns:
        Names of the submodules.

    Raises:
        VerificationError: No submodule can be told that does not fit, or it is the network itself.
    """
    view = groups.flow.traced
    if not view.recorded:
        raise VerificationError("It was traced by torch.export, which does not tell what a submodule is called with.")
    made: list[str] = []
    for _ in range(MOST):
        stack = _failing(small, view) or _differing(small, groups, label_keep, made)
        if stack is None:
            return tuple(made)
        made = _replaced(model, small, groups, label_keep, keep, stack, made)
    raise VerificationError(f"More than {MOST} of its submodules do not fit.")


def _replaced(
    model: nn.Module, small: nn.Module, groups: Groups, label_keep: Mask, keep: Keep, stack: list[str], made: list[str]
) -> list[str]:  # fmt: skip
    """Puts a graph in the place of the smallest of the modules ``stack`` that can be one."""
    reason = "its own forward does not fit"
    for path in reversed(stack):
        inside = [p for p in made if p.startswith(f"{path}.")]
        within = any(path == p or path.startswith(f"{p}.") for p in made)
        if not path or within or _is_layer(small.get_submodule(path)):
            continue
        try:
            island = _island(model, groups, label_keep, keep, path)
        except (VerificationError, Unfollowed) as error:
            reason = f"{path} cannot stand alone ({first_line(error)})"
            continue
        _share(small, island, path)
        small.set_submodule(path, island.train(small.get_submodule(path).training))
        return [*(p for p in made if p not in inside), path]
    raise VerificationError(f"Its submodules cannot be replaced: {reason}.")


def _is_layer(module: nn.Module) -> bool:
    """Whether a module is one of PyTorch's own layers, which are right for any size."""
    return type(module).__module__.startswith("torch.nn.") and not any(module.children())


def _share(small: nn.Module, island: GraphModule, path: str) -> None:
    """The parameters and buffers of the submodule itself, so that tensors with two names stay one."""
    own = small.get_submodule(path)
    for name, tensor in (*own.named_parameters(remove_duplicate=False), *own.named_buffers(remove_duplicate=False)):
        home, _, leaf = name.rpartition(".")
        try:
            holder = island.get_submodule(home)
        except AttributeError:
            continue
        kept: dict[str, Any] = holder._parameters if leaf in holder._parameters else holder._buffers
        if isinstance(kept.get(leaf), Tensor) and kept[leaf].shape == tensor.shape:
            kept[leaf] = tensor


# ------------------------------------------------------------------------------------------------ what does not fit


def _failing(small: nn.Module, view: Traced) -> list[str] | None:
    """The modules that are being called where ``small`` raises, the outermost first; ``None`` where it runs."""
    twin, stack = view.enter(running_copy(small)), list[str]()
    args, kwargs = cloned((view.args, view.kwargs))
    following = followed(twin, lambda path, _: stack.append(path), stack.pop, always=False)
    with preserved_rng(), torch.no_grad(), undisturbed(small), following:
        try:
            twin(*args, **kwargs)
        except Exception:  # the network raises what it likes
            return stack
    return None


def _differing(small: nn.Module, groups: Groups, label_keep: Mask, made: list[str]) -> list[str] | None:
    """The modules that are being called at the first operator whose result has another shape than the plan says.

    Graphs that stand for submodules (``made``) are what the plan says.
    """
    view, cut = groups.flow.traced, CutEntries(groups, label_keep)
    try:
        now = record_call(small, view.args, view.kwargs)
    except Unfollowed:
        return None
    outside = [[n for n in t.operators if not set(made) & set(modules_of(n))] for t in (view, now)]
    for dense, node in zip(*outside, strict=False):
        if plain_name(dense.target) != plain_name(node.target):
            return modules_of(node)
        if cut.shape_after(dense) != _shape(node):
            return modules_of(node)
    return None


def _shape(node: Node) -> tuple[int, ...] | None:
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, Tensor) else None


# -------------------------------------------------------------------------------------------------------- an island


def _sizes(alone: Traced, cut: CutEntries) -> Sizes:
    """What a graph takes after the cut."""
    places = [n for n in alone.nodes if n.op == "placeholder"]
    shapes: list[tuple[Size, ...] | None] = []
    for node, shape in zip(places, alone.sizes.shapes, strict=True):
        masks = cut.of_node(node)
        small = tuple(int(masks[d].sum()) if d in masks else size for d, size in enumerate(shape or ()))
        shapes.append(None if shape is None else small)
    return replace(alone.sizes, shapes=tuple(shapes))


def _island(model: nn.Module, groups: Groups, label_keep: Mask, keep: Keep, path: str) -> GraphModule:
    """The graph of a submodule after the cut.

    Raises:
        VerificationError: It is called several times, or calls other operators by itself than within the network.
        Unfollowed: It cannot be recorded by itself.
    """
    part = model.get_submodule(path)
    alone = record_call(part, *_call_of(model, groups.flow.traced, path))
    labels = {**groups.flow.labels, **_labels(groups, alone, path)}
    inner = replace(groups, flow=replace(groups.flow, traced=alone, further=(), labels=labels))
    cut, why = CutEntries(inner, label_keep), more_than_layers(part, alone)
    free_sizes(part, alone, cut.of_node)
    own = {n.removeprefix(f"{path}."): dims for n, dims in keep.items() if n.startswith(f"{path}.")}
    small, copies = twin_graph(inner, label_keep, own)
    put_layers(small, part, shapes_after(copies, cut), own)
    finished(small, _sizes(alone, cut), call_like(part.forward, *alone.given))
    return small if why else train_by(small, None, frozen_layers(part))


def _call_of(model: nn.Module, view: Traced, path: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a submodule is called with."""
    with undisturbed(model):
        calls = calls_of(view.enter(running_copy(model)), [path], view.args, view.kwargs)[path]
    if len(calls) != 1:
        raise VerificationError(f"it is called {len(calls)} times")
    return calls[0]


def _labels(groups: Groups, alone: Traced, path: str) -> Mapping[Node, Any]:
    """Labels of every tensor of a submodule's own trace: those of the same operator in the trace of the network."""
    view, labels = groups.flow.traced, groups.flow.labels
    within = [n for n in view.operators if path in modules_of(n)]
    own = alone.operators
    if [n.target for n in within] != [n.target for n in own]:
        raise VerificationError("by itself it calls other operators than within the network")
    found: dict[Node, Any] = {}
    for outer, inner in zip(within, own, strict=True):
        found[inner] = labels.get(outer)
        for one, other in zip(_taken(inner), _taken(outer), strict=False):
            if one.op == "placeholder" and one not in found:
                found[one] = labels.get(other)
    by_name = {str(n.target): labels.get(n) for n in view.nodes if n.op == "get_attr"}
    for node in alone.nodes:
        if node.op == "get_attr":
            name = f"{path}.{node.target}"
            found[node] = by_name[name] if name in by_name else _unlabelled(alone, node)
    return {n: lab for n, lab in found.items() if lab is not None}


def _taken(node: Node) -> list[Node]:
    """The tensors that an operator takes; a freed graph hands it sizes as well."""
    return [n for n in node.all_input_nodes if not isinstance(n.meta.get("val"), int)]


def _unlabelled(alone: Traced, node: Node) -> Labels:
    return Labels(tuple(operator.attrgetter(str(node.target))(alone.module).shape))
