"""Whole-layer pruning: lists the residual branches of a network, ranks them and removes the least."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn
from torch.fx import Node

from secateur.budget import before_cut
from secateur.core import arguments
from secateur.core.checks import check_network
from secateur.core.errors import BudgetError, InputError, PlanError, UnknownNameError, nearest
from secateur.core.inputs import Data
from secateur.core.patterns import covered
from secateur.core.plan import Plan
from secateur.core.types import Counts, ExampleInputs, Verification
from secateur.cost.counts import Costs
from secateur.criteria.branches import AUTO, ranked
from secateur.cut.analysis import unsupported
from secateur.cut.layers_by_output import OUTPUT_CHANGE, by_output_change
from secateur.cut.operation import Operation, carry_out, sure
from secateur.cut.over_processes import over_processes
from secateur.cut.pruned import Pruned, opened, untrained
from secateur.cut.selection import Selection, names_in
from secateur.cut.training_mode import shortened_graph
from secateur.graph.branches import Branch, find_branches
from secateur.graph.copies import plain_network
from secateur.graph.flow import flow
from secateur.graph.groups import Groups, solve
from secateur.graph.stages import AS_A_WHOLE, Stages, find_stages, scores_of
from secateur.graph.trace import trace
from secateur.surgery import prune_module
from secateur.surgery import verify as verified
from secateur.surgery.adapted import adapter_notes
from secateur.surgery.attempt import BACKENDS, Built, Rung, proof_notes
from secateur.surgery.building import described, has_configuration
from secateur.surgery.configured import configured_depth
from secateur.surgery.depth import live_nodes, remove_from_graph, replacements
from secateur.surgery.shorten import drop_elements, elements_of, lists_of, same_as_before

__all__ = ["ResidualBranch", "removable", "remove_layers", "replay"]


@dataclass(frozen=True)
class ResidualBranch:
    """A residual branch: what can go whole, with its skip left.

    Attributes:
        name: What :func:`remove_layers` calls it: a module, or its last layer.
        layers: Its weight-bearing layers.
        params: Parameters of its own.
        macs: Multiply-accumulates of one sample (FLOPs are twice that).
        score: How much it is worth, higher = keep; ``None`` where it cannot be removed.
        reason: Why it cannot be removed; empty where it can.
        inside: Names of further branches inside it.
    """

    name: str
    layers: tuple[str, ...]
    params: int
    macs: int
    score: float | None
    reason: str = ""
    inside: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Network:
    """A traced network with its branches and costs."""

    groups: Groups
    costs: Costs
    branches: tuple[Branch, ...]
    stages: Stages

    @property
    def free(self) -> tuple[Branch, ...]:
        """Branches that can be removed."""
        return tuple(b for b in self.branches if not b.reason)

    def counts(self) -> Counts:
        """Of the dense network."""
        return self.costs.counts(np.ones(self.groups.units, dtype=bool))


@arguments.checked
def removable(
    model: nn.Module, example_inputs: ExampleInputs, *, criterion: str = "auto", whole: bool = False, seed: int = 0
) -> tuple[ResidualBranch, ...]:
    """Lists the residual branches of ``model``: what can go first, lowest score first, then what cannot and why.

    Args:
        model: Any network; it is not touched.
        example_inputs: A tensor, a tuple, or a dict of keyword inputs.
        criterion: ``bn_scale`` (mean |γ| of the last batch normalisation of the branch), ``l1`` or ``l2`` (of its
            last layer's weights), ``random``, or ``auto``: ``bn_scale`` where every branch has one, else ``l1``.
        whole: List the elements of lists of modules (a transformer's layers) in the place of their branches; the
            score is the sum of theirs (their own, if they have none).
        seed: For ``random``.

    >>> import torch
    >>> from secateur.models import create
    >>> [b.name for b in removable(create("resnet20"), torch.zeros(1, 3, 32, 32)) if b.reason]
    ['layer2.0', 'layer3.0']
    """
    model = plain_network(model)
    network = _network(model, example_inputs)
    scores = dict(_scores(network, criterion, seed) if whole else ranked(network.groups, network.free, criterion, seed))
    stages = [*network.stages.more.values()] if whole else []
    inside = {name for stage in stages for name in stage.inside}
    macs = dict(zip(network.costs.macs, network.counts().layers, strict=True))
    sizes = {n: p.numel() for n, p in network.groups.flow.traced.module.named_parameters(remove_duplicate=False)}
    found = [
        ResidualBranch(
            branch.name,
            branch.layers,
            sum(sizes.get(name, 0) for name in branch.parameters),
            sum(macs[node].macs for node in branch.nodes if node in macs),
            scores.get(branch.name),
            branch.reason,
            branch.inside,
        )
        for branch in (*(b for b in network.branches if b.name not in inside), *stages)
    ]
    if whole:
        found = _by_element(found, _elements(model, network))
    return tuple(sorted(found, key=lambda b: math.inf if b.score is None else b.score))


def _by_element(found: Sequence[ResidualBranch], elements: Mapping[str, Sequence[Branch]]) -> list[ResidualBranch]:
    """Elements of lists, and what lies in none."""
    of = {branch.name: name for name, several in elements.items() for branch in several}
    made = [one for one in found if one.name not in of]
    for name in elements:
        own = [one for one in found if of.get(one.name) == name]
        layers = tuple(dict.fromkeys(layer for one in own for layer in one.layers))
        made.append(ResidualBranch(name, layers, sum(o.params for o in own), sum(o.macs for o in own),
                                   sum(o.score or 0.0 for o in own), "", _names_inside(own)))  # fmt: skip
    return made


def _names_inside(own: Sequence[ResidualBranch]) -> tuple[str, ...]:
    """Names of the branches of an element, which may be listed as a whole itself."""
    return tuple(name for one in own for name in (one.inside if one.name.endswith(AS_A_WHOLE) else (one.name,)))


@arguments.checked
@over_processes
def remove_layers(
    model: nn.Module | Pruned,
    example_inputs: ExampleInputs | None = None,
    *,
    count: int | None = None,
    ratio: float | None = None,
    names: Selection | None = None,
    ignore: Selection = (),
    criterion: str = "auto",
    backend: str = "auto",
    whole: bool = False,
    verify: bool = True,
    seed: int = 0,
    data: Data | None = None,
) -> Pruned:
    """Removes whole residual branches (the skips stay) and proves that the result is exact.

    The branch is what lies between a skip and the addition: a ResNet block's convolutions, a transformer's
    attention or MLP, a YOLOv3 shortcut with its two convolutions. The result is compared with the dense network in
    which the branch's output is zero. At least one branch stays. An element of a list of modules whose branches all go
    leaves its list (a decoder of twelve layers has nine), and a configuration's number of layers follows.

    Args:
        model: The trained network, or the result of an earlier cut; left untouched.
        example_inputs: A tensor, a tuple, or a dict of keyword inputs. The result of an earlier cut knows it.
        count: How many branches go, lowest score first.
        ratio: Share of the removable branches that goes, instead of ``count``.
        names: Names (or patterns) of the branches, or of modules that contain them (or these modules themselves),
            that go, instead of ``count``.
        ignore: Branches that stay, the same.
        criterion: As in :func:`removable`; or ``output_change``, which is what ``auto`` takes where there are data: the
            layers go one after another, next the one without which the network's output on the data changes least.
        backend: ``module`` (the block becomes ``nn.Identity`` or the activation that followed), ``graph`` (the
            exported graph without it), or ``auto``: the first where it verifies, else the second.
        whole: Whether ``count``, ``ratio`` and ``names`` are of whole elements of lists of modules (a transformer's
            layers), with all their branches; elements of ``nn.ModuleList`` that are called one after another go too if
            they are more than these (encoders that normalise after their sums), and the reference is the dense network
            with the identity in their place.
        verify: Whether to compare with the masked dense network; leave it on.
        seed: For ``random``.
        data: Calibration data for ``output_change``, without labels, in any form of :mod:`secateur.core.inputs`; the
            first 64 samples count.

    Raises:
        InputError: A branch that cannot be removed (says why), or not exactly one of count, ratio, names.
        UnknownNameError: A name that fits no branch, with the nearest.
        BudgetError: More than can go, or a network without residual branches.
        VerificationError: No back end gives the right network.

    >>> import torch
    >>> from secateur.models import create
    >>> remove_layers(create("resnet20"), torch.zeros(1, 3, 32, 32), names=["layer1.1"]).model.layer1[1]
    Identity()
    """
    if backend not in BACKENDS:
        raise UnknownNameError("back end", backend, BACKENDS)
    given, first, example_inputs = opened(model, example_inputs)
    names, ignore = names_in(given, names, "names"), names_in(given, ignore, "ignore")
    model = plain_network(given)
    network = _network(model, example_inputs)
    amount = _Amount(count, ratio, names, ignore, whole)
    criterion = OUTPUT_CHANGE if criterion == AUTO and data is not None and names is None else criterion
    chosen = _chosen(model, network, amount, criterion, seed, data)
    provenance = {"criterion": criterion if names is None else "by name", "count": len(chosen)}
    gone = [b for b in (*network.free, *network.stages.more.values()) if b.name in chosen]
    pruned = _cut(model, example_inputs, network, gone, backend=backend, check=verify, provenance=provenance)
    return untrained(replace(pruned, dense=first), given)


@dataclass(frozen=True)
class _Amount:
    """What goes: so many, such a share, or these; and what stays."""

    count: int | None
    ratio: float | None
    names: list[str] | None
    ignore: Sequence[str]
    whole: bool


def foresee_removal(
    model: nn.Module,
    example_inputs: ExampleInputs,
    *,
    count: int | None = None,
    ratio: float | None = None,
    names: Selection | None = None,
    ignore: Selection = (),
    criterion: str = "auto",
    whole: bool = False,
) -> None:
    """Chooses as :func:`remove_layers` does and cuts nothing: what it raises has nothing to do with the weights.

    Raises:
        SecateurError: What the choice raises.
    """
    names, ignore = names_in(model, names, "names"), names_in(model, ignore, "ignore")
    network = _network(plain_network(model), example_inputs)
    criterion = AUTO if criterion == OUTPUT_CHANGE else criterion  # how many can go does not depend on which
    _chosen(model, network, _Amount(count, ratio, names, ignore, whole), criterion, 0)


def _chosen(
    model: nn.Module, network: _Network, amount: _Amount, criterion: str, seed: int, data: Data | None = None
) -> set[str]:
    """Names of the branches that go."""
    if not network.free and not (amount.whole and network.stages.more):
        raise BudgetError(_nothing_free(network.branches))
    stay = {b.name for pattern in amount.ignore for b in _matching(pattern, network.branches, "ignore")}
    if amount.names is not None:
        if amount.count is not None or amount.ratio is not None:
            raise InputError("Give one of count, ratio and names; got names and another one.")
        elements = _elements(model, network) if amount.whole else {}
        return _named_elements(amount.names, elements, stay) if elements else _named(amount.names, network, stay)
    if criterion == OUTPUT_CHANGE:
        return _by_output(model, network, amount, stay, data)
    if amount.whole:
        scores = _scores(network, criterion, seed)
        return _lowest_elements(scores, _elements(model, network), stay, amount.count, amount.ratio)
    scores = ranked(network.groups, network.free, criterion, seed)
    return _lowest([n for n, _ in scores if n not in stay], network, amount.count, amount.ratio)


def _by_output(
    model: nn.Module, network: _Network, amount: _Amount, stay: set[str], data: Data | None
) -> set[str]:  # fmt: skip
    """Names of the branches without which the output changes least, layers of lists as a whole where that is asked."""
    if data is None:
        raise InputError(f"The criterion {OUTPUT_CHANGE} looks at the network's output: give data=…, such as a list of "
                         "batches.")  # fmt: skip
    if amount.whole:
        elements = _elements(model, network)
        free = {name: several for name, several in elements.items() if not stay & _held(several)}
        count = _amount(amount.count, amount.ratio, len(elements), len(free), "layers")
    else:
        single = [b for b in network.free if not b.inside]
        free = {b.name: (b,) for b in single if b.name not in stay}
        count = _amount(amount.count, amount.ratio, len(single), len(free), "residual branches")
    gone = by_output_change(network.groups.flow.traced, free, count, data)
    return {branch.name for name, _ in gone for branch in free[name]}


def replay(model: nn.Module, plan: Plan, example_inputs: ExampleInputs, backend: str, verify: bool) -> Pruned:
    """Removes the branches that a plan (of one step) names.

    Raises:
        PlanError: The network has no such branch, or cannot lose it.
    """
    model = plain_network(model)
    network = _network(model, example_inputs)
    gone = _by_name(network, plan.removed)
    return _cut(model, example_inputs, network, gone, backend=backend, check=verify, provenance=plan.provenance)


def _by_name(network: _Network, names: Collection[str]) -> list[Branch]:
    free = {branch.name: branch for branch in (*network.free, *network.stages.more.values())}
    for name in names:
        if name not in free:
            close = nearest(name, free)
            offer = f"; it has {', '.join(close)}" if close else ""
            raise PlanError(f"The plan removes the branch {name!r}, which this network cannot lose or has not{offer}.")
    return [branch for name, branch in free.items() if name in names]


# ----------------------------------------------------------------------------------------------------- choosing


def _network(model: nn.Module, inputs: ExampleInputs) -> _Network:
    check_network(model, inputs)
    groups = solve(flow(trace(model, inputs).without_state()))
    traced = groups.flow.traced
    branches = find_branches(traced)
    stages = find_stages(model, traced, branches, live_nodes(traced.nodes))
    return _Network(groups, Costs(groups), branches, stages)


def _nothing_free(branches: Sequence[Branch]) -> str:
    why = [f"{b.name}: {b.reason}" for b in branches[:5]]
    found = f" Its additions: {'; '.join(why)}." if why else " It adds nothing to what it was computed from."
    return f"The network has no residual branch that could be removed.{found} Prune channels instead."


def _matching(pattern: str, branches: Sequence[Branch], argument: str = "names") -> list[Branch]:
    """Branches that a name or pattern stands for: their own name, their last layer, or a module around them."""
    found = [b for b in branches if covered(b.name, [pattern]) or pattern == b.layers[-1]]
    if not found:
        raise UnknownNameError("residual branch", pattern, (b.name for b in branches), argument=argument)
    return found


def _named(names: list[str], network: _Network, stay: set[str]) -> set[str]:
    chosen: set[str] = set()
    for name in names:
        found = _matching(name, network.branches)
        free = [b.name for b in found if not b.reason and b.name not in stay]
        if not free:
            reason = found[0].reason or "it is in ignore"
            raise InputError(f"The branch {found[0].name!r} cannot be removed: {reason}.")
        chosen.update(free)
    if not chosen:
        raise InputError("names is empty; name the branches that go.")
    if chosen >= {b.name for b in network.free}:
        raise BudgetError(f"These are all {len(network.free)} residual branches of the network; one at least stays.")
    return chosen


def _lowest(names: list[str], network: _Network, count: int | None, ratio: float | None) -> set[str]:
    """The first of ``names`` (lowest score first); a branch that holds others goes only by name."""
    holding = {b.name for b in network.free if b.inside}
    single = [b.name for b in network.free if b.name not in holding]
    names = [name for name in names if name not in holding]
    return set(names[: _amount(count, ratio, len(single), len(names), "residual branches")])


def _lowest_elements(
    scores: Sequence[tuple[str, float]], elements: Mapping[str, Sequence[Branch]], stay: set[str], count: int | None,
    ratio: float | None,
) -> set[str]:  # fmt: skip
    """Branches of the elements with the lowest sums of scores."""
    if len(elements) < 2:
        raise BudgetError(
            "whole=True removes elements of nn.ModuleList and nn.Sequential that consist of residual branches; this "
            f"network has {len(elements) or 'none'}. Leave it out to remove branches."
        )
    known = dict(scores)
    free = {n: several for n, several in elements.items() if not stay & _held(several)}
    order = sorted(free, key=lambda name: sum(known[b.name] for b in free[name]))
    return {b.name for name in order[: _amount(count, ratio, len(elements), len(order), "layers")] for b in free[name]}


def _held(branches: Sequence[Branch]) -> set[str]:
    """Names of branches, and of what lies inside elements that go as a whole."""
    return {name for b in branches for name in (b.name, *(b.inside if b.element else ()))}


def _elements(model: nn.Module, network: _Network) -> dict[str, tuple[Branch, ...]]:
    """What goes with an element of a list: all its branches, or itself where it is more than these."""
    several = elements_of(model, network.branches, network.stages.plain)
    lists = {name.rpartition(".")[0] for name in network.stages.more}  # of which branches alone are no elements
    several = {n: own for n, own in several.items() if n in network.stages.plain or n.rpartition(".")[0] not in lists}
    return {**several, **{name: (stage,) for name, stage in network.stages.more.items()}}


def _scores(network: _Network, criterion: str, seed: int) -> list[tuple[str, float]]:
    """Scores of branches, and of elements that go as a whole: the sum over their branches, where they have some."""
    found = ranked(network.groups, network.free, criterion, seed)
    sums = scores_of(network.stages.more, dict(found))
    alone = [stage for stage in network.stages.more.values() if stage.name not in sums]
    return [*found, *sums.items(), *ranked(network.groups, alone, criterion, seed)]


def _named_elements(names: list[str], elements: Mapping[str, Sequence[Branch]], stay: set[str]) -> set[str]:
    """Branches of the elements that names or patterns stand for."""
    chosen: dict[str, Sequence[Branch]] = {}
    for pattern in names:
        found = {n: several for n, several in elements.items() if covered(n, [pattern]) and not stay & _held(several)}
        if not found:
            raise UnknownNameError("layer", pattern, elements, argument="names")
        chosen |= found
    if len(chosen) >= len(elements):
        raise BudgetError(f"These are all {len(elements)} layers of the network; one at least stays.")
    return {branch.name for several in chosen.values() for branch in several}


def _amount(count: int | None, ratio: float | None, all_of_them: int, free: int, what: str) -> int:
    """How many go, at least one and not all.

    Raises:
        InputError: Not one of count and ratio, or none that can be used.
        BudgetError: None, or more than can go.
    """
    if (count is None) == (ratio is None):
        raise InputError(
            "Give one of count, ratio and names; got " + ("none." if count is None else "count and ratio.")
        )
    if ratio is not None:
        if not 0 < ratio < 1:
            raise InputError(f"ratio is a share of the {what} in (0, 1); got {ratio!r}.")
        count = round(ratio * all_of_them)
        if not count:
            raise BudgetError(f"{ratio:.0%} of {all_of_them} {what} is none; give count=1 or a higher ratio.")
    assert count is not None
    if count < 1:
        raise InputError(f"count is the number of {what} that go, at least 1; got {count!r}.")
    limit = min(free, all_of_them - 1)
    if count > limit:
        raise BudgetError(
            f"{count} {what} cannot be removed: {free} of {all_of_them} may go and one at least stays, so at most "
            f"{limit}."
        )
    return count


# ------------------------------------------------------------------------------------------------------ cutting


def _cut(
    model: nn.Module, inputs: ExampleInputs, network: _Network, gone: Sequence[Branch], *, backend: str, check: bool,
    provenance: Mapping[str, Any],
) -> Pruned:  # fmt: skip
    def once(network: _Network, gone: Sequence[Branch]) -> Pruned:
        return _cut_once(model, inputs, network, gone, backend=backend, check=check, provenance=provenance)

    def again() -> Pruned:
        anew = _network(model, inputs)
        return once(anew, _by_name(anew, [branch.name for branch in gone]))

    return sure(lambda: once(network, gone), again, flow=network.groups.flow)


def _cut_once(
    model: nn.Module, inputs: ExampleInputs, network: _Network, gone: Sequence[Branch], *, backend: str, check: bool,
    provenance: Mapping[str, Any],
) -> Pruned:  # fmt: skip
    traced, before = network.groups.flow.traced, network.counts()
    try:
        replaced, reason = replacements(model, traced, gone), None
    except PlanError as error:
        replaced, reason = {}, error
    known = {**provenance, **before_cut(network.costs)}

    def module() -> nn.Module:
        if reason is not None:
            raise PlanError(str(reason))
        return prune_module(model, {}, replaced)

    def graph() -> Built:
        everything = _everything(network.groups)
        return shortened_graph(model, network.groups, everything, lambda g: remove_from_graph(g, gone, model))

    operation = Operation(
        Plan({}, {}, known, (), tuple(b.name for b in gone), replaced),
        rungs=(
            *_shorter(model, network, gone),
            Rung("module", lambda: Built(module())),
            Rung("graph", graph),
        ),
        verify=lambda built, dense: _proof(built.model, network.groups, gone, dense),
    )
    done = carry_out(model, operation, backend=backend, check=check)
    after = _after(done.built.model, network, before, live_nodes(traced.nodes, {b.add: b.skip for b in gone}))
    return Pruned(done.built.model, done.backend, done.verification, before, after, (), unsupported(network.groups),
                  (*done.notes, *proof_notes(done.verification)), inputs, None, done.lost, model)  # fmt: skip


def _shorter(model: nn.Module, network: _Network, gone: Sequence[Branch]) -> list[Rung]:
    """Ways in which elements leave their lists, where those that go are all that elements of lists compute."""
    lists = lists_of(model, network.branches, gone)
    if not lists:
        return []

    def build(*, config: bool) -> Built:
        found = configured_depth(model, lists) if config else None
        numbers = {} if found is None else found.numbers
        small = prune_module(model, {}, numbers=numbers)
        notes = [f"layers of {p}: {len(small.get_submodule(p))} → {len(k)}" for p, k in lists.items()]  # type: ignore[arg-type]
        notes += [*(found.notes if found is not None else []), *adapter_notes(model, lists)]
        drop_elements(small, lists)
        view = network.groups.flow.traced
        return Built(small, numbers, notes=tuple(notes), shortened=lists,
                     finish=lambda: same_as_before(small, lists, view))  # fmt: skip

    ways = [Rung("module", lambda: build(config=False))]
    if has_configuration(model) or described(model):
        ways.insert(0, Rung("module", lambda: build(config=True), "configuration"))
    return ways


def _everything(groups: Groups) -> NDArray[np.bool_]:
    return np.ones(groups.component.shape, dtype=bool)


def _proof(small: nn.Module, groups: Groups, gone: Sequence[Branch], dense: nn.Module | None = None) -> Verification:
    return verified(small, groups, _everything(groups), {}, removed={b.add: b.skip for b in gone}, dense=dense)


def _after(small: nn.Module, network: _Network, before: Counts, live: set[Node]) -> Counts:
    """Counts of the network that is left: the layers that are still computed."""
    layers = tuple(c for node, c in zip(network.costs.macs, before.layers, strict=True) if node in live)
    return Counts(sum(p.numel() for p in small.parameters()), sum(c.macs for c in layers), layers)
