"""`secateur inspect`: what can be cut together, as tables and as a page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from secateur.budget.sensitivity import Sensitivity
from secateur.cli.commands.networks import Opened
from secateur.cli.commands.pruning import parse_step, show_unsupported
from secateur.cli.commands.show import check_file, console, integer, say, table
from secateur.core.errors import InputError
from secateur.core.files import disk_errors
from secateur.core.progress import working
from secateur.cut.analysis import analyse
from secateur.models.random_weights import has_random_weights
from secateur.recipe.steps.pruning import pinned_layers
from secateur.report.inspection import SCOPES
from secateur.report.inspection import inspect as look

__all__ = ["PageRequest", "inspect", "page"]


@dataclass(frozen=True)
class PageRequest:
    """What the page shows.

    Attributes:
        path: The HTML file.
        sensitivity: A file of `secateur sensitivity`.
        criterion: What decides which units go first.
        round_to: Widths that are left are multiples of this, as text.
        runtime: Where latencies are estimated; ``None`` for none.
        batch: Samples of a call.
        threads: Threads inside an operator.
        command: Words of the command that opens the network for a cut.
    """

    path: Path
    sensitivity: Path | None
    criterion: str
    round_to: str | None
    runtime: str | None
    batch: int
    threads: int
    command: Sequence[str]


def page(opening: Callable[[], Opened], wanted: PageRequest, *, only: Sequence[str] | None,
         ignore: Sequence[str]) -> None:  # fmt: skip
    """Plans cuts at about twenty budgets and writes the page.

    Args:
        opening: Opens the network; called once the names of the files are found to be good.
        wanted: What the page shows.
        only: Modules that alone may be pruned.
        ignore: Modules that are left alone.

    Raises:
        InputError: A file that exists or cannot be written.
        SecateurError: What looking raises.
    """
    check_file("--html", wanted.path, ".html")
    curves = None if wanted.sensitivity is None else Sensitivity.read(wanted.sensitivity)
    opened = opening()
    random = has_random_weights(opened.model)
    words = f"Measuring the network and its layers in {wanted.runtime}" if wanted.runtime else "Planning cuts"
    with working(words, after_s=0):
        found = look(
            opened.model, opened.called_with, name=opened.name, criterion=wanted.criterion,
            scopes=SCOPES[:1] if random else SCOPES, round_to=parse_step(wanted.round_to), only=only, ignore=ignore,
            runtime=wanted.runtime, batch=wanted.batch, threads=wanted.threads, sensitivity=curves,
        )  # fmt: skip
    if random:
        found = found.with_note(
            "the weights are random, so there is no plan across layers, which goes by what weights are worth: give "
            "--weights"
        )
    with disk_errors(wanted.path.parent):
        found.save_html(wanted.path, command=wanted.command)
    smallest = found.plans["local"][-1]
    say(
        f"{opened.name}: {integer(found.dense.params)} parameters, {integer(found.dense.macs)} MACs per sample; the "
        f"smallest network that its widths allow has {integer(smallest.params)} and {integer(smallest.macs)}."
    )
    for note in found.notes:
        say(f"Note: {note}")
    say(f"Saved: {wanted.path}")


def refuse_page_options(given: Sequence[str]) -> None:
    """Raises :class:`InputError` where options of the page are given and no page is wanted."""
    if given:
        raise InputError(f"Give --html FILE.html with {' and '.join(given)}: what the page shows is said by that.")


def inspect(opened: Opened, *, only: Sequence[str] | None, ignore: Sequence[str]) -> None:
    """Shows layers, groups, and what is pinned and why."""
    analysis = analyse(opened.model, opened.called_with, only=only, ignore=ignore)
    show, groups = console(), analysis.groups
    counts = analysis.costs.counts(np.ones(groups.units, dtype=bool))
    of = {layer: group.name for group in groups.items for layer in group.producers}
    rows = [
        [
            layer.name or "(top level)",
            layer.kind,
            of.get(layer.name, "pinned"),
            integer(layer.out_channels),
            integer(layer.params),
            integer(layer.macs),
        ]
        for layer in counts.layers
    ]
    show.print(table(["Layer", "Operator", "Group", "Channels", "Parameters", "MACs"], rows, words=(0, 1, 2)))
    show.print()
    cut = [[g.name, integer(len(g)), integer(len(g.members)), ", ".join(g.producers[1:]) or "–"] for g in groups.items]
    say(f"{len(cut)} groups, {groups.units:,} units", style="bold")
    show.print(table(["Group", "Units", "Tensors", "Cut together with"], cut, fold=(3,)))
    show.print()
    shape = "×".join(map(str, opened.inputs.shape[1:]))
    say(
        f"{opened.name}, input {shape}: {integer(counts.params)} parameters, {integer(counts.macs)} "
        "MACs per sample (1 MAC = 2 FLOPs)."
    )
    for pinned in pinned_layers(counts, groups.items):
        say(f"Pinned (never cut): {pinned['layer']}: {pinned['reason']}.")
    show_unsupported(analysis.unsupported)
