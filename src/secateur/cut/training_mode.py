"""A graph in the place of a network, with the train mode that the network has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import nn

from secateur.core.errors import SecateurError, first_line
from secateur.core.plan import Plan
from secateur.core.types import ExampleInputs
from secateur.cut.operation import freed
from secateur.cut.plans import fitting
from secateur.graph.batch import Unfollowed
from secateur.graph.copies import plain_network
from secateur.graph.flow import flow
from secateur.graph.free import Freed, free_sizes
from secateur.graph.groups import Groups
from secateur.graph.record import record, record_call
from secateur.graph.trace import trace
from secateur.graph.traced import Traced
from secateur.graph.views import follows_mode
from secateur.surgery import prune_graph, verify
from secateur.surgery.attempt import Built
from secateur.surgery.pruned_graph import PrunedGraph, forget_training, train_by
from secateur.surgery.reference import CutEntries
from secateur.surgery.training import (
    EVAL_ALONE,
    add_train_mode,
    frozen_layers,
    more_than_layers,
    only_layers_differ,
    same_every_time,
    trained_graph,
)

__all__ = ["as_graph", "own_train_mode", "shortened_graph", "with_own_train_mode"]

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class _Way:
    """A network in train mode, with the labels of what it computes there.

    Attributes:
        view: Its recording.
        groups: Groups in which ``view`` counts.
        keep: Which labels stay.
    """

    view: Traced
    groups: Groups
    keep: Mask


def as_graph(model: nn.Module, groups: Groups, label_keep: Mask, plan: Plan, *, check: bool) -> Built:
    """The pruned network as a graph.

    Args:
        model: The dense network; it is not touched.
        groups: Its groups.
        label_keep: Which labels stay, shape (labels,).
        plan: What goes.
        check: Whether train mode is compared with the masked dense network; eval mode is by whoever asks for the graph.

    Returns:
        The graph, in eval mode, with a note where it does not train as the network does.
    """
    way, why = None, ""
    try:
        way = _training(model, groups, label_keep, plan)
    except (SecateurError, Unfollowed, RuntimeError) as error:
        why = first_line(error)
    small = prune_graph(freed(model, groups, label_keep), label_keep, plan.keep, model)
    try:
        if way is not None:
            _add(small, model, way, plan, check=check)
        elif not why:
            train_by(small, None, frozen_layers(model))
    except Exception as error:  # a graph that is right in eval mode is better than none
        why = first_line(error)
    return Built(small, notes=(f"{EVAL_ALONE}: {why}",) if why else ())


def shortened_graph(model: nn.Module, groups: Groups, label_keep: Mask, make: Callable[[Groups], PrunedGraph]) -> Built:
    """A graph of which layers are taken out; it trains as the network does where layers that follow their mode do.

    Args:
        model: The dense network; it is not touched.
        groups: Its groups.
        label_keep: Which labels stay, shape (labels,).
        make: Makes the graph of groups whose sizes are free.
    """
    why = more_than_layers(model, _fixed(groups.flow.traced))
    small = make(freed(model, groups, label_keep))
    if not why:
        train_by(small, None, frozen_layers(model))
    return Built(small, notes=(f"{EVAL_ALONE}: {why}",) if why else ())


def _fixed(traced: Traced) -> Traced:
    """A recording without sizes that are free, so that it can be compared with another one."""
    if isinstance(traced.freed, Freed):
        traced.freed.undo(traced)
    return traced


def _training(model: nn.Module, groups: Groups, label_keep: Mask, plan: Plan) -> _Way | None:
    """The network in train mode, where it does more there than that its layers follow their mode.

    Raises:
        Unfollowed: It cannot be recorded in train mode.
        PlanError: In train mode, more would have to go together.
    """
    main = _fixed(groups.flow.traced)
    known = next((v for v in groups.flow.further if v.training and v.method == "forward"), None)
    if known is not None:
        return _Way(same_every_time(known), groups, label_keep)
    if not main.recorded and not follows_mode(model):
        return None
    if not main.recorded:
        raise Unfollowed("it was traced by torch.export")
    view = same_every_time(record_call(plain_network(model), *main.given, training=True))
    if only_layers_differ(model, main, view):
        return None
    analysis, keep = fitting(flow(main, [*groups.flow.further, view]), plan)
    return _Way(view, analysis.groups, analysis.groups.label_keep(keep))


def _add(small: PrunedGraph, model: nn.Module, way: _Way, plan: Plan, *, check: bool) -> None:
    """Gives the graph its train mode, and proves it.

    Raises:
        VerificationError: It is not right; the graph is as it was.
    """
    free_sizes(model, way.view, CutEntries(way.groups, way.keep).of_node)
    graph, shape = trained_graph(small, way.groups, way.keep, way.view)
    add_train_mode(small, graph, way.view, model, shape, plan.keep)
    if check and not any(p.device.type == "meta" for p in model.parameters()):
        inner = replace(way.groups, flow=replace(way.groups.flow, traced=way.view, further=()))
        try:
            verify(small, inner, way.keep, plan.keep, dense=model)
        except BaseException:
            forget_training(small)
            raise


def own_train_mode(model: nn.Module, inputs: ExampleInputs, evaluated: Traced) -> Traced | bool:
    """A network in train mode, of which nothing is cut, for a graph that is made of it.

    Args:
        model: The network.
        inputs: What it is called with.
        evaluated: The network in eval mode.

    Returns:
        Its recording; true where its layers follow their mode and that is all; false where it cannot be traced, or a
        graph of it would do something else in the next step.
    """
    if not follows_mode(model):
        return True
    try:
        same_every_time(record(model, inputs, training=True))  # torch.export sees nothing of that
        view = trace(model, inputs, training=True)
        return only_layers_differ(model, evaluated, view) or view
    except (SecateurError, Unfollowed, RuntimeError):
        return False


def with_own_train_mode(graph: PrunedGraph, model: nn.Module, known: Traced | bool) -> PrunedGraph:
    """Gives the graph of a network what :func:`own_train_mode` found, in place."""
    if isinstance(known, Traced):
        add_train_mode(graph, known.module.graph, known, model)
    elif known:
        train_by(graph, None, frozen_layers(model))
    return graph
