"""Sensitivity in one call; it stands here because cuts may be repaired before they are measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from secateur.budget.level import Removals
from secateur.budget.sensitivity import ERROR, Sensitivity
from secateur.core import arguments
from secateur.core.errors import BudgetError, InputError, UnknownNameError
from secateur.core.inputs import PIECE, Batch, Data, calls
from secateur.core.types import ExampleInputs
from secateur.criteria import GroupView
from secateur.criteria.scoring import Scores, chosen, score
from secateur.cut.analysis import Analysis, analyse, nothing_free
from secateur.cut.pruned import Pruned, opened
from secateur.cut.selection import Selection, groups_named
from secateur.cut.sensitivity import Subject, measured
from secateur.graph.copies import plain_network
from secateur.recovery.api import recover

__all__ = ["sensitivity"]

Scoring = Callable[[Any], float]


@arguments.checked
def sensitivity(
    model: nn.Module | Pruned,
    example_inputs: ExampleInputs | None = None,
    *,
    data: Data | None = None,
    score: Scoring | None = None,
    better: str = "higher",
    ratios: Sequence[float] = (0.1, 0.25, 0.5, 0.75, 0.9),
    criterion: str | Callable[[GroupView], Tensor] = "l2",
    groups: Iterable[str] | None = None,
    only: Selection | None = None,
    ignore: Selection = (),
    repair: bool = False,
    seed: int = 0,
) -> Sensitivity:
    """Measures how much a network loses where units of one group go, group by group and share by share.

    One group at a time is cut, everything else stays, and nothing is trained. Units are not really removed but masked
    (held at zero where they enter the next layer), which gives the numbers of the cut network; each group and share
    costs one pass over the data.

    Source: Li et al., *Pruning Filters for Efficient ConvNets*, https://arxiv.org/abs/1608.08710, figure 2b.

    Args:
        model: The trained network, or the result of an earlier cut. It is left untouched and looked at in eval mode.
        example_inputs: What it is called with; the result of an earlier cut knows it.
        data: Inputs in any form of :mod:`secateur.core.inputs`, normalised as in training; a few hundred samples
            suffice, and all of them are kept in memory. By default the example inputs. Without ``score`` the values are
            of them: the relative squared error of the outputs, ‖y − y_dense‖² / ‖y_dense‖² over all outputs and
            samples (0: as before; 1: as far off as zeros). Criteria and repair that look at data get them too.
        score: A function of a network that says how well it does with one number (an accuracy on images that training
            has not seen, say). What it gets can be called as the network is, and is no network of its class.
        better: Which numbers of ``score`` are better: ``higher`` or ``lower``.
        ratios: Shares of a group's units that go, each in (0, 1); rounded to the nearest width the group can have.
        criterion: What decides which of a group's units go first, as for :func:`secateur.prune`.
        groups: Names of the groups that alone are looked at, as :func:`secateur.analyse` gives them.
        only: The only modules whose output channels are looked at: names, patterns, or the modules themselves.
        ignore: Modules whose output channels are not looked at, the same.
        repair: Whether every cut is really made and repaired on ``data`` (:func:`secateur.recover`) before it is
            measured: what a group costs once the layers behind have been fitted. Takes much longer.
        seed: For criteria that draw random numbers, and for the repair.

    Returns:
        The curves of all groups; ``.ratios(macs=0.5)`` gives ratios for ``prune(…, ratio=…)``.

    Raises:
        InputError: Ratios out of range, data that do not fit, a score that gives no finite number for the network,
            ``repair`` without data.
        UnknownNameError: A group, module or criterion that is not there.
        BudgetError: Nothing can be pruned.
        TraceError: The network cannot be traced.

    >>> import torch, secateur
    >>> _ = torch.manual_seed(0)
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> x = torch.randn(64, 4)
    >>> found = sensitivity(net, x[:2], data=x, ratios=(0.25, 0.5))
    >>> [(curve.name, curve.units, curve.removed) for curve in found.curves]
    [('0', 8, (2, 4)), ('2', 8, (2, 4))]
    >>> secateur.count(net, x[:2]).params, secateur.prune(net, x[:2], ratio=found.ratios(params=0.7)).after.params
    (130, 91)
    """
    shares = _shares(ratios)
    if better not in ("higher", "lower"):
        raise UnknownNameError("direction", better, ("higher", "lower"), argument="better")
    if repair and data is None:
        raise InputError("repair=True fits layers on data: give data=…, 128 samples or more, without labels.")
    network, _, example_inputs = opened(model, example_inputs)
    analysis = analyse(network, example_inputs, only=only, ignore=ignore)
    batches = _batches(analysis, data)
    bare = plain_network(network)
    scores = _scores(analysis, criterion, groups, batches, seed)
    subject = Subject(bare, example_inputs, analysis, scores.values)

    def repaired(cut: Pruned) -> Pruned:
        return recover(cut, _inputs(batches), dense=bare, seed=seed)

    found = measured(subject, shares, score, batches, repaired if repair else None)
    name = ERROR if score is None else getattr(score, "__name__", type(score).__name__).replace("<lambda>", "score")
    samples = 0 if score is not None else sum(batch.size for batch in batches)
    return Sensitivity(
        found.curves, name, "lower" if score is None else better, found.dense, chosen(criterion).name,
        samples, repair, (*analysis.notes, *scores.notes, *found.notes),
        removals=Removals(analysis.costs, subject.scores),
    )  # fmt: skip


def _shares(ratios: Sequence[float]) -> tuple[float, ...]:
    wrong = [share for share in ratios if not 0 < share < 1]
    if wrong or not ratios:
        got = f"got {wrong[0]!r}" if wrong else "got none"
        raise InputError(f"ratios are the shares of a group's units that go, each between 0 and 1; {got}.")
    return tuple(sorted({*ratios}))


def _batches(analysis: Analysis, data: Data | None) -> list[Batch]:
    """The data, all of them in memory, for they are gone through again and again."""
    traced = analysis.groups.flow.traced
    if data is not None:
        return list(calls(data, traced, PIECE))
    args, kwargs = traced.given if traced.dynamic else (traced.args, traced.kwargs)
    return [Batch(args, kwargs, None, traced.given_batch or traced.batch, 1)]


def _scores(
    analysis: Analysis, criterion: str | Callable[[GroupView], Tensor], groups: Iterable[str] | None,
    batches: Sequence[Batch], seed: int,
) -> Scores:  # fmt: skip
    """Scores of the units of the groups that are looked at.

    Raises:
        BudgetError: There are none.
    """
    labelled = [((batch.kwargs or batch.args), batch.labels) for batch in batches]
    data = labelled if all(batch.labels is not None for batch in batches) else _inputs(batches)
    found = score(analysis.groups, criterion, only=groups_named(analysis.groups, groups), data=data, seed=seed)
    if not found.values:
        raise BudgetError(nothing_free(analysis))
    return found


def _inputs(batches: Sequence[Batch]) -> list[Any]:
    """Batches of inputs alone."""
    return [dict(batch.kwargs) or batch.args for batch in batches]
