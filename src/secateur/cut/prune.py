"""The main entry points: prune, and apply a plan."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from secateur.budget import LATENCY, Aim, Ratio, before_cut, target_of
from secateur.budget.latency import in_words
from secateur.core import arguments
from secateur.core.checks import check_network
from secateur.core.errors import (
    BudgetError,
    InputError,
    UnknownNameError,
    VerificationError,
)
from secateur.core.inputs import Data
from secateur.core.modes import no_gc
from secateur.core.plan import Plan, remembered
from secateur.core.progress import working
from secateur.core.types import ExampleInputs, Target
from secateur.criteria import GroupView
from secateur.criteria.scoring import chosen, score
from secateur.criteria.statistics import Dense, Loss
from secateur.cut.analysis import Analysis, analyse, nothing_free
from secateur.cut.language import criterion_for, loss_notes
from secateur.cut.layers import replay
from secateur.cut.operation import Operation, carry_out, freed, sure
from secateur.cut.over_processes import over_processes
from secateur.cut.part_calls import Through, names_inside, parts_of
from secateur.cut.parts import check_alone, cut_parts, plan_inside
from secateur.cut.plans import fitting, plan_of
from secateur.cut.pruned import Cut, Pruned, opened, untrained
from secateur.cut.selection import Selection, groups_named, names_in
from secateur.cut.training_mode import as_graph
from secateur.graph.copies import plain_network
from secateur.graph.groups import Groups
from secateur.graph.mixtures import experts_in_lists
from secateur.graph.views import Also, labelled
from secateur.models.weight_files import reader_of
from secateur.surgery import prune_module
from secateur.surgery import verify as verified
from secateur.surgery.alternatives import with_alternatives
from secateur.surgery.attempt import BACKENDS, Built, Rung, proof_notes
from secateur.surgery.building import has_configuration
from secateur.surgery.dense import Dense as Remembered
from secateur.surgery.experts import counts_without, leaving_lists, shorter_lists
from secateur.surgery.graph import new_indices
from secateur.surgery.living import configuring, living, replayed
from secateur.surgery.pruned_graph import PrunedGraph, has_train_mode
from secateur.surgery.sizes import Sizes
from secateur.surgery.sizes_alone import check_sizes
from secateur.surgery.unread_sizes import with_unread_sizes

__all__ = ["Analysis", "analyse", "apply", "prune"]

Mask = NDArray[np.bool_]


@arguments.checked
@over_processes
def prune(
    model: nn.Module | Pruned,
    example_inputs: ExampleInputs | None = None,
    *,
    criterion: str | Callable[[GroupView], Tensor] | None = None,
    ratio: Ratio | None = None,
    ratio_of: str = "units",
    std: float | None = None,
    macs: float | None = None,
    params: float | None = None,
    energy: float | None = None,
    size: float | None = None,
    latency: float | None = None,
    runtime: str | None = None,
    target: Target | None = None,
    tolerance: float | None = None,
    of: str = "current",
    scope: str | None = None,
    round_to: int | str | None = None,
    min_units: int = 1,
    only: Selection | None = None,
    ignore: Selection = (),
    groups: Iterable[str] | None = None,
    granularity: str = "auto",
    backend: str = "auto",
    verify: bool = True,
    also: Also | None = None,
    part: Selection | None = None,
    seed: int = 0,
    data: Data | None = None,
    loss: Loss | None = None,
    weights: str | Path | None = None,
) -> Pruned:
    """Removes the units with the lowest scores and proves that the result is exact.

    Args:
        model: The trained network, or the result of an earlier cut. It is left untouched (weights, mode, random
            state, hooks).
        example_inputs: What it is called with: a tensor, a tuple, or a dict of keyword inputs. The result of an
            earlier cut knows it, and so does a network from an ONNX file.
        criterion: Name of a criterion or a function of a group's view; higher score = keep. By default ``l2``; for a
            language model of transformers, where there are ``data``, ``wanda``.
        ratio: Share of the units to **remove**, in [0, 1); or one per module, ``{"layer1": 0.3, "*.conv1": 0.5}``, by
            names and patterns as ``only`` takes them, or names of groups: the last that fits a layer counts (put the
            general ones first), and layers that none fits stay whole (:func:`secateur.sensitivity` finds such ratios).
            Exactly one of ``ratio``, ``std`` and what follows is given.
        ratio_of: What ``ratio`` is a share of: ``units``, or, with scope ``block``, ``params``: every block, and with
            them the network, loses this share of its parameters, within one channel (what lies in no block stays).
        std: A threshold instead: units that score more than so many standard deviations below the mean of their group
            go. ``criterion="apoz", std=1`` removes those whose APoZ is above the mean by more than one (Hu et al. 2016,
            arXiv:1607.03250).
        macs: Multiply-accumulates to **keep**: a share up to 1, or a count above 1; what is
            left is the nearest at or below it that the widths allow.
        params: Parameters to keep, the same.
        energy: Energy (by a model, in multiply-accumulates) to keep, the same.
        size: Bytes of the weights file to keep, the same.
        latency: Measured time in ``runtime`` to keep: a share up to 1, or milliseconds above 1; times
            stray, so up to ``tolerance`` above counts as met.
        runtime: Where ``latency`` is measured.
        target: A :class:`~secateur.Target`, which also says the batch and the threads that a latency is of, and takes
            milliseconds below 1 (``latency_ms``).
        tolerance: How far below the target, as a share of it, needs no note that says how far and why: 0.01 by default,
            0.05 for a latency.
        of: What ``ratio`` and a target's share are of: the network as it is (``current``), or as it was before
            its first cut (``dense``), which earlier cuts then count towards.
        scope: ``local`` (the same share of every group), ``global`` (the lowest scores anywhere) or ``block``
            (the same share of the channels inside every block; a residual stream between blocks stays whole),
            ``isomorphic`` (the lowest scores among all groups whose layers are joined in the same way, the same share
            of every such kind), or ``uniform``: like ``local``, and layers of a kind keep one width where a target is
            aimed at, which is what a configuration of transformers can say.
            By default ``local`` (``global`` with the criterion ``reconstruction``); with a latency, whatever keeps the
            most score in that time.
        round_to: Widths that are left are multiples of this; ``auto``, which is what a latency takes by default, is
            the runtime's own step (PyTorch's, where no runtime is named); without a latency 1 by default.
        min_units: Units that every group keeps at least.
        only: The only modules (or parameters) whose output channels may go: names, patterns, or the modules of
            ``model`` themselves.
        ignore: Modules (or parameters) that keep their output channels, the same.
        groups: Names of the groups that alone are pruned, as :func:`analyse` gives them.
        granularity: Where a dimension is split into blocks (attention heads, grouped convolutions, group norm,
            channel shuffles): ``whole`` removes whole blocks, ``within`` the same number from every block
            (the head size), ``auto`` whichever leaves more units to choose from, or what keeps more of the network;
            ``even`` is ``auto`` with the same positions of what code takes to be of one size: pieces that it splits
            channels into (``chunk``), channels of zeros at both ends, the two widths of attention.
        backend: ``module`` (a smaller copy of the same classes), ``graph`` (the exported graph, for modules
            with sizes baked into their code), or ``auto``: the first where it verifies, else the second.
        verify: Whether to compare with the masked dense network; leave it on.
        also: Further methods of the network that have to work after the cut, each with what it is called with
            (``{"embed": images}``). Parameters that nothing traced uses stay whole, and a note names them.
        part: Submodules (names, or the modules themselves) that alone are traced and cut, each by itself, with what
            it is called with in the network; for networks that cannot be traced whole (detectors with proposals, loops
            over values). What they take and give keeps its size. Ratio and targets are of each part; ``before`` and
            ``after`` count all parameters, and the multiply-accumulates of the parts.
        seed: For criteria that draw random numbers.
        data: Calibration data, for criteria that need them (`secateur criteria` says which), in any form of
            :mod:`secateur.core.inputs`: a tensor, a tuple, a dict, or an iterable of batches (a DataLoader, a
            generator), each inputs or a pair (inputs, labels). They are gone through once, in constant memory.
        loss: For criteria that need gradients: a function of the network's output and the labels that gives the
            mean loss; by default that of ``data`` where this is a task, else cross-entropy.
        weights: Where the values of a network on the meta device lie: a safetensors file, a pattern
            (``folder/model-*.safetensors``), an index or a folder. Each tensor is read when a group's scores ask for it
            and forgotten after; nothing is compared, and :func:`secateur.cut_shards` cuts the files.

    Returns:
        The smaller network with its plan, its proof and its counts.

    Raises:
        InputError: An argument that cannot be used.
        WeightsError: NaN or infinite weights.
        TraceError: The network cannot be traced.
        BudgetError: Nothing at or below the target can be reached (says how far it can go), or nothing can be pruned.
        VerificationError: No back end gives the right network; names the first operator that differs.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> pruned = prune(net, torch.randn(1, 4), ratio=0.5)
    >>> pruned.model
    Sequential(
      (0): Linear(in_features=4, out_features=4, bias=True)
      (1): ReLU()
      (2): Linear(in_features=4, out_features=2, bias=True)
    )
    """
    network, first, example_inputs = opened(model, example_inputs)
    if backend not in BACKENDS:
        raise UnknownNameError("back end", backend, BACKENDS)
    kept = {"macs": macs, "params": params, "energy": energy, "size": size, "latency": latency}
    goal = target_of(ratio, target, kept, runtime, std)
    aim = Aim(ratio, goal, ratio_of=ratio_of, std=std, of=of, scope=scope, round_to=round_to, min_units=min_units,
              tolerance=tolerance)  # fmt: skip
    aim.need()
    only, ignore = names_in(network, only, "only"), names_in(network, ignore, "ignore")
    model = plain_network(network)
    by = criterion_for(model, criterion, data)
    read = None if weights is None else _reader(model, weights, aim)
    if part is not None:
        _refuse_with_part(by, aim, groups=groups, also=also, weights=weights)
        how = {"criterion": by, "ratio": ratio, "ratio_of": ratio_of, "std": std, "target": goal,
               "tolerance": tolerance, "scope": scope, "round_to": round_to, "min_units": min_units,
               "granularity": granularity, "backend": backend, "verify": verify, "seed": seed}  # fmt: skip
        parts = _prune_parts(model, example_inputs, parts_of(model, part), only, ignore, data, how, first)
        return untrained(parts, network)

    tried: set[bytes] = set()
    before = _before_cuts(model, first, example_inputs)

    def once(granularity: str, aim: Aim = aim) -> Pruned:
        analysis = analyse(model, example_inputs, only=only, ignore=ignore, granularity=granularity, also=also)
        units = analysis.groups.component.tobytes() + analysis.groups.unit_component.tobytes() + bytes([aim.uniform])
        if units in tried:
            raise _TriedError
        tried.add(units)
        scores = score(analysis.groups, by, only=groups_named(analysis.groups, groups), data=data, loss=loss,
                       seed=seed, measure=aim.measure, dense=before, read=read)  # fmt: skip
        if not scores.values:
            raise BudgetError(nothing_free(analysis))
        made = {"criterion": chosen(by).name, **aim.record, "seed": seed}

        def cut(keep: Mask, **more: Any) -> Pruned:
            return _cut(model, example_inputs, analysis, keep, first, backend=backend, check=verify, also=also,
                        provenance={**made, **more})  # fmt: skip

        choice = aim.choose(analysis.costs, scores, earlier=remembered(model), dense=(model, example_inputs),
                            cut=lambda keep: cut(keep).model)  # fmt: skip
        pruned = cut(choice.keep, **choice.record)
        return replace(pruned, notes=(*scores.notes, *choice.notes, *pruned.notes))

    one = granularity != "auto" or not _again(data) or groups is not None
    pruned = once(granularity) if one else _most_alive(once, aim)
    told = loss_notes(model, pruned.model, chosen(by).name, data)
    return untrained(replace(pruned, notes=(*told, *pruned.notes)), network)


def _reader(model: nn.Module, weights: str | Path, aim: Aim) -> Callable[[str], Tensor]:
    """What reads the values of a network that stays on the disk."""
    if aim.target is not None and aim.target.measured:
        raise InputError("A latency is measured with the network in memory, and weights=… leaves it on the disk: give "
                         "ratio, macs, params or size.")  # fmt: skip
    return reader_of(model, weights)


def _before_cuts(model: nn.Module, first: nn.Module | None, inputs: ExampleInputs) -> Dense | None:
    """The network before its first cut, where ``model`` was cut before."""
    plan = remembered(model)
    if plan is None:
        return None
    return Dense(plan, None if first is None else lambda: labelled(plain_network(first), inputs)[0])


def _prune_parts(
    model: nn.Module, inputs: ExampleInputs, paths: list[str], only: list[str] | None, ignore: list[str],
    data: Data | None, how: Mapping[str, Any], first: nn.Module | None,
) -> Pruned:  # fmt: skip
    """:func:`prune` of some submodules, each by itself."""
    if isinstance(data, Iterator) and len(paths) > 1:
        raise InputError("data is an iterator, which can be gone through once, and every part wants it: give a list of "
                         "batches or a DataLoader.")  # fmt: skip

    def cut(path: str, part: nn.Module, given: ExampleInputs) -> Pruned:
        return prune(
            part, given, only=names_inside(model, path, only), ignore=names_inside(model, path, ignore) or (),
            data=None if data is None else Through(model, path, data), **how,
        )  # fmt: skip

    return cut_parts(model, inputs, paths, cut, apply, check=bool(how["verify"]), first=first)


def _refuse_with_part(criterion: str | Callable[[GroupView], Tensor], aim: Aim, **given: Any) -> None:
    """What is of the whole network cannot be asked of a part."""
    needs = chosen(criterion).needs
    wrong = [f"{name}=…" for name, value in given.items() if value]
    wrong += [f"ratio={aim.ratio!r} by layer"] * isinstance(aim.ratio, Mapping) + ["of='dense'"] * (aim.of == "dense")
    wrong += [f"the criterion {chosen(criterion).name!r} (it needs the loss)"] * bool({"gradients"} & {*needs})
    wrong += ["a latency"] * (aim.target is not None and aim.target.measured)
    if wrong:
        raise InputError(
            f"part=… cannot be given with {' and '.join(wrong)}: that is of a whole network. Prune "
            "net.get_submodule(name) by itself, with inputs of its own, for that."
        )


class _TriedError(Exception):
    """Another name for a way to take blocks apart that was tried."""


def _most_alive(once: Callable[..., Pruned], aim: Aim) -> Pruned:
    """The cut as ``auto`` has it, or else another way to take blocks apart, where that keeps more of the network.

    Another way has to meet the target: what misses it is smaller, and keeps less in the end.

    Args:
        once: Cuts, by a granularity and perhaps another aim.
        aim: Of the first way.
    """
    exact = replace(aim, exact=True)
    uniform = replace(exact, uniform=True) if aim.measure and aim.scope in (None, "local") else None
    first: VerificationError | None = None
    best: Pruned | None = None
    ways: list[tuple[Any, ...]] = [("auto",), ("whole",), ("within",), ("even",)]
    if uniform is not None:
        ways[2:2] = [("auto", uniform), ("whole", uniform)]
    for granularity, *other in ways:
        try:
            found = once(granularity, *(other or ([] if best is None else [exact])))
        except VerificationError as error:
            first = first or error.with_traceback(None)  # its frames hold networks
            continue
        except Exception:  # whatever another way meets (its memory, too), the first result is good
            if best is None and first is None:
                raise
            continue
        if best is None or (_cuts(found) and _gone(found) < _gone(best) and (
            found.after.params > _ENOUGH * best.after.params)):  # fmt: skip
            best = found
        # What a configuration cannot say of positions within blocks, it can say of whole ones, or not at all.
        last = granularity == "whole" and (uniform is None or bool(other))
        enough = not any(_gone(best)) or (last and "class" not in best.lost and not _hollow(best))
        if enough or LATENCY in best.plan.provenance:
            return best
    if best is None:
        assert first is not None
        raise first
    return best


def _cuts(pruned: Pruned) -> bool:
    """Whether anything was cut: a ratio by layer may say nothing of other groups, and then nothing is lost either."""
    return pruned.after != pruned.before


def _gone(pruned: Pruned) -> tuple[int, bool]:
    """What of a network is gone: of the whole, and whether most of it are graphs inside."""
    return len(pruned.lost), _hollow(pruned)


def _hollow(pruned: Pruned) -> bool:
    """Whether graphs in the place of submodules hold more than half of the parameters."""
    inside = {id(p): p.numel() for path in pruned.plan.islands for p in pruned.model.get_submodule(path).parameters()}
    return 2 * sum(inside.values()) > sum(p.numel() for p in pruned.model.parameters())


_ENOUGH = 0.75
"""Share of the parameters of the first cut that another one leaves at least: what is tied together goes together."""


def _again(data: Data | None) -> bool:
    """Whether data can be gone through a second time."""
    return not isinstance(data, Iterator)


@arguments.checked
@over_processes
def apply(
    model: nn.Module | Pruned, plan: Plan, example_inputs: ExampleInputs | None = None, *, backend: str = "auto",
    verify: bool = True,
    also: Also | None = None,
) -> Pruned:  # fmt: skip
    """Cuts ``model`` by a plan made elsewhere, and verifies the result as :func:`prune` does.

    Args:
        model: The network (or the result of a cut) that the plan was made for; left untouched.
        plan: Which units stay.
        example_inputs: A tensor, a tuple, or a dict of keyword inputs.
        backend: As for :func:`prune`.
        verify: Whether to compare with the masked dense network; leave it on.
        also: Further methods that the plan was made with, as for :func:`prune`.

    Raises:
        PlanError: The plan does not fit, or cuts only part of what must go together.
    """
    network, first, example_inputs = opened(model, example_inputs)
    if backend not in BACKENDS:
        raise UnknownNameError("back end", backend, BACKENDS)
    model = plain_network(network)
    if plan.parts:
        return replace(_apply_parts(model, plan, example_inputs, backend, verify, also), dense=first)
    if plan.alone:
        check_alone(model, plan)
        return cut_parts(model, example_inputs, plan.alone, lambda path, inside, given: apply(
            inside, plan_inside(plan, path), given, backend="graph" if path in plan.islands else backend,
            verify=verify), apply, check=verify, first=first)  # fmt: skip
    if plan.removed:
        how = "module" if plan.shortened else backend  # no graph has shorter lists
        return replace(replay(model, plan, example_inputs, how, verify), dense=first)
    check_network(model, example_inputs)
    with experts_in_lists(bool(plan.shortened)):
        found, notes = labelled(model, example_inputs, also)
        analysis, keep = fitting(found, plan)
        analysis = replace(analysis, notes=notes)
        pruned = _cut(model, example_inputs, analysis, keep, first, backend=backend, check=verify, also=also,
                      provenance=plan.provenance, plan=None if verify else plan)  # fmt: skip
    measured = plan.provenance.get(LATENCY)
    return pruned if measured is None else replace(pruned, notes=(in_words(measured), *pruned.notes))


def _apply_parts(
    model: nn.Module, plan: Plan, inputs: ExampleInputs, backend: str, verify: bool, also: Also | None
) -> Pruned:
    """Cuts step by step, as the plan was made; the counts before are those of the first network."""
    current, before = model, None
    for part in plan.parts:
        pruned = apply(current, part, inputs, backend=backend, verify=verify, also=also)
        current, before = pruned.model, before or pruned.before
    assert before is not None
    return replace(pruned, before=before)


def _cut(
    model: nn.Module, inputs: ExampleInputs, analysis: Analysis, keep: Mask, first: nn.Module | None = None, *,
    backend: str, check: bool, also: Also | None, provenance: Any, plan: Plan | None = None,
) -> Pruned:  # fmt: skip
    def once(analysis: Analysis, keep: Mask) -> Pruned:
        return _cut_once(model, inputs, analysis, keep, first, backend=backend, check=check, provenance=provenance,
                         known=plan)  # fmt: skip

    def again() -> Pruned:
        groups = analysis.groups
        found, notes = labelled(model, inputs, also)
        anew, kept = fitting(found, plan_of(groups, groups.label_keep(keep), {}))
        return once(replace(anew, notes=notes), kept)

    return sure(lambda: once(analysis, keep), again, flow=analysis.groups.flow)


def _cut_once(
    model: nn.Module, inputs: ExampleInputs, analysis: Analysis, keep: Mask, first: nn.Module | None = None, *,
    backend: str, check: bool, provenance: Any, known: Plan | None = None,
) -> Pruned:  # fmt: skip
    groups = analysis.groups
    label_keep = groups.label_keep(keep)
    before, after = (analysis.costs.counts(k) for k in (np.ones_like(keep), keep))
    with no_gc():
        plan = plan_of(groups, label_keep, {**provenance, **before_cut(analysis.costs)})
    dense: dict[str, Remembered] = {}
    sizes: dict[str, Sizes] = {}
    plain = Rung("module", lambda: Built(prune_module(model, plan.keep, indices=new_indices(groups, label_keep))))
    solved = Rung("module", lambda: living(model, groups, label_keep, plan.keep, sizes))
    if known is not None:  # nothing is compared with the network, so what the plan knows is taken
        ways = [Rung("module", lambda: replayed(model, known, groups, label_keep))]
    elif check:
        ways = [
            plain,
            solved,
            Rung("module", lambda: living(model, groups, label_keep, plan.keep, sizes, islands=True)),
        ]
    else:
        ways = [solved, plain]
    if known is None:
        ways = [*configuring(model, groups, label_keep, plan.keep, sizes), *ways]
        ways = [replace(way, build=partial(_built, model, way, inputs)) for way in ways]
    gone = leaving_lists(model, groups, label_keep)
    flat = Rung("graph", lambda: as_graph(model, groups, label_keep, plan, check=check))
    operation = Operation(
        plan,
        rungs=shorter_lists(model, ways, gone, groups) if gone else (*ways, flat),
        verify=lambda built, network: verified(
            built.model,
            groups,
            label_keep,
            plan.keep,
            scaled=built.scaled,
            dense=network,
            known=dense,
            free=lambda: freed(model, groups, label_keep, thorough=False),
            elsewhere=bool(built.numbers or built.scaled or built.islands),
        ),
        sizes=lambda built: check_sizes(built.model, groups, label_keep, scaled=bool(built.scaled)),
    )
    with no_gc(), working("Cutting and verifying" if check else "Cutting"):
        done = carry_out(model, operation, backend=backend, check=check)
    cuts = tuple(Cut(g, int(keep[g.units].sum())) for g in groups.items)
    notes = (*done.notes, *_lost(done.built.model, groups), *_by_itself(model, done.backend), *analysis.notes,
             *proof_notes(done.verification))  # fmt: skip
    after = counts_without(done.built.model, after, gone) if gone else after
    return Pruned(done.built.model, done.backend, done.verification, before, after, cuts, analysis.unsupported,
                  notes, inputs, first, done.lost, model)  # fmt: skip


def _built(model: nn.Module, way: Rung, inputs: ExampleInputs) -> Built:
    return with_unread_sizes(model, with_alternatives(model, way.build(), inputs), inputs)


def _by_itself(model: nn.Module, backend: str) -> tuple[str, ...]:
    """What has to be said of a library's own save and load whose configuration is not one that can be made true."""
    if backend != "module" or not hasattr(model, "save_pretrained") or has_configuration(model):
        return ()
    return ("the library's own save_pretrained knows nothing of the cut, so what from_pretrained makes of its files is "
            "another network: use small.save(folder) and secateur.load(folder, model)",)  # fmt: skip


def _lost(small: nn.Module, groups: Groups) -> tuple[str, ...]:
    """What a graph does not hold of the network."""
    if not isinstance(small, PrunedGraph):
        return ()
    held = has_train_mode(small)
    lost = ", ".join(v.name for v in groups.flow.views[1:] if not (held and v.training and v.method == "forward"))
    only = (f"the graph holds forward as it is in eval mode alone, not {lost}",) if lost else ()
    return (*only, *groups.flow.traced.in_graph)
