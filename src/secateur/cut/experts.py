"""Whole experts of mixtures: listed with their scores, and removed with their rows of the router."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur.core import arguments
from secateur.core.errors import BudgetError, InputError, UnknownNameError
from secateur.core.inputs import Data
from secateur.core.patterns import covered
from secateur.core.types import ExampleInputs
from secateur.criteria import CRITERIA, GroupView
from secateur.criteria.experts import OUTPUT_CHANGE, ROUTING, by_output_change, by_routing
from secateur.criteria.scoring import score
from secateur.cut.analysis import Analysis, analyse
from secateur.cut.over_processes import over_processes
from secateur.cut.prune import prune
from secateur.cut.pruned import Pruned, opened
from secateur.cut.selection import Selection, names_in
from secateur.graph.copies import plain_network
from secateur.graph.mixtures import Mixture, experts_in_lists, find_mixtures

__all__ = ["AUTO", "Experts", "check_criterion", "experts_of", "foresee_experts", "measures", "remove_experts"]

AUTO = "auto"
"""``routing`` where there are data, else ``l2``."""


@dataclass(frozen=True)
class Experts:
    """The experts of one mixture.

    Attributes:
        name: The module that holds the router and its experts; empty for the network itself.
        count: How many experts there are.
        chosen: How many compute a token; so many have to stay.
        scores: One an expert, higher = keep.
    """

    name: str
    count: int
    chosen: int
    scores: tuple[float, ...]


@arguments.checked
def experts_of(
    model: nn.Module, example_inputs: ExampleInputs, *, criterion: str = AUTO, data: Data | None = None, seed: int = 0
) -> tuple[Experts, ...]:
    """Lists the mixtures of ``model`` with the scores of their experts, in the order of execution.

    Args:
        model: Any network; it is not touched.
        example_inputs: A tensor, a tuple, or a dict of keyword inputs.
        criterion: As for :func:`remove_experts`; of ``output_change`` the order in which all but ``chosen`` would go.
        data: As for :func:`remove_experts`.
        seed: For criteria that draw random numbers.

    Raises:
        InputError: No mixture whose experts can go, or a criterion without its data.
    """
    model = plain_network(model)
    with experts_in_lists():
        analysis = analyse(model, example_inputs)
        mixtures = _mixtures(model, analysis, [])
        goes = {m.name: m.units - _least(analysis, m) for m in mixtures}
        scores = _scores(model, analysis, mixtures, _named(criterion, data), data, goes, seed)
    found = {m.name: [float(scores[m.name][u]) for u in m.places] for m in mixtures}
    return tuple(Experts(m.name, m.experts, m.chosen, tuple(found[m.name])) for m in mixtures)


@arguments.checked
@over_processes
def remove_experts(
    model: nn.Module | Pruned,
    example_inputs: ExampleInputs | None = None,
    *,
    keep: int | None = None,
    count: int | None = None,
    ratio: float | None = None,
    ignore: Selection = (),
    criterion: str = AUTO,
    verify: bool = True,
    seed: int = 0,
    data: Data | None = None,
) -> Pruned:
    """Removes whole experts of every mixture, with their rows of the router, and proves that the result is exact.

    It is compared with the dense network in which the router's logits of the experts that go are −∞, so that tokens
    which chose them go to the best of those that stay. Experts may be stacked in tensors (Mixtral, Qwen-MoE and their
    kin in transformers) or be elements of a list of modules; the others are counted anew in their order. Every mixture
    loses as many, and a configuration's number of experts follows. Experts that all tokens see (shared ones) stay.

    Args:
        model: The trained network, or the result of an earlier cut; left untouched.
        example_inputs: A tensor, a tuple, or a dict of keyword inputs. The result of an earlier cut knows it.
        keep: How many experts of every mixture stay. Exactly one of ``keep``, ``count`` and ``ratio`` is given.
        count: How many go, of every mixture.
        ratio: Share that goes, of every mixture.
        ignore: Mixtures (modules that hold a router and its experts, their names or patterns) that stay whole; a
            configuration can seldom say that.
        criterion: ``routing``: the experts go first that the router asks for least on the data
            (:func:`~secateur.criteria.experts.by_routing`); ``output_change``: one after another, next the one without
            which the mixture's output on the data changes least
            (:func:`~secateur.criteria.experts.by_output_change`); any criterion of channels, by the router's row and
            stacked weights; or ``auto``: ``routing`` where there are data, else ``l2``.
        verify: Whether to compare with the masked dense network; leave it on.
        seed: For criteria that draw random numbers.
        data: Calibration data, without labels, in any form of :mod:`secateur.core.inputs`.

    Raises:
        InputError: Not exactly one of keep, count and ratio; no mixture whose experts can go (says why); a criterion
            without its data.
        BudgetError: Fewer experts would stay than the router chooses for a token, or none would go.
        VerificationError: The result is not exact.

    >>> from secateur.cut.experts import remove_experts
    >>> remove_experts(nn.Linear(2, 2), torch.zeros(1, 2), keep=1)
    Traceback (most recent call last):
    secateur.core.errors.InputError: The network has no mixture of experts that could go: no operator chooses ...
    """
    network, _, inputs = opened(model, example_inputs)
    plain, stay = plain_network(network), names_in(network, ignore, "ignore")
    by = _named(criterion, data)
    with experts_in_lists():
        analysis = analyse(plain, inputs)
        mixtures = _mixtures(plain, analysis, stay)
        goes = {m.name: _units(analysis, m, keep, count, ratio) for m in mixtures}
        names = {m.name: analysis.groups.items[m.group].name for m in mixtures}
        how = by if by not in _MEASURED else _measured(plain, analysis, mixtures, by, data, goes)
        return prune(
            model, inputs, criterion=how, ratio={names[m.name]: goes[m.name] / m.units for m in mixtures},
            groups=names.values(), verify=verify, seed=seed, data=data,
        )  # fmt: skip


def foresee_experts(
    model: nn.Module, example_inputs: ExampleInputs, *, keep: int | None = None, count: int | None = None,
    ratio: float | None = None, ignore: Selection = (),
) -> None:  # fmt: skip
    """Looks whether so many experts can go, and cuts nothing.

    Raises:
        SecateurError: What :func:`remove_experts` raises before it looks at data.
    """
    plain, stay = plain_network(model), names_in(model, ignore, "ignore")
    with experts_in_lists():
        analysis = analyse(plain, example_inputs)
        for mixture in _mixtures(plain, analysis, stay):
            _units(analysis, mixture, keep, count, ratio)


# ----------------------------------------------------------------------------------------------------- choosing


_MEASURED = (ROUTING, OUTPUT_CHANGE)


def check_criterion(criterion: str) -> None:
    """Raises :class:`UnknownNameError` for a name that is none of a criterion of experts."""
    known = [AUTO, *_MEASURED, *(name for name in CRITERIA if "channels" in CRITERIA[name].kinds)]
    if criterion not in known:
        raise UnknownNameError("criterion of experts", criterion, known, argument="criterion")


def measures(criterion: str) -> bool:
    """Whether a criterion looks at data."""
    return criterion in (AUTO, *_MEASURED) or bool(CRITERIA[criterion].needs)


def _named(criterion: str, data: Data | None) -> str:
    """The criterion's name, known and with what it needs."""
    check_criterion(criterion)
    if criterion == AUTO:
        return "l2" if data is None else ROUTING
    if criterion in _MEASURED and data is None:
        raise InputError(f"The criterion {criterion} looks at what routers choose: give data=…, such as a list of "
                         "batches.")  # fmt: skip
    return criterion


