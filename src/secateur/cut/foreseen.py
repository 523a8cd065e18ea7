"""A cut planned and not made: whether it could be, told before a training that may take hours."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
from torch import Tensor, nn

from secateur.budget import Aim
from secateur.core.errors import BudgetError
from secateur.core.types import ExampleInputs
from secateur.criteria import GroupView
from secateur.criteria.scoring import Scores, chosen, score
from secateur.cut.analysis import Analysis, analyse, nothing_free
from secateur.cut.selection import Selection, groups_named, names_in
from secateur.graph.copies import plain_network

__all__ = ["foresee_cut"]


def foresee_cut(
    model: nn.Module,
    example_inputs: ExampleInputs,
    aim: Aim,
    *,
    criterion: str | Callable[[GroupView], Tensor] | None = None,
    only: Selection | None = None,
    ignore: Selection = (),
    groups: Iterable[str] | None = None,
    granularity: str = "auto",
) -> None:
    """Plans the cut that :func:`secateur.prune` would make of ``model``, and makes none.

    Which units are worth most is not asked where that takes data: whether an amount can be reached does not depend on
    it. A latency, which would have to be measured, is taken as reachable.

    Args:
        model: The network as it is before anything is trained.
        example_inputs: What it is called with.
        aim: What is to be reached; shares are of this network.
        criterion: As for :func:`secateur.prune`, as are those that follow.
        only: What alone may go.
        ignore: What stays.
        groups: Names of the groups that alone are pruned.
        granularity: How blocks are taken apart.

    Raises:
        SecateurError: What the cut would raise for want of units, layers, or an operator that can be traced.
    """
    only, ignore = names_in(model, only, "only"), names_in(model, ignore, "ignore")
    model = plain_network(model)
    analysis = analyse(model, example_inputs, only=only, ignore=ignore, granularity=granularity)
    scores = _scores(analysis, criterion or "l2", groups, aim)
    if not scores.values:
        raise BudgetError(nothing_free(analysis))
    if aim.target is None or not aim.target.measured:
        replace(aim, of="current").choose(analysis.costs, scores, dense=(model, example_inputs), cut=lambda keep: model)


def _scores(
    analysis: Analysis, criterion: str | Callable[[GroupView], Tensor], groups: Iterable[str] | None, aim: Aim
) -> Scores:
    """Scores of the weights as they are; of criteria that look at data, any: all groups are taken to have some."""
    named, wanted = groups_named(analysis.groups, groups), chosen(criterion)
    if not wanted.needs:
        return score(analysis.groups, criterion, only=named, measure=aim.measure)
    items = enumerate(analysis.groups.items)
    values = {n: np.arange(len(g), dtype=np.float64) for n, g in items if named is None or g.name in named}
    return Scores(values, wanted.absolute, (), wanted.additive, wanted.scope)
