"""What can be known of a network before it is cut: its parts in order of flow, and what any budget would leave."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from secateur.budget.latency import setting_of
from secateur.budget.latency.estimate import LatencyEstimate, estimated
from secateur.budget.latency.store import Setting
from secateur.budget.planned import PlannedCut, planned_cuts
from secateur.budget.sensitivity import Sensitivity
from secateur.budget.step import step_of
from secateur.core import arguments
from secateur.core.errors import UnknownNameError
from secateur.core.tables import Shown, Table
from secateur.core.types import ExampleInputs, Target
from secateur.criteria import GroupView
from secateur.criteria.scoring import Scores, chosen, score
from secateur.cut.analysis import Analysis, analyse, nothing_free
from secateur.cut.pruned import Pruned, opened
from secateur.cut.selection import Selection
from secateur.graph.copies import plain_network
from secateur.report.parts import NetworkPart, parts_of

__all__ = ["SCOPES", "Inspection", "inspect"]

SCOPES = ("local", "global")
"""Scopes that plans are made with: the same share of every group, and the lowest scores anywhere."""


@dataclass(frozen=True, repr=False)
class Inspection(Shown):
    """A network before any cut.

    Attributes:
        name: What the network is called.
        shape: Shape of one sample, where the network takes one tensor.
        analysis: Its groups, exact costs, and what is pinned.
        parts: Its layers and where they meet, in the order of execution.
        plans: What the planner chose at about twenty budgets, by scope; from the dense network to the smallest.
        criterion: What decided which units go first.
        round_to: Widths that are left are multiples of this.
        latency: Estimated times in a runtime; ``None`` where none was measured.
        sensitivity: Curves of the groups, where they were measured.
        notes: What the user should know.
    """

    name: str
    shape: tuple[int, ...]
    analysis: Analysis
    parts: tuple[NetworkPart, ...]
    plans: Mapping[str, tuple[PlannedCut, ...]]
    criterion: str
    round_to: int = 1
    latency: LatencyEstimate | None = None
    sensitivity: Sensitivity | None = None
    notes: tuple[str, ...] = ()

    @property
    def dense(self) -> PlannedCut:
        """The network as it is."""
        return next(iter(self.plans.values()))[0]

    def with_note(self, note: str) -> Inspection:
        """The same, with one note more."""
        return replace(self, notes=(*self.notes, note))

    def table(self) -> Table:
        """What the budgets leave."""
        timed = self.latency is not None
        rows = [
            (scope, f"{cut.macs / max(1, self.dense.macs):.0%}", f"{cut.macs:,}", f"{cut.params:,}", f"{cut.size:,}",
             *([f"{self.latency.ms(cut.keep):.3g} ms"] if self.latency is not None else []))
            for scope, cuts in self.plans.items() for cut in cuts
        ]  # fmt: skip
        columns = ("Scope", "MACs kept", "MACs", "Parameters", "Bytes", *(["Latency (estimated)"] if timed else []))
        headline = f"{self.name}: what budgets would leave; accuracy is not known before a cut is tried"
        return Table(headline, columns, rows, notes=[f"note: {note}" for note in self.notes])

    def save_html(self, path: str | PathLike[str], *, command: Sequence[str] = ()) -> Path:
        """Writes the page: self-contained, loads nothing, and works without scripts.

        Args:
            path: The HTML file; its folder must exist.
            command: Words of the command that opens this network for a cut (``secateur prune NET --weights …``), to
                which the page adds the budget; without it the page shows no command.

        Raises:
            InputError: Jinja2 is missing.
            OSError: The file cannot be written.
        """
        from secateur.report.inspection_page import write_inspection

        return write_inspection(self, path, command)


@arguments.checked
def inspect(
    model: nn.Module | Pruned,
    example_inputs: ExampleInputs | None = None,
    *,
    name: str = "",
    criterion: str | Callable[[GroupView], Tensor] = "l2",
    scopes: Sequence[str] = SCOPES,
    round_to: int | str | None = None,
    only: Selection | None = None,
    ignore: Selection = (),
    runtime: str | None = None,
    batch: int = 1,
    threads: int = 1,
    sensitivity: Sensitivity | None = None,
) -> Inspection:
    """Looks at a network before it is cut, and plans cuts at about twenty budgets of MACs; nothing is cut.

    Args:
        model: The network; it is not touched.
        example_inputs: What it is called with.
        name: What it is called; by default its class.
        criterion: What decides which units go first, as for :func:`secateur.prune`; one that needs no data.
        scopes: ``local``, ``global`` or both. Plans across layers (``global``) go by what weights are worth: of a
            network that was not trained they mean nothing.
        round_to: Widths that are left are multiples of this; ``auto``: of PyTorch's own step.
        only: The only modules whose output channels may go: names, patterns, or the modules themselves.
        ignore: Modules whose output channels are kept, the same.
        runtime: Where latencies are estimated: the dense network and its layers are timed there. Without it, none are.
        batch: Samples of a call that latencies are of.
        threads: Threads inside an operator that latencies are of.
        sensitivity: Curves of this network (:func:`secateur.sensitivity`), for the page.

    Returns:
        What was found; ``.save_html(path)`` writes it as one offline page with a slider.

    Raises:
        TraceError: The network cannot be traced.
        InputError: An argument that cannot be used: a criterion that needs data, curves of another network.
        UnknownNameError: A scope, criterion, runtime or module that is not there.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> found = inspect(net, torch.zeros(1, 4), scopes=["local"])
    >>> [(cut.widths, cut.macs) for cut in found.plans["local"]][:3]
    [((8,), 48), ((7,), 42), ((6,), 36)]
    """
    network, _, inputs = opened(model, example_inputs)
    wrong = next((scope for scope in scopes if scope not in SCOPES), None)
    if wrong is not None or not scopes:
        raise UnknownNameError("scope", str(wrong or ""), SCOPES, argument="scopes")
    where = _where(runtime, batch, threads)
    analysis = analyse(network, inputs, only=only, ignore=ignore)
    if sensitivity is not None:
        sensitivity.on(network, inputs)  # refuses curves of another network
    scores = score(analysis.groups, criterion)
    step = step_of(round_to, None)
    wanted, notes = _worth_planning(analysis, scores, scopes)
    plans = {s: planned_cuts(analysis.costs, scores, scope=s, round_to=step) for s in wanted}
    found = Inspection(
        name or type(network).__name__, _shape(inputs), analysis, parts_of(analysis), plans, chosen(criterion).name,
        step, sensitivity=sensitivity, notes=(*analysis.notes, *scores.notes, *notes),
    )  # fmt: skip
    return found if where is None else _timed(found, where, (plain_network(network), inputs))


def _where(runtime: str | None, batch: int, threads: int) -> Setting | None:
    """Where latencies are estimated, checked before anything takes time."""
    if runtime is None:
        return None
    return setting_of(Target(latency=1.0, runtime=runtime, batch=batch, threads=threads))


def _timed(found: Inspection, where: Setting, dense: tuple[nn.Module, ExampleInputs]) -> Inspection:
    narrowest = np.logical_and.reduce([cut.keep for cuts in found.plans.values() for cut in cuts])
    latency = estimated(found.analysis.costs, where, dense, narrowest)
    return replace(found, latency=latency, notes=(*found.notes, *latency.notes))


def _worth_planning(
    analysis: Analysis, scores: Scores, scopes: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The scopes for which plans mean something, and why others are left out."""
    if not scores.values:
        return tuple(scopes)[:1], (nothing_free(analysis),)
    if "global" in scopes and all(np.ptp(values) == 0 for values in scores.values.values()):
        return ("local",), ("no plan across layers: the scores of all units of a group are equal",)
    return tuple(dict.fromkeys(scopes)), ()


def _shape(inputs: ExampleInputs) -> tuple[int, ...]:
    return tuple(inputs.shape[1:]) if isinstance(inputs, Tensor) else ()
