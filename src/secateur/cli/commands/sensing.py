"""`secateur sensitivity`: what every group's loss of units does, as table, file and page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from secateur.budget.sensitivity import Sensitivity
from secateur.cli.commands.networks import Opened, labelled, tell_random
from secateur.cli.commands.pruning import parse_amount
from secateur.cli.commands.show import check_file, console, say, table
from secateur.core.errors import InputError
from secateur.core.files import disk_errors
from secateur.core.progress import working
from secateur.recovery.sensitivity import LeadingMetric
from secateur.recovery.sensitivity import sensitivity as measure
from secateur.report.sensitivity import write_sensitivity

__all__ = ["Request", "parse_shares", "parse_target", "sensitivity"]


_NAME = 26
"""Characters of a group's name, at least, before it goes on in the next line."""


@dataclass(frozen=True)
class Request:
    """What is measured, and how.

    Attributes:
        data: A data set as the task takes it; ``None`` for that of a run.
        task: The kind of task; classification by default.
        images: How many of its samples.
        error: Whether the error of the output is measured, not the metric.
        shares: Shares of a group's units that go.
        criterion: What decides which go first.
        repair: Whether every cut is made and repaired.
        only: Modules that alone are looked at.
        ignore: Modules that are not.
    """

    data: str | None
    task: str | None
    images: int
    error: bool
    shares: tuple[float, ...]
    criterion: str
    repair: bool
    only: Sequence[str] | None
    ignore: Sequence[str]


def parse_shares(text: str) -> tuple[float, ...]:
    """Reads ``--ratios``.

    >>> parse_shares("0.25, 50%")
    (0.25, 0.5)
    """
    try:
        found = [
            float(part.rstrip("%")) / (100 if part.endswith("%") else 1) for part in text.replace(" ", "").split(",")
        ]
    except ValueError:
        found = []
    if not found or not all(0 < share < 1 for share in found):
        raise InputError(f"--ratios are shares of a group's units, each between 0 and 1, like 0.25,0.5; got {text!r}.")
    return tuple(found)


def parse_target(**amounts: str | None) -> dict[str, float]:
    """Reads the option that says what is kept; empty where there is none.

    >>> parse_target(macs="50%", params=None)
    {'macs': 0.5}
    """
    read = {name: parse_amount(f"--{name}", text) for name, text in amounts.items()}
    found = {name: value for name, value in read.items() if value is not None}
    if len(found) > 1:
        raise InputError(f"Ratios are for one target; got {' and '.join(f'--{name}' for name in found)}.")
    return found


def sensitivity(
    opening: Callable[[], Opened], wanted: Request, target: Mapping[str, float], *, out: Path | None, page: Path | None
) -> None:
    """Measures, shows, and writes what was asked for.

    Args:
        opening: Opens the network; called once the names of the files are found to be good.
        wanted: What is measured.
        target: What ratios are worked out for; empty for curves alone.
        out: File for curves and ratios.
        page: File for a page with the curves.

    Raises:
        InputError: No data, or a file that cannot be written.
        SecateurError: What measuring raises.
    """
    check_file("--out", out, ".json")
    check_file("--page", page, ".html")
    opened = opening()
    with working("Measuring group by group", after_s=0):
        found = _measured(opened, wanted)
    found = found.aimed(**target) if target else found
    _show(found, out)
    tell_random([opened])
    for path in filter(None, (out, page)):
        with disk_errors(path.parent):
            found.save(path) if path is out else write_sensitivity(found, path, opened.name)
        say(f"Saved: {path}")


def _measured(opened: Opened, wanted: Request) -> Sensitivity:
    if wanted.images < 1:
        raise InputError(f"--images is at least 1; got {wanted.images}.")
    task = labelled([opened], wanted.data, opened.inputs, task=wanted.task)
    if task is None:
        raise InputError("Sensitivity looks at data: give --data, for instance --data cifar10:cifar-10.tar.gz.")
    return measure(
        opened.model, task.sample(2), data=list(task.calibration(wanted.images)), ratios=wanted.shares,
        score=None if wanted.error else LeadingMetric(task, wanted.images), criterion=wanted.criterion,
        repair=wanted.repair, only=wanted.only, ignore=wanted.ignore,
    )  # fmt: skip


def fitting(lines: Sequence[Sequence[str]], width: int) -> list[int]:
    """The columns that fit on a terminal: where it is narrow, the smallest shares are left out.

    >>> fitting([["Group", "Units", "−25%", "−50%", "Ratio"], ["conv1", "16", "0.0303", "0.0531", "40%"]], 32)
    [0, 1, 3, 4]
    """
    widths = [max(map(len, cells)) + 2 for cells in zip(*lines, strict=True)]
    widths[0] = min(widths[0], _NAME)
    left = list(range(len(widths)))
    while sum(widths[k] for k in left) - 2 > width and len(left) > 4:
        left.pop(2)
    return left


def _show(found: Sensitivity, out: Path | None) -> None:
    show = console()
    columns, rows = found.rows()
    left = fitting([columns, *rows], show.width)
    show.print(table([columns[k] for k in left], [[row[k] for k in left] for row in rows], fold=(0,)))
    show.print()
    say(f"{found.headline}.")
    if found.chosen:
        how = "" if found.criterion == "l2" else f"--criterion {found.criterion} "
        use = f" Use it: secateur prune … {how}--ratio {out}" if out is not None else ""
        say(f"Ratio: the share to remove of each group for {found.aim}, at one level of loss for all.{use}")
    for note in found.notes:
        say(f"Note: {note}")
