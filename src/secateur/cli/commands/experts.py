"""`secateur experts`: experts of mixtures listed, and removed whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from secateur.cli.commands.networks import Opened
from secateur.cli.commands.pruning import calibration, keep, refuse_taken
from secateur.cli.commands.show import console, integer, say, table
from secateur.core.errors import InputError
from secateur.core.progress import working
from secateur.cut.experts import Experts, experts_of, remove_experts

__all__ = ["experts"]


def experts(
    opened: Opened, out: Path | None, *, criterion: str, amount: dict[str, float | None], ignore: Sequence[str],
    data: str | None, images: int, task: str | None,
) -> None:  # fmt: skip
    """Lists mixtures with the scores of their experts, or removes some and saves the artifact.

    Args:
        opened: The network.
        out: New folder for the artifact; ``None`` to list only.
        criterion: What ranks the experts.
        amount: ``keep``, ``count`` and ``ratio``, of which one is given.
        ignore: Mixtures that stay.
        data: A data set that routers are watched on.
        images: How many of its training samples.
        task: Its kind of task.

    Raises:
        InputError: A folder without an amount, or an amount without a folder.
    """
    given = [f"--{name}" for name, value in amount.items() if value is not None]
    if out is None and given:
        raise InputError(f"{given[0]} removes experts: say with --out where the result goes.")
    if out is not None and len(given) != 1:
        raise InputError(f"Give one of --keep, --count and --ratio; got {' and '.join(given) or 'none'}.")
    if out is not None:
        refuse_taken(out)
    batches, _ = calibration(opened, data, images, task)
    several = None if batches is None else list(batches)  # gone through twice: routers, and the loss before and after
    if out is None:
        _show(opened.name, experts_of(opened.model, opened.called_with, criterion=criterion, data=several))
        return
    with working("Removing and verifying", after_s=0):
        pruned = remove_experts(
            opened.model, opened.called_with, criterion=criterion, data=several, ignore=ignore, **amount  # type: ignore[arg-type]
        )  # fmt: skip
    keep(opened, pruned, out)


def _show(name: str, found: tuple[Experts, ...]) -> None:
    rows = [[one.name, integer(one.count), integer(one.chosen), _scores(one)] for one in found]
    show = console()
    heads = [f"Mixtures of {name}", "Experts", "Chosen", "Scores, expert by expert"]
    show.print(table(heads, rows, words=(0, 3), fold=(3,)))
    show.print()
    say("Of every mixture as many go, lowest score first; as many as are chosen for a token have to stay.")


def _scores(one: Experts) -> str:
    return " ".join(f"{score:.3g}" for score in one.scores)
