"""The command that cuts files by a plan: argument parsing only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secateur.cli.lazy import Lazy
from secateur.cli.options import Shape, examples

if TYPE_CHECKING:
    from secateur.cli.commands import shards as cutting
else:
    cutting = Lazy("secateur.cli.commands.shards")

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Adds the command to the application."""
    app.command(epilog=examples("apply half/cut.json --weights 'models/llama/model-*.safetensors' --out small"))(apply)


def apply(
    plan: Annotated[
        str,
        typer.Argument(metavar="PLAN", help="A plan as JSON (cut.json), or the folder of a cut or an artifact."),
    ],
    weights: Annotated[
        str, typer.Option(help="Safetensors files with config.json beside them: a pattern, an index or a folder.")
    ],
    out: Annotated[Path, typer.Option(help="New folder for the smaller files.", metavar="FOLDER")],
    input_shape: Shape = None,
) -> None:
    """Cuts the files of a network of transformers by a plan, tensor by tensor, in little memory."""
    cutting.apply(plan, weights, out, input_shape)