def _mixtures(model: nn.Module, analysis: Analysis, ignore: Sequence[str]) -> list[Mixture]:
    found = find_mixtures(model, analysis.groups)
    if not found:
        raise InputError(f"The network has no mixture of experts that could go: {_why(analysis)}.")
    for pattern in ignore:
        if not any(covered(m.name, [pattern]) for m in found):
            raise UnknownNameError("mixture of experts", pattern, [m.name for m in found], argument="ignore")
    left = [m for m in found if not covered(m.name, ignore)]
    if not left:
        raise BudgetError(f"ignore keeps all {len(found)} mixtures whole, so no expert can go.")
    return left


def _why(analysis: Analysis) -> str:
    held = list(dict.fromkeys(str(u) for u in analysis.unsupported if "entries" in u.reason or "choose" in u.reason))
    if held:
        return "their numbers are used otherwise than to ask for experts: " + "; ".join(held[:3])
    return "no operator chooses the largest of a router's logits (topk)"


def _least(analysis: Analysis, mixture: Mixture) -> int:
    """Units that have to stay, so that as many experts are there as are chosen."""
    return max(analysis.groups.items[mixture.group].least, -(-mixture.chosen // mixture.at_once), 1)


def _units(analysis: Analysis, mixture: Mixture, keep: int | None, count: int | None, ratio: float | None) -> int:
    """How many units of a mixture go."""
    total, where = mixture.experts, mixture.name or "the network"
    goes = _amount(total, keep, count, ratio)
    least = _least(analysis, mixture) * mixture.at_once
    if total - goes < least:
        raise BudgetError(
            f"{goes} of the {total} experts of {where} cannot go: its router chooses {mixture.chosen} for every token, "
            f"so {least} have to stay and at most {total - least} can go."
        )
    if goes % mixture.at_once:
        raise BudgetError(
            f"The experts of {where} go {mixture.at_once} at a time (its router chooses groups of them), and {goes} is "
            f"no multiple of that."
        )
    return goes // mixture.at_once


def _amount(total: int, keep: int | None, count: int | None, ratio: float | None) -> int:
    given = [name for name, value in (("keep", keep), ("count", count), ("ratio", ratio)) if value is not None]
    if len(given) != 1:
        raise InputError(f"Give one of keep, count and ratio; got {' and '.join(given) or 'none'}.")
    if ratio is not None and not 0 < ratio < 1:
        raise InputError(f"ratio is a share of the experts in (0, 1); got {ratio!r}.")
    for name, value in (("keep", keep), ("count", count)):
        if value is not None and value < 1:
            raise InputError(f"{name} is a number of experts of every mixture, at least 1; got {value!r}.")
    goes = total - keep if keep is not None else count if count is not None else round((ratio or 0) * total)
    if goes < 1:
        said = f"keep={keep}" if keep is not None else f"ratio={ratio}"
        raise BudgetError(f"{said} removes none of {total} experts; give a smaller keep, a higher ratio or count=1.")
    return goes


def _measured(
    model: nn.Module, analysis: Analysis, mixtures: Sequence[Mixture], criterion: str, data: Data | None,
    goes: Mapping[str, int],
) -> Callable[[GroupView], Tensor]:  # fmt: skip
    """A criterion of the groups that the experts are, from scores that were measured."""
    scores = _scores(model, analysis, mixtures, criterion, data, goes)
    by_group = {analysis.groups.items[m.group].name: scores[m.name] for m in mixtures}

    def measured(view: GroupView) -> Tensor:
        return by_group[view.group.name]

    measured.__name__ = criterion  # what the plan says of it
    return measured


def _scores(
    model: nn.Module, analysis: Analysis, mixtures: Sequence[Mixture], criterion: str, data: Data | None,
    goes: Mapping[str, int], seed: int = 0,
) -> dict[str, Tensor]:  # fmt: skip
    """Scores of units by the mixture's name, shape (units,)."""
    groups, traced = analysis.groups, analysis.groups.flow.traced
    if criterion not in _MEASURED:
        names = {m.name: groups.items[m.group].name for m in mixtures}
        values = score(groups, criterion, only=set(names.values()), data=data, seed=seed).values
        return {m.name: torch.as_tensor(values[m.group]) for m in mixtures}
    assert data is not None
    several = (
        by_routing(model, traced, mixtures, data)
        if criterion == ROUTING
        else by_output_change(model, traced, mixtures, data, goes)
    )
    return {m.name: _by_unit(m, several[m.name]) for m in mixtures}


def _by_unit(mixture: Mixture, scores: Tensor) -> Tensor:
    """The sum over the experts that are one unit."""
    return torch.zeros(mixture.units, dtype=scores.dtype).index_add(0, torch.from_numpy(mixture.places), scores)
