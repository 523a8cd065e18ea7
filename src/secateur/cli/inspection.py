"""The command that looks at a network before it is cut: argument parsing only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secateur.cli import completion
from secateur.cli.groups import OpenOptions, grouped
from secateur.cli.lazy import Lazy
from secateur.cli.options import Ignore, Only, Source, examples

if TYPE_CHECKING:
    from secateur.cli.commands import exporting, inspecting
else:
    exporting = Lazy("secateur.cli.commands.exporting")
    inspecting = Lazy("secateur.cli.commands.inspecting")

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Adds the command to the application."""
    app.command(
        epilog=examples(
            "inspect resnet56",
            "inspect torchvision:mobilenet_v3_large --ignore features.0",
            "inspect pruned.tflite",
            "inspect resnet56 --weights r56.safetensors --html resnet56.html",
            "inspect resnet56 --weights r56.safetensors --html r56.html --runtime onnxruntime --sensitivity s.json",
        )
    )(inspect)


@dataclass(frozen=True)
class PageOptions:
    """What the page shows."""

    html: Annotated[
        Path | None, typer.Option(help="New file: one page to look at before a cut.", metavar="FILE.html")
    ] = None
    sensitivity: Annotated[
        Path | None, typer.Option(help="Curves for the page, a file of `secateur sensitivity`.", metavar="FILE.json")
    ] = None
    criterion: Annotated[
        str | None,
        typer.Option(help="What decides in the page's plans; l2 by default.", autocompletion=completion.criteria),
    ] = None
    round_to: Annotated[
        str | None, typer.Option(help="Widths in the page's plans become multiples of this.", metavar="STEP")
    ] = None
    runtime: Annotated[
        str | None,
        typer.Option(help="Where the page's latencies are estimated.", autocompletion=completion.runtimes),
    ] = None
    batch: Annotated[int | None, typer.Option(help="Samples per call that these are of; 1 by default.")] = None
    threads: Annotated[int | None, typer.Option(help="Threads that these are of; 1 by default.")] = None

    def request(self, command: Sequence[str]) -> inspecting.PageRequest | None:
        """The same, read and checked; ``None`` where no page is wanted."""
        if self.html is None:
            given = [f"--{f.name.replace('_', '-')}" for f in fields(self) if getattr(self, f.name) is not None]
            inspecting.refuse_page_options(given)
            return None
        return inspecting.PageRequest(self.html, self.sensitivity, self.criterion or "l2", self.round_to, self.runtime,
                                      1 if self.batch is None else self.batch,
                                      1 if self.threads is None else self.threads, command)  # fmt: skip


@grouped
def inspect(
    model: Source, opening: OpenOptions, page: PageOptions, only: Only = None, ignore: Ignore = None
) -> None:  # fmt: skip
    """Shows what can be cut together, and what is pinned and why, with --html as a page; of an export what it says."""
    wanted = page.request(_command(model, opening, only=only, ignore=ignore))
    if wanted is None and exporting.shows_file(model):
        return
    if wanted is None:
        inspecting.inspect(opening.open(model), only=only, ignore=ignore or ())
    else:
        inspecting.page(lambda: opening.open(model), wanted, only=only, ignore=ignore or ())


def _command(model: str, opening: OpenOptions, **names: list[str] | None) -> list[str]:
    """Words of the command that opens the same network for a cut."""
    given: dict[str, Any] = {
        "weights": opening.weights,
        "input-shape": opening.input_shape,
        "use": opening.use,
        **names,
    }
    words = ["secateur", "prune", model, *(["--trust"] if opening.trust else [])]
    for name, value in given.items():
        for one in value if isinstance(value, list) else [value]:
            words += [f"--{name}", one] if one is not None else []
    return words
