"""The command that measures what every group's loss of units does: argument parsing only."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secateur.cli import completion
from secateur.cli.groups import OpenOptions, grouped
from secateur.cli.lazy import Lazy
from secateur.cli.options import Energy, Ignore, Macs, Only, Params, Size, Source, TaskName, examples

if TYPE_CHECKING:
    from secateur.cli.commands import sensing
else:
    sensing = Lazy("secateur.cli.commands.sensing")

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Adds the command to the application."""
    app.command(
        epilog=examples(
            "sensitivity resnet20 --weights r20.safetensors --data cifar10:cifar.tar",
            "sensitivity resnet20 --weights r20.safetensors --data cifar10:cifar.tar --macs 50% --out sensitivity.json",
            "prune resnet20 --weights r20.safetensors --ratio sensitivity.json --out small",
            "sensitivity runs/first --error --repair --page sensitivity.html",
        )
    )(sensitivity)


@dataclass(frozen=True)
class LookOptions:
    """What is measured, and on what."""

    data: Annotated[
        str | None,
        typer.Option(help="Data set, if MODEL is not a run.", metavar="DATA", autocompletion=completion.datasets),
    ] = None
    task: TaskName = None
    images: Annotated[int, typer.Option(help="How many of its samples; none of the test split.")] = 512
    error: Annotated[
        bool, typer.Option("--error", help="The error of the network's output, without labels, not the metric.")
    ] = False
    ratios: Annotated[
        str, typer.Option(help="Shares of a group's units that go, one after the other.", metavar="SHARES")
    ] = "0.1,0.25,0.5,0.75,0.9"
    criterion: Annotated[
        str, typer.Option(help="What decides, see `secateur criteria`.", autocompletion=completion.criteria)
    ] = "l2"
    repair: Annotated[bool, typer.Option("--repair", help="Really cut and repair (`recover`) each time.")] = False
    only: Only = None
    ignore: Ignore = None

    def request(self) -> sensing.Request:
        """The same, read and checked."""
        return sensing.Request(self.data, self.task, self.images, self.error, sensing.parse_shares(self.ratios),
                               self.criterion, self.repair, self.only, self.ignore or ())  # fmt: skip


@dataclass(frozen=True)
class TargetOptions:
    """What ratios are worked out for."""

    macs: Macs = None
    params: Params = None
    energy: Energy = None
    size: Size = None


@grouped
def sensitivity(
    model: Source,
    opening: OpenOptions,
    look: LookOptions,
    target: TargetOptions,
    out: Annotated[
        Path | None, typer.Option(help="New file for curves and ratios, for recipes.", metavar="FILE.json")
    ] = None,
    page: Annotated[Path | None, typer.Option(help="New file for a page with the curves.", metavar="FILE.html")] = None,
) -> None:
    """Shows what the network loses where units of one group go, and ratios by layer for a target."""
    wanted, aim = look.request(), sensing.parse_target(**asdict(target))
    sensing.sensitivity(lambda: opening.open(model), wanted, aim, out=out, page=page)
