"""`secateur layers`: residual branches listed, and removed whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from secateur.cli.commands.networks import Opened
from secateur.cli.commands.pruning import calibration, keep, refuse_taken
from secateur.cli.commands.show import console, integer, say, table
from secateur.core.errors import InputError
from secateur.core.progress import working
from secateur.cut.layers import ResidualBranch, removable, remove_layers
from secateur.cut.layers_by_output import SAMPLES

__all__ = ["layers"]


def layers(
    opened: Opened, out: Path | None, *, criterion: str, amount: dict[str, Any], data: str | None = None,
    task: str | None = None, **options: Any,
) -> None:  # fmt: skip
    """Lists the residual branches, or removes some and saves the artifact.

    Args:
        opened: The network.
        out: New folder for the artifact; ``None`` to list only.
        criterion: What ranks the branches.
        amount: ``count``, ``ratio`` and ``names``, of which one is given.
        data: A data set, for the change of the output.
        task: Its kind of task.
        options: Further ones of `secateur.remove_layers`.

    Raises:
        InputError: A folder without an amount, or an amount without a folder.
    """
    given = [f"--{name}" for name, value in amount.items() if value is not None]
    if out is None and given:
        raise InputError(f"{given[0]} removes branches: say with --out where the result goes.")
    if out is None:
        _show(opened.name, removable(opened.model, opened.called_with, criterion=criterion,
                                     whole=options["whole"]))  # fmt: skip
        return
    if len(given) != 1:
        raise InputError(f"Give one of --count, --ratio and --names; got {' and '.join(given) or 'none'}.")
    refuse_taken(out)
    batches, _ = calibration(opened, data, SAMPLES, task)
    with working("Removing and verifying", after_s=0):
        pruned = remove_layers(opened.model, opened.called_with, criterion=criterion, data=batches, **amount, **options)
    part = pruned.plan.parts[-1] if pruned.plan.parts else pruned.plan
    say(f"Removed: {', '.join(part.removed)}")
    keep(opened, pruned, out)


def _show(name: str, found: tuple[ResidualBranch, ...]) -> None:
    rows = [[b.name, _score(b), integer(b.params), integer(b.macs), b.reason or "yes"] for b in found]
    show = console()
    show.print(
        table([f"Branches of {name}", "Score", "Parameters", "MACs", "Removable"], rows, words=(0, 4), fold=(4,))
    )
    show.print()
    free = sum(not b.reason for b in found)
    say(f"{free} of {len(found)} residual branches can be removed; the lowest score goes first.")


def _score(branch: ResidualBranch) -> str:
    return "–" if branch.score is None else f"{branch.score:.4g}"
