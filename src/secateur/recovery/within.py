"""The largest cut whose loss is allowed; it stands here because cuts may be repaired before they are judged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import inf, isfinite
from typing import Any

from torch import nn

from secateur.core import arguments
from secateur.core.errors import BudgetError, InputError, SecateurError, UnknownNameError, first_line
from secateur.core.inputs import Data
from secateur.core.metric import Better, Metric
from secateur.core.progress import working
from secateur.core.types import ExampleInputs, Target
from secateur.cost.counts import MEASURES
from secateur.cut.prune import prune
from secateur.cut.pruned import Pruned, opened
from secateur.data import DataSet
from secateur.graph.copies import plain_network
from secateur.recovery.api import recover
from secateur.recovery.sensitivity import Scoring, scoring
from secateur.task import Task, as_task

__all__ = ["Within", "prune_to", "within"]

_NAMES = {"macs": "multiply-accumulates", "params": "parameters", "energy": "energy", "size": "bytes"}
_STEP = 0.01
"""Shares that are nearer to each other than this are not told apart."""


@dataclass(frozen=True)
class Within:
    """What a search for the largest cut found.

    Attributes:
        judged: The largest cut that loses no more than is allowed, as it was judged: repaired, where cuts were.
        share: What it was aimed at.
        dense: The value of the network before it.
        value: Its own.
        tries: Shares that were tried with the values that they gave; ``None`` where no cut reaches the share.
    """

    judged: Pruned
    share: float
    dense: float
    value: float
    tries: tuple[tuple[float, float | None], ...]


@arguments.checked
def prune_to(
    model: nn.Module | Pruned,
    example_inputs: ExampleInputs | None = None,
    *,
    target: Target,
    data: Task | DataSet | Data,
    score: Scoring | None = None,
    better: Better = "higher",
    amount: str = "macs",
    repair: bool | Callable[[Pruned], Pruned] = True,
    tries: int = 7,
    samples: int = 10_000,
    seed: int = 0,
    **how: Any,
) -> Pruned:
    """Cuts as much as a metric allows: ``Target(metric=-0.5)`` for half a point of accuracy at most.

    A share of the multiply-accumulates (or of another ``amount``) is bisected: for each share the network that is given
    is cut anew, repaired without labels and judged, and the smallest network that loses no more than the target says
    is returned. What decides are validation samples (training samples, where there are none), never test samples. That
    the smallest of several is taken flatters it a little, and on a small validation split much: judge the result on
    the test samples. Nothing is trained.

    Args:
        model: The trained network, or the result of an earlier cut. It is left untouched.
        example_inputs: What it is called with; the result of an earlier cut knows it.
        target: ``Target(metric=…)``: how much of the metric may go, in the metric's own unit (points for accuracy) and
            direction: −0.5 where higher is better, +0.5 where lower is (perplexity, loss).
        data: A task (or a data set of images): its leading metric is judged, and training samples are what criteria and
            repair look at. Or inputs in any form of :mod:`secateur.core.inputs` that can be gone through again, with
            ``score``.
        score: A function of a network that says how well it does with one number, instead of the task's metric.
        better: Which numbers of ``score`` are better: ``higher`` or ``lower``.
        amount: What the shares are of: ``macs``, ``params``, ``energy`` or ``size``.
        repair: Whether every cut is repaired (:func:`secateur.recover`) before it is judged, and the result too; or a
            function of the cut that repairs it otherwise.
        tries: Cuts that are made and judged; the share is found to one part in 2 to the power of ``tries``.
        samples: Validation samples at most.
        seed: For criteria that draw random numbers, and for the repair.
        how: What else :func:`secateur.prune` takes: ``criterion``, ``scope``, ``only`` and so on.

    Returns:
        The smaller network; a note says what it keeps, what its metric is, and on how many samples.

    Raises:
        InputError: No metric in the target, the wrong direction, a network whose metric is no finite number, data that
            can be gone through only once.
        UnknownNameError: No such amount.
        BudgetError: Even the smallest cut that was tried loses more.

    >>> import torch, secateur
    >>> _ = torch.manual_seed(0)
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    >>> x = torch.randn(256, 4)
    >>> error = lambda net: float((net(x) - wanted).detach().square().mean())
    >>> wanted = net(x).detach()
    >>> small = prune_to(net, x[:2], target=Target(metric=0.001), data=x, score=error, better="lower")
    >>> small.after.macs < small.before.macs, error(small.model) <= 0.001
    (True, True)
    """
    for name, least in (("tries", tries), ("samples", samples)):
        if least < 1:
            raise InputError(f"{name} is at least 1; got {least!r}.")
    if target.measure != "metric":
        raise InputError(f"prune_to aims at a metric: Target(metric=-0.5). For Target({target.measure}=…) call prune.")
    if amount not in MEASURES:
        raise UnknownNameError("amount", amount, MEASURES)
    if any(name in how for name in ("ratio", "std", "latency", *MEASURES)):
        wrong = next(name for name in ("ratio", "std", "latency", *MEASURES) if name in how)
        raise InputError(f"prune_to finds out how much goes; {wrong}=… says it. Leave it out, or call prune.")
    if isinstance(data, Iterator):
        raise InputError("data is an iterator, which can be gone through once, and every try wants it: give a list of "
                         "batches or a DataLoader.")  # fmt: skip
    network, _, example_inputs = opened(model, example_inputs)
    bare = plain_network(network)
    first = None if isinstance(model, Pruned) else bare  # an earlier cut knows the network before it
    data = as_task(data) if isinstance(data, DataSet) else data
    metric, value, seen = scoring(data, score, better, samples)
    if value is None:
        raise InputError("prune_to judges a metric: give a task (data=…) or score=…, a function of a network.")

    def cut(share: float) -> Pruned:
        return prune(model, example_inputs, target=Target(**{amount: share}), data=data, seed=seed, **how)  # type: ignore[arg-type]

    def repaired(found: Pruned) -> Pruned:
        if callable(repair):
            return _by_hand(repair, found)
        return recover(found, data, dense=first, seed=seed) if repair else found

    found = within(bare, cut, repaired, value, metric, target, tries=tries, amount=amount)
    return replace(found.judged, notes=(*found.judged.notes, said(found, metric, target, amount, seen)))


def _by_hand(repair: Callable[[Pruned], Pruned], found: Pruned) -> Pruned:
    """What a function of the user's makes of a cut."""
    try:
        mended = repair(found)
    except SecateurError:
        raise
    except Exception as error:
        raise InputError(f"repair=… failed on a cut: {type(error).__name__}: {first_line(error)}.") from error
    if not isinstance(mended, Pruned):
        raise InputError(f"repair=… gives a cut, a Pruned as `recover` does; got {type(mended).__name__}.")
    return mended


