"""`secateur search`: a line for every trial, the networks that nothing beats at the end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from secateur.cli.commands.networks import Opened, labelled, tell_random
from secateur.cli.commands.show import console, say, table
from secateur.core.errors import InputError
from secateur.searching import Tried
from secateur.searching import search as run

if TYPE_CHECKING:
    from secateur.cli.searching import SearchOptions

__all__ = ["search"]


def search(opening: Callable[[], Opened], how: SearchOptions, out: Path) -> None:
    """Searches, and shows the front.

    Raises:
        InputError: No data, or bounds that are no numbers.
        SecateurError: What the search raises.
    """
    bounds = _bounds(how.ratios)
    opened = opening()
    task = labelled([opened], how.data, opened.inputs, task=how.task)
    if task is None:
        raise InputError("A search looks at data: give --data, for instance --data cifar10:cifar-10.tar.gz.")

    def tell(tried: Tried) -> None:
        say(f"trial {tried.number}: {task.leading.words(tried.value)}, {how.cost} {tried.cost:,.6g}")

    found = run(opened.model, task, out, trials=how.trials, cost=how.cost, ratios=bounds,
                criteria=how.criterion or ["l2"], repair=how.repair, images=how.images, storage=how.storage,
                seed=how.seed, on_trial=tell)  # fmt: skip
    tell_random([opened])
    shown = found.table()
    console().print(table(list(shown.columns), [list(row) for row in shown.rows], words=shown.words))
    say(f"{shown.headline}.")
    say(f"{found.folder}: search.html, search.csv, search.json, front")


def _bounds(text: str) -> tuple[float, ...]:
    """Reads ``--ratios``.

    >>> _bounds("0, 80%")
    (0.0, 0.8)
    """
    try:
        parts = [part.strip() for part in text.split(",")]
        return tuple(float(part.rstrip("%")) / (100 if part.endswith("%") else 1) for part in parts)
    except ValueError:
        raise InputError(f"--ratios are two shares with a comma between them, like 0,0.8; got {text!r}.") from None
