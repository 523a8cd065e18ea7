"""The command that cuts vocabularies: argument parsing only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secateur.cli.groups import OpenOptions, grouped
from secateur.cli.lazy import Lazy
from secateur.cli.options import Source, examples

if TYPE_CHECKING:
    from secateur.cli.commands import vocabulary as cutting
else:
    cutting = Lazy("secateur.cli.commands.vocabulary")

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Adds the command to the application."""
    app.command(epilog=examples("vocabulary hf:models/minilm --data text:corpus.txt --out fewer"))(vocabulary)


@grouped
def vocabulary(
    model: Source,
    data: Annotated[str, typer.Option(help="Plain text, whose tokens stay.", metavar="text:FILE")],
    out: Annotated[Path, typer.Option(help="New folder, for from_pretrained of transformers.", metavar="FOLDER")],
    opening: OpenOptions,
) -> None:
    """Removes the tokens that a text never uses, from a network of transformers and its tokenizer."""
    cutting.vocabulary(opening.open(model), data, out)
