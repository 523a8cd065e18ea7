"""Pairs a pruned network with the network that it was cut from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from secateur.core.errors import InputError, PlanError
from secateur.core.plan import Plan, remember
from secateur.core.rounding import rounding
from secateur.core.types import call as called
from secateur.core.weights_print import weights_print
from secateur.criteria.least_squares.twin import Twin
from secateur.criteria.least_squares.walk import Walker
from secateur.cut.plans import fitting
from secateur.cut.pruned import WEIGHTS_PRINT, Pruned
from secateur.graph.calling import plain_outputs, preserved_rng, to_args
from secateur.graph.copies import deep_copy, running_copy
from secateur.graph.views import labelled
from secateur.surgery.factors import scale_entries
from secateur.surgery.graph import twin_graph

__all__ = ["check_unchanged", "dense_of", "last_cut", "twin"]

TOLERANCE = 1e-3
"""Largest relative difference between the pruned network and its graph: rounding (in 16 bits more), nothing else."""


def twin(pruned: Pruned, dense: nn.Module) -> Twin:
    """Pairs the operators of a pruned network with those of the network that it was cut from.

    What is written into the pair changes ``pruned``: there is no second copy of its weights.

    Raises:
        InputError: The plan does not fit ``dense``, or the two are not what the plan made of one another.
    """
    if not isinstance(dense, nn.Module):
        raise InputError(f"dense is the network before the cut, a torch.nn.Module; got {type(dense).__name__}.")
    if pruned.plan.shortened and not pruned.plan.removed:
        raise InputError(
            f"Experts left the list {next(iter(pruned.plan.shortened))!r}, and the refit pairs a pruned network with "
            "the dense one operator by operator, which such a list has fewer of. Train it on (secateur.fit, the step "
            "finetune); experts that are stacked in tensors can be repaired."
        )
    found, _ = labelled(dense, pruned.inputs)
    try:
        analysis, keep = fitting(found, Plan(pruned.plan.keep, pruned.plan.dense_shapes))
    except PlanError as error:
        raise InputError(
            f"The pruned network's plan does not fit dense: {error} Give the network that was handed to prune; "
            "after several cuts, recover after each of them."
        ) from error
    label_keep = analysis.groups.label_keep(keep)
    graph, copies = twin_graph(analysis.groups, label_keep, pruned.plan.keep)
    walkers = Walker(found.traced.module), Walker(graph)
    pair = Twin(analysis.groups, label_keep, *walkers, copies, pruned.plan.scaled)
    _take_weights(pair, pruned.model)
    _check_same(graph, pruned)
    return pair


def dense_of(pruned: Pruned, given: nn.Module | None, call: str) -> nn.Module:
    """The network before the first cut; ``call`` is the function that wants it.

    Raises:
        InputError: It is not known.
    """
    dense = pruned.dense if given is None else given
    if dense is None:
        raise InputError(
            "The network before the cut is not known here: what is loaded or copied does not hold it. Give it: "
            f"{call}(pruned, data, dense=net)."
        )
    return dense


def last_cut(pruned: Pruned, repair: Callable[[Pruned, nn.Module], Pruned]) -> Pruned:
    """Repairs towards the network that the last cut was made in, as if that had been the only cut.

    Args:
        pruned: The result of several cuts.
        repair: Is given a copy that knows of its last cut alone, and the network before that.

    Raises:
        InputError: The network before the last cut is not known.
    """
    if pruned.source is None:
        raise InputError(
            "The network before the last cut is not known here: what is loaded or copied does not hold it. Repair what "
            "prune returned, or fit to the dense network (fit_to='dense')."
        )
    whole = pruned.plan
    cut = deep_copy(pruned.model)
    remember(cut, whole.parts[-1] if whole.parts else whole)
    fixed = repair(replace(pruned, model=cut, dense=pruned.source), pruned.source)
    remember(fixed.model, whole)
    return replace(fixed, dense=pruned.dense)


def check_unchanged(pruned: Pruned, dense: nn.Module) -> None:
    """Refuses a network of the same form with other weights.

    Raises:
        InputError: It is another one, or was trained since.
    """
    plan = pruned.plan.parts[0] if pruned.plan.parts else pruned.plan
    known = plan.provenance.get(WEIGHTS_PRINT)
    if known is not None and weights_print(dense) not in (None, known):
        raise InputError(
            "dense is not the network that was cut: its weights are others, or they have changed since. Give the "
            "network that was handed to prune, with the weights that it had then."
        )


def _take_weights(found: Twin, model: nn.Module) -> None:
    """The pruned network's present weights: it may have been trained since the cut. The graph shares them."""
    for name, tensor in model.state_dict().items():
        mine = found.tensors.get(name)
        if mine is None or not isinstance(tensor, Tensor):
            continue
        if mine.shape != tensor.shape:
            raise InputError(
                f"The pruned network's {name!r} has shape {tuple(tensor.shape)}; cut from dense by its plan it would "
                f"have {tuple(mine.shape)}. Give the dense network that this one was cut from."
            )
        back = [replace(one, factor=1 / one.factor) for one in found.scaled.get(name, ())]
        if back:
            found.write(name, scale_entries(tensor, back))
        else:
            found.share(name, tensor)


def _check_same(graph: GraphModule, pruned: Pruned) -> None:
    """The graph has to compute what the network computes, or what is fitted would not fit it."""
    args, kwargs = to_args(pruned.inputs)
    tensors = [t for t in (*args, *kwargs.values()) if isinstance(t, Tensor)]
    with preserved_rng(*tensors), torch.no_grad():
        try:
            want = called(running_copy(pruned.model).eval(), pruned.inputs)  # it may write into its buffers
            got = running_copy(graph)(*args, **kwargs)
        except Exception as error:
            raise InputError(
                f"The pruned network's operators cannot be paired with the dense network's: {error}. Prune with "
                "backend='graph' and recover that."
            ) from error
    both = (pytree.tree_leaves(plain_outputs(found)) for found in (want, got))  # a cache is opened in the graph alone
    for a, b in zip(*both, strict=True):
        if isinstance(a, Tensor) and a.is_floating_point() and _apart(a, b) > rounding(a.dtype, TOLERANCE):
            raise InputError(
                f"The pruned network differs by {_apart(a, b):.1e} (relative) from the graph of the dense network "
                "under its plan. Give the dense network that it was cut from."
            )


def _apart(one: Tensor, other: Tensor) -> float:
    one, other = one.double(), other.double()
    return float((one - other).abs().max() / one.abs().max().clamp_min(1e-30)) if one.numel() else 0.0
