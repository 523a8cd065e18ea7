"""Sensitivity in one call; it stands here because cuts may be repaired before they are measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from secateur.budget.level import Removals
from secateur.budget.sensitivity import ERROR, Sensitivity
from secateur.core import arguments
from secateur.core.errors import BudgetError, InputError
from secateur.core.inputs import PIECE, Batch, Data, calls
from secateur.core.metric import LOSS, Better, Metric
from secateur.core.types import ExampleInputs
from secateur.criteria import GroupView
from secateur.criteria.scoring import Scores, chosen, score
from secateur.cut.analysis import Analysis, analyse, nothing_free
from secateur.cut.pruned import Pruned, opened
from secateur.cut.selection import Selection, groups_named
from secateur.cut.sensitivity import Subject, measured
from secateur.data import DataSet
from secateur.graph.copies import plain_network
from secateur.recovery.api import recover
from secateur.task import Task, as_task
from secateur.train import evaluate

__all__ = ["LeadingMetric", "Scoring", "scoring", "sensitivity"]

Scoring = Callable[[Any], float]


class LeadingMetric:
    """A score: the leading metric of a task, on samples that it may be chosen by.

    Attributes:
        metric: What the numbers are.
        samples: How many samples they are of.
    """

    def __init__(self, task: Task, limit: int = 512) -> None:
        """Takes the validation split, or the training split where there is none.

        Args:
            task: Data and metrics.
            limit: Samples at most.
        """
        self._task, self._limit = task, limit
        self._split = "validation" if task.has("validation") else "train"
        self.metric, known = task.leading, task.samples(self._split)
        self.samples = limit if known is None else min(known, limit)

    def __call__(self, network: Any) -> float:
        """The value of a network."""
        return evaluate(network, self._task, self._split, limit=self._limit).metrics[self.metric.name]


@arguments.checked
def sensitivity(
    model: nn.Module | Pruned,
    example_inputs: ExampleInputs | None = None,
    *,
    data: Task | DataSet | Data | None = None,
    score: Scoring | None = None,
    better: Better = "higher",
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
        data: A task (or a data set of images): the values are those of its leading metric, on up to 512 samples of its
            validation split, or of the training split where there is none; never on test samples. Or inputs in any form
            of :mod:`secateur.core.inputs`, normalised as in training (by default the example inputs): the values are
            the relative squared error of the outputs, ‖y − y_dense‖² / ‖y_dense‖² over all outputs and samples (0: as
            before; 1: as far off as zeros). A few hundred samples suffice, and they are kept in memory. Criteria and
            repair that look at data get them too (of a task, 512 training samples).
        score: A function of a network that says how well it does with one number, instead of the task's metric or the
            output error. What it gets can be called as the network is, and is no network of its class.
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

    metric, value, samples = scoring(data, score, better)
    if value is None:
        metric, samples = ERROR, sum(batch.size for batch in batches)
    found = measured(subject, shares, value, batches, repaired if repair else None)
    return Sensitivity(
        found.curves, metric, found.dense, chosen(criterion).name, samples, repair,
        (*analysis.notes, *scores.notes, *found.notes), removals=Removals(analysis.costs, subject.scores),
    )  # fmt: skip


def scoring(
    data: Task | DataSet | Data | None, score: Scoring | None, better: Better, limit: int = 512
) -> tuple[Metric, Scoring | None, int]:
    """What the values are, what gives them (``None`` without a task or a score), and of how many samples."""
    if score is None and isinstance(data, (Task, DataSet)):
        score = LeadingMetric(as_task(data), limit)
    if score is None:
        return LOSS, None, 0
    if isinstance(score, LeadingMetric):
        return score.metric, score, score.samples
    name = getattr(score, "__name__", type(score).__name__).replace("<lambda>", "score")
    return Metric(better=better, title=name, name=name), score, 0


def _shares(ratios: Sequence[float]) -> tuple[float, ...]:
    wrong = [share for share in ratios if not 0 < share < 1]
    if wrong or not ratios:
        got = f"got {wrong[0]!r}" if wrong else "got none"
        raise InputError(f"ratios are the shares of a group's units that go, each between 0 and 1; {got}.")
    return tuple(sorted({*ratios}))


def _batches(analysis: Analysis, data: Task | DataSet | Data | None) -> list[Batch]:
    """The data, all of them in memory, for they are gone through again and again."""
    traced = analysis.groups.flow.traced
    if data is not None:
        return list(calls(as_task(data) if isinstance(data, DataSet) else data, traced, PIECE))
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
