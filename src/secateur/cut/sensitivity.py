"""What the loss of units does to a network, group by group: each is masked alone, at some shares, and measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isclose, isfinite
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.budget import choose
from secateur.budget.curves import Curve
from secateur.core.errors import BudgetError, InputError, SecateurError, first_line
from secateur.core.inputs import Batch
from secateur.core.progress import watched
from secateur.core.types import ExampleInputs
from secateur.cut.analysis import Analysis
from secateur.cut.plans import plan_of
from secateur.cut.prune import apply
from secateur.cut.pruned import Pruned
from secateur.graph.calling import outputs_of, preserved_rng
from secateur.graph.copies import running_copy
from secateur.graph.outside import undisturbed
from secateur.surgery.masked import MaskedNetwork

__all__ = ["Measured", "OutputError", "Score", "Subject", "measured"]

Mask = NDArray[np.bool_]

Score = Callable[[Any], float]
"""What says how well a network does."""

ALIKE = 0.02
"""How far the value of the traced network may be from that of the network itself: rounding turns single answers."""


@dataclass(frozen=True)
class Subject:
    """What is looked at.

    Attributes:
        model: The network.
        inputs: What it is called with.
        analysis: Its groups and costs.
        scores: Scores of the units that may go, by group number; higher = keep.
    """

    model: nn.Module
    inputs: ExampleInputs
    analysis: Analysis
    scores: Mapping[int, NDArray[np.float64]]


@dataclass(frozen=True)
class Measured:
    """What was found.

    Attributes:
        dense: The value of the whole network.
        curves: One for each group.
        notes: What the user should know.
    """

    dense: float
    curves: tuple[Curve, ...]
    notes: tuple[str, ...]


class OutputError:
    """Relative squared error of a network's outputs: ‖y − y_dense‖² / ‖y_dense‖², over all outputs and samples.

    Outputs are computed in the network's own precision, and differences are summed up in double precision.
    """

    def __init__(self, dense: nn.Module, batches: Sequence[Batch]) -> None:
        """Runs the dense network.

        Args:
            dense: In the mode that it is looked at.
            batches: What it is called with.

        Raises:
            InputError: It gives NaN, infinity, nothing but zeros, or no floating-point numbers.
        """
        self._batches = batches
        self._wanted = [self._outputs(dense, batch) for batch in batches]
        self._size = sum(float(y.abs().double().square().sum()) for several in self._wanted for y in several)
        if not isfinite(self._size):
            raise InputError("The network itself gives NaN or infinity on the data: there is nothing to compare with.")
        if not self._size:
            raise InputError(
                "The network gives no floating-point numbers, or nothing but zeros, on the data: its output has no "
                "relative error. Say with score=… how well a network does."
            )

    def __call__(self, network: nn.Module) -> float:
        """The error of another network."""
        return sum(self._apart(network)) / self._size

    def _apart(self, network: nn.Module) -> Iterator[float]:
        for batch, wanted in zip(self._batches, self._wanted, strict=True):
            for one, other in zip(self._outputs(network, batch), wanted, strict=True):
                yield float((one.double() - other.double() if one.is_floating_point() else one - other)
                            .abs().square().sum())  # fmt: skip

    @staticmethod
    def _outputs(network: nn.Module, batch: Batch) -> list[Tensor]:
        if not isinstance(network, MaskedNetwork):
            return outputs_of(network, *batch.inputs)
        args, kwargs = batch.copied()
        with torch.no_grad():
            found = network.outputs(*args, **kwargs)
        return [v for v in found if v.is_floating_point() or v.is_complex()]


@dataclass(frozen=True)
class _Trial:
    """One group with some of its units gone."""

    group: int
    removed: int
    keep: Mask


def measured(
    subject: Subject, shares: Sequence[float], value: Score | None, batches: Sequence[Batch],
    repair: Callable[[Pruned], Pruned] | None = None,
) -> Measured:  # fmt: skip
    """Measures every group at every share, everything else being whole.

    Args:
        subject: The network.
        shares: Shares of a group's units that go, each rounded to the nearest width that the group can have.
        value: What scores a network; by default the error of its output.
        batches: What the output error is of.
        repair: What is done to every cut before it is measured; then every cut is really made. Otherwise units are
            masked, which gives the same numbers; where ``value`` cannot be had of a traced graph, cuts are made too.

    Raises:
        InputError: ``value`` gives no finite number for the whole network.
    """
    groups = subject.analysis.groups
    trials, notes = _trials(subject, shares)
    with preserved_rng(*pytree.tree_leaves(subject.inputs)), undisturbed(subject.model):
        own = groups.flow.traced.enter(running_copy(subject.model))
        value, dense = _of_whole(value, own, batches)
        why = None if repair else _unlike(value, dense, MaskedNetwork(groups, np.ones(groups.units, dtype=bool)))
        if why:
            notes.append(f"every cut was really made, not masked, which takes longer: {why}")

        def network(trial: _Trial) -> Any:
            if repair is None and not why:
                return MaskedNetwork(groups, trial.keep)
            cut = apply(subject.model, plan_of(groups, groups.label_keep(trial.keep), {}), subject.inputs)
            return (cut if repair is None else repair(cut)).model.eval()

        def named(trial: _Trial) -> str:
            return f"{trial.removed} of {groups.items[trial.group].name}"

        with watched(trials, "Measuring sensitivity", "cuts", named) as told:
            found = [(trial, _number(value(network(trial)))) for trial in told]
    return Measured(dense, *_curves(groups.items, found, notes))


def _of_whole(value: Score | None, own: nn.Module, batches: Sequence[Batch]) -> tuple[Score, float]:
    """What measures networks, and what it says of the whole network.

    Raises:
        InputError: The network does not run on the data, or the score fails or gives no finite number for it.
    """
    try:
        value = value or OutputError(own, batches)
        dense = _number(value(own))
    except SecateurError:
        raise
    except Exception as error:
        what = "The network does not run on the data (example_inputs)" if value is None else (
            "score=… failed on the network itself")  # fmt: skip
        raise InputError(
            f"{what}: {type(error).__name__}: {first_line(error)}. A score is a function that calls a network and "
            "gives one number; it is called as the network is."
        ) from error
    if not isfinite(dense):
        raise InputError(f"score=… gives {dense} for the whole network: it has to be a finite number.")
    return value, dense


def _trials(subject: Subject, shares: Sequence[float]) -> tuple[list[_Trial], list[str]]:
    """What is tried: of every group each width once; and which groups are left out."""
    groups, found, whole = subject.analysis.groups.items, list[_Trial](), list[str]()
    for number, scores in subject.scores.items():
        try:
            made = [choose(subject.analysis.costs, {number: scores}, ratio={number: share}).keep for share in shares]
        except BudgetError:  # no smaller width
            whole.append(groups[number].name)
            continue
        tried = {int((~keep).sum()): keep for keep in made}
        found += [_Trial(number, count, tried[count]) for count in sorted(tried) if count]
    several = f"{', '.join(whole[:3])}{' …' * (len(whole) > 3)}"
    return found, [f"left out, because no smaller width is possible: {several}"] if whole else []


def _unlike(value: Score, dense: float, whole: MaskedNetwork) -> str:
    """Why the traced graph cannot stand for the network here; empty where it can."""
    try:
        found = _number(value(whole))
    except Exception as error:  # it may ask for anything that only the network's own class has
        return f"the score cannot be had of the traced graph ({type(error).__name__}: {first_line(error)})"
    if isclose(found, dense, rel_tol=ALIKE, abs_tol=1e-6):
        return ""
    return f"the traced graph has {found:.4g} where the network itself has {dense:.4g}"


def _number(value: Any) -> float:
    """What a score gave, as a number.

    Raises:
        InputError: It is none.
    """
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"score=… has to give one number for a network; got {type(value).__name__}. Return float(…) of it."
        ) from error


def _curves(
    groups: Sequence[Any], found: Sequence[tuple[_Trial, float]], notes: list[str]
) -> tuple[tuple[Curve, ...], tuple[str, ...]]:
    """Curves by group, and the notes with what gave no number."""
    curves = []
    for number in dict.fromkeys(trial.group for trial, _ in found):
        group, own = groups[number], [(t.removed, value) for t, value in found if t.group == number]
        sound = [(removed, value) for removed, value in own if isfinite(value)]
        lost = [f"{removed}" for removed, value in own if not isfinite(value)]
        if lost:
            notes.append(
                f"{group.name} without {', '.join(lost)} of {len(group)} units gives NaN or infinity: left out"
            )
        if sound:
            removed, values = zip(*sound, strict=True)
            curves.append(Curve(group.name, group.producers, len(group), removed, values))
    return tuple(curves), tuple(notes)
