"""The command that searches ratios and criteria: argument parsing only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secateur.cli import completion
from secateur.cli.groups import OpenOptions, grouped
from secateur.cli.lazy import Lazy
from secateur.cli.options import Source, TaskName, examples

if TYPE_CHECKING:
    from secateur.cli.commands import searching
else:
    searching = Lazy("secateur.cli.commands.searching")

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Adds the command to the application."""
    app.command(
        epilog=examples(
            "search resnet20 --weights r20.safetensors --data cifar10:cifar.tar --out runs/searched",
            "search runs/first --cost params --ratios 0,0.6 --criterion taylor --repair --out runs/searched",
        )
    )(search)


@dataclass(frozen=True)
class SearchOptions:
    """What is searched, and on what."""

    data: Annotated[
        str | None,
        typer.Option(help="Data set, if MODEL is not a run.", metavar="DATA", autocompletion=completion.datasets),
    ] = None
    task: TaskName = None
    trials: Annotated[int, typer.Option(help="Trials in all, those of earlier starts among them.")] = 60
    cost: Annotated[str, typer.Option(help="macs, params or energy.")] = "macs"
    ratios: Annotated[
        str, typer.Option(help="Smallest and largest share of a group's units that goes.", metavar="LEAST,MOST")
    ] = "0,0.8"
    criterion: Annotated[
        list[str] | None,
        typer.Option(help="What may decide, see `secateur criteria`; repeatable.", show_default="l2",
                     autocompletion=completion.criteria),
    ] = None  # fmt: skip
    repair: Annotated[bool, typer.Option("--repair", help="Repair every cut (`recover`) before it is measured.")] = (
        False
    )
    images: Annotated[int, typer.Option(help="How many samples; none of the test split.")] = 512
    storage: Annotated[
        str | None, typer.Option(help="Database of the study.", metavar="URL", show_default="study.db in --out")
    ] = None
    seed: Annotated[int, typer.Option(help="Seed of what is proposed.")] = 0


@grouped
def search(
    model: Source,
    opening: OpenOptions,
    how: SearchOptions,
    out: Annotated[
        Path, typer.Option(help="Folder for everything; one with a study is gone on with.", metavar="FOLDER")
    ],
) -> None:
    """Searches ratios by group, and criteria, for the networks that lose least for what they cost, without training."""
    searching.search(lambda: opening.open(model), how, out)
