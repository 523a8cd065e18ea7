"""The command that removes experts of mixtures: argument parsing only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secateur.cli.groups import OpenOptions, grouped
from secateur.cli.lazy import Lazy
from secateur.cli.options import Source, TaskName, examples

if TYPE_CHECKING:
    from secateur.cli.commands import experts as removing
else:
    removing = Lazy("secateur.cli.commands.experts")

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Adds the command to the application."""
    app.command(
        epilog=examples(
            "experts hf:models/mixtral --data text:corpus.txt",
            "experts hf:models/mixtral --data text:corpus.txt --keep 4 --out fewer",
        )
    )(experts)


@grouped
def experts(
    model: Source,
    opening: OpenOptions,
    out: Annotated[Path | None, typer.Option(help="Remove, into this new folder.", metavar="FOLDER")] = None,
    keep: Annotated[int | None, typer.Option(help="How many experts of every mixture stay.", min=1)] = None,
    count: Annotated[int | None, typer.Option(help="How many go, of every mixture.", min=1)] = None,
    ratio: Annotated[float | None, typer.Option(help="Share that goes, of every mixture.")] = None,
    ignore: Annotated[list[str] | None, typer.Option(help="Mixtures that stay; repeatable.", metavar="PATTERN")] = None,
    criterion: Annotated[
        str, typer.Option(help="auto, routing or output_change (with --data), or a criterion of channels.")
    ] = "auto",
    data: Annotated[str | None, typer.Option(help="Data set that routers are watched on.", metavar="DATA")] = None,
    images: Annotated[int, typer.Option(help="How many of its training samples.")] = 512,
    task: TaskName = None,
) -> None:
    """Lists the experts of a network's mixtures, or removes whole ones with their rows of the router."""
    amount = {"keep": keep, "count": count, "ratio": ratio}
    removing.experts(opening.open(model), out, criterion=criterion, amount=amount, ignore=ignore or (), data=data,
                     images=images, task=task)  # fmt: skip
