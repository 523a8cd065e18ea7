"""The one way to cut, be it channels or layers: a back end that verifies, and a plan that follows those before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import nn

from secateur.core.errors import PlanError, VerificationError
from secateur.core.plan import Plan, remember, remembered
from secateur.core.types import Verification
from secateur.core.weights_print import weights_print
from secateur.cut.pruned import WEIGHTS_PRINT, Pruned
from secateur.graph.flow import Flow
from secateur.graph.free import free_sizes
from secateur.graph.groups import Groups
from secateur.graph.trace import without_recorder
from secateur.surgery.attempt import Built, Outcome, Rung, attempt
from secateur.surgery.reference import CutEntries

__all__ = ["Operation", "carry_out", "freed", "sure"]

EXPORTED = "traced by torch.export, which takes longer, because the proof failed on what the recorder wrote down"


Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Operation:
    """How a plan is carried out on a network.

    Attributes:
        plan: What goes.
        rungs: Ways to make the smaller network, the best first.
        verify: Compares the smaller network with the masked dense network; gets the network too, for what a graph
            does not hold of it.
        sizes: Raises :class:`VerificationError` where the smaller network's operators or sizes are not those of the
            plan; it stands in for the proof of a network without values. A graph has them by the way it is made.
    """

    plan: Plan
    rungs: Sequence[Rung]
    verify: Callable[[Built, nn.Module | None], Verification]
    sizes: Callable[[Built], None] | None = None


def carry_out(model: nn.Module, operation: Operation, *, backend: str, check: bool) -> Outcome:
    """Tries the back ends in turn; the first that verifies is taken, and its network remembers its whole plan.

    Args:
        model: The network; left untouched.
        operation: What is done to it.
        backend: ``module``, ``graph`` or ``auto``.
        check: Whether the result is verified; without values (on the meta device) only its sizes are.

    Returns:
        What came of it; its network carries the plan that follows the cuts before.

    Raises:
        VerificationError: No back end gives the right network.
    """
    valued = not any(p.device.type == "meta" for p in model.parameters())

    def prove(built: Built, backend: str) -> Verification | None:
        if check and not valued and backend == "module" and operation.sizes is not None:
            operation.sizes(built)
        if backend == "graph":
            _in_modes_of(model, built.model)
        return operation.verify(built, model if backend == "graph" else None) if check and valued else None

    done = attempt(model, backend, operation.rungs, prove)
    earlier, built = remembered(model), done.built
    provenance = {**operation.plan.provenance, WEIGHTS_PRINT: weights_print(model)}
    numbers = {**built.numbers, **built.unread}
    plan = replace(operation.plan, provenance=provenance, numbers=numbers, scaled=built.scaled,
                   islands=built.islands, shortened=built.shortened)  # fmt: skip
    remember(built.model, plan if earlier is None else plan.after(earlier))
    return done


def _in_modes_of(model: nn.Module, graph: nn.Module) -> None:
    """Puts a graph, and every layer in it, in the mode that the network has there."""
    graph.train(model.training)
    inside = dict(graph.named_modules())
    for path, module in model.named_modules():
        if path in inside and path:
            inside[path].training = module.training


def freed(model: nn.Module, groups: Groups, label_keep: Mask, *, thorough: bool = True) -> Groups:
    """The groups of a network of which a graph is made; its graph takes other lengths, heights and widths now.

    Args:
        model: The network.
        groups: Its groups.
        label_keep: Which labels stay.
        thorough: As for :func:`~secateur.graph.free.free_sizes`.
    """
    free_sizes(model, groups.flow.traced, CutEntries(groups, label_keep).of_node, thorough=thorough)
    return groups


def sure(first: Callable[[], Pruned], again: Callable[[], Pruned], *, flow: Flow) -> Pruned:
    """A cut on what was recorded; where its proof fails, the same one on what ``torch.export`` traces.

    Args:
        first: Cuts.
        again: Traces the network again and makes the same cut.
        flow: What ``first`` works on.

    Raises:
        VerificationError: Both fail.
    """
    try:
        return first()
    except VerificationError as error:
        if not any(view.recorded for view in flow.views):
            raise
        try:
            with without_recorder():
                pruned = again()
        except (PlanError, VerificationError):  # the recorder found other groups, or it was not the recording
            raise error from None
        return replace(pruned, notes=(*pruned.notes, EXPORTED))
