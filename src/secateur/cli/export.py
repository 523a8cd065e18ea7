"""`secateur export` and `secateur runtimes`: argument parsing only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secateur.cli.groups import FileOptions, OpenOptions, grouped
from secateur.cli.lazy import Lazy
from secateur.cli.options import Data, Pattern, Source, TaskName, Use, examples

if TYPE_CHECKING:
    from secateur.cli.commands import exporting, listing
else:
    exporting, listing = Lazy("secateur.cli.commands.exporting"), Lazy("secateur.cli.commands.listing")

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Adds the commands to the application."""
    app.command(
        epilog=examples(
            "export runs/first pruned.onnx",
            "export runs/first small.xml --to openvino --int8",
            "export runs/first net.tflite --integer --c-array",
            "export runs/first folder --bundle --to openvino",
            "export resnet56 r56.tflite --weights r56.safetensors --int8 --calibration cifar10:PATH",
        )
    )(export)
    app.command(epilog=examples("runtimes"))(runtimes)


@grouped
def export(
    model: Source,
    path: Annotated[Path, typer.Argument(metavar="PATH", help="File to write; with --bundle a new folder.")],
    opening: OpenOptions,
    how: FileOptions,
    data: Data = None,
    task: TaskName = None,
    images: Annotated[int | None, typer.Option(min=0, help="Test samples for the metrics; by default all.")] = None,
    dynamic: Annotated[
        str, typer.Option(help="What an ONNX file takes others of, where the network does: sizes, or batch alone.")
    ] = "sizes",
) -> None:
    """Writes a network for another runtime, checked against PyTorch and scored where there are test samples."""
    wanted = exporting.ExportRequest(
        how.to, how.int8 or how.integer, how.calibration, data, images, task, dynamic, how.integer, how.c_array
    )
    act = exporting.bundle if how.bundle else exporting.export
    act(opening.open(model), path, wanted)


def runtimes(text: Pattern = None, use: Use = None) -> None:
    """Lists the runtimes: which are installed, and how to install the others."""
    listing.runtimes(text)
