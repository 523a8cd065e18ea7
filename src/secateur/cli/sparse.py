"""The commands that remove single weights and whole layers: argument parsing only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secateur.cli.groups import OpenOptions, grouped
from secateur.cli.lazy import Lazy
from secateur.cli.options import Ignore, Only, Source, TaskName, examples

if TYPE_CHECKING:
    from secateur.cli.commands import networks, pruning, sparsifying
else:
    networks = Lazy("secateur.cli.commands.networks")
    pruning, sparsifying = Lazy("secateur.cli.commands.pruning"), Lazy("secateur.cli.commands.sparsifying")

__all__ = ["WeightOptions", "register"]


@dataclass(frozen=True)
class WeightOptions:
    """What decides which weights go, and what it looks at."""

    criterion: Annotated[
        str, typer.Option(help="magnitude, lamp, snip, obd, change or random; see `secateur criteria`.")
    ] = "magnitude"
    data: Annotated[str | None, typer.Option(help="Data set for snip and obd.", metavar="DATA")] = None
    task: TaskName = None
    images: Annotated[int, typer.Option(help="How many of its training samples.")] = 256
    start: Annotated[
        str | None, typer.Option(help="Weights at the start of the training, for change.", metavar="FILE")
    ] = None

    def scores(self, opened: networks.Opened) -> Any:
        """The criterion, with what it needs of the network."""
        batches, loss = pruning.calibration(opened, self.data, self.images, self.task)
        return sparsifying.scores(opened, self.criterion, data=batches, loss=loss, start=self.start)


def register(app: typer.Typer) -> None:
    """Adds the commands to the application."""
    app.command(
        epilog=examples(
            "sparsify resnet56 --weights r56.safetensors --ratio 0.9 --scope global --out sparse",
            "sparsify lenet300 --ratio fc1=0.92 --ratio fc2=0.91 --out sparse --bits 5",
            "sparsify runs/first --pattern 2:4 --ignore conv1 --out sparse",
            "sparsify resnet56 --ratio 0.9 --scope global --criterion snip --data cifar10:cifar.tar --out sparse",
            "sparsify torchvision:vgg16 --ratio 0.9 --pattern 'block 16x1' --only classifier --out sparse --convert",
        )
    )(sparsify)


@grouped
def sparsify(
    model: Source,
    out: Annotated[Path, typer.Option(help="New folder for the artifact.", metavar="FOLDER")],
    opening: OpenOptions,
    choosing: WeightOptions,
    ratio: Annotated[
        list[str] | None, typer.Option(help="Share of weights to remove; or LAYER=SHARE, repeatable.", metavar="SHARE")
    ] = None,
    std: Annotated[
        list[str] | None, typer.Option(help="Threshold in standard deviations; or LAYER=NUMBER.", metavar="NUMBER")
    ] = None,
    pattern: Annotated[str, typer.Option(help="element, kernel, n:m (2:4), or 'block 16x1'.")] = "element",
    scope: Annotated[str, typer.Option(help="The share of every layer (local), or of all (global).")] = "local",
    only: Only = None,
    ignore: Ignore = None,
    bits: Annotated[
        int | None, typer.Option(min=1, max=8, help="Also share weights (2^bits values) in a compressed file.")
    ] = None,
    convert: Annotated[
        bool, typer.Option("--convert", help="Also time sparse products, and save a network with those that win.")
    ] = False,
) -> None:
    """Removes single weights without training: same shapes, real zeros."""
    amount = {"ratio": pruning.parse_ratio("--ratio", ratio), "std": pruning.parse_ratio("--std", std)}
    options: dict[str, Any] = {"pattern": pattern, "scope": scope}
    opened = opening.open(model)
    sparsifying.sparsify(
        opened,
        out,
        criterion=choosing.scores(opened),
        bits=bits,
        convert=convert,
        only=only,
        ignore=ignore or (),
        **amount,
        **options,
    )