def within(
    network: nn.Module,
    cut: Callable[[float], Pruned],
    repaired: Callable[[Pruned], Pruned],
    value: Callable[[nn.Module], float],
    metric: Metric,
    target: Target,
    *,
    tries: int,
    amount: str,
) -> Within:
    """Bisects the share that is kept, down to the smallest whose value is allowed.

    Args:
        network: The network before the cut.
        cut: Makes a cut that keeps a share.
        repaired: What is done to a cut before it is judged.
        value: How well a network does.
        metric: What that number is.
        target: How much of it may go.
        tries: Cuts that are made.
        amount: What the share is of, for words.

    Raises:
        InputError: The wrong direction, or a value that is no finite number.
        BudgetError: No cut that was tried is allowed.
    """
    allowed = target.given["metric"]
    sign = -1 if metric.better == "lower" else 1
    if sign * allowed > 0:
        raise InputError(f"{metric.within} (the task's metric, or what score=… gives) is better the {metric.better} it "
                         f"is, so what may be lost of it is {-abs(allowed) * sign:+g}; got "
                         f"Target(metric={allowed:+g}).")  # fmt: skip
    dense = value(network)
    if not isfinite(dense):
        raise InputError(
            f"The {metric.within} of the network before the cut is {dense}, so nothing can be said of cuts."
        )
    least = sign * (dense + allowed)
    low, high, best, made = 0.0, 1.0, None, []
    for number in range(1, tries + 1):
        if high - low <= _STEP:
            break
        share = (low + high) / 2
        with working(f"Cut {number} of {tries}: {share:.1%} of the {_NAMES[amount]}"):
            trial, got = _judged(share, cut, repaired, value)
        made.append((share, got))
        if trial is not None and got is not None and sign * got >= least:
            high, best = share, Within(trial, share, dense, got, ())
        else:
            low = share
    if best is None:
        closest = max(((s, v) for s, v in made if v is not None), key=lambda pair: pair[0], default=None)
        raise BudgetError(
            f"No cut that was tried loses so little: {metric.words(dense)} before, "
            f"{metric.words(dense + allowed)} allowed"
            + (f", {metric.words(closest[1])} with {closest[0]:.0%} of the {_NAMES[amount]} kept" if closest else "")
            + ". Allow more, repair on more samples, or train after the cut."
        )
    return replace(best, tries=tuple(made))


def _judged(
    share: float,
    cut: Callable[[float], Pruned],
    repaired: Callable[[Pruned], Pruned],
    value: Callable[[nn.Module], float],
) -> tuple[Pruned | None, float | None]:
    """A repaired cut and what it is worth; nothing where no cut keeps so little."""
    try:
        found = cut(share)
    except BudgetError:
        return None, None
    mended = repaired(found)
    got = value(mended.model)
    return mended, got if isfinite(got) else -inf


def said(found: Within, metric: Metric, target: Target, amount: str, samples: int) -> str:
    """The search in one sentence."""
    seen = f" on {samples:,} samples" if samples else ""
    return (
        f"{metric.within} {metric.words(found.dense)} → {metric.words(found.value)}{seen}, where "
        f"{target.given['metric']:+g} was allowed: {found.share:.1%} of the {_NAMES[amount]} were aimed at, the least "
        f"that is allowed of {len(found.tries)} tries. Judge it on samples that did not decide."
    )
