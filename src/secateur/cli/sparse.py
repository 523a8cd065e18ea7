"""The commands that remove single weights and whole layers: argument parsing only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from secateur.cli.options import Ignore, Only, Shape, Source, Trust, Use, Weights, examples

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Adds the commands to the application."""
    app.command(
        epilog=examples(
            "sparsify resnet56 --weights r56.safetensors --ratio 0.9 --scope global --out sparse",
            "sparsify lenet300 --ratio fc1=0.92 --ratio fc2=0.91 --out sparse --bits 5",
            "sparsify runs/first --pattern 2:4 --ignore conv1 --out sparse",
            "sparsify torchvision:vgg16 --ratio 0.9 --pattern 'block 16x1' --only classifier --out sparse --convert",
        )
    )(sparsify)
    app.command(
        epilog=examples("layers resnet56 --weights r56.safetensors", "layers resnet56 --count 9 --out shorter")
    )(layers)


def sparsify(
    model: Source,
    out: Annotated[Path, typer.Option(help="New folder for the artifact.", metavar="FOLDER")],
    weights: Weights = None,
    ratio: Annotated[
        list[str] | None, typer.Option(help="Share of weights to remove; or LAYER=SHARE, repeatable.", metavar="SHARE")
    ] = None,
    std: Annotated[
        list[str] | None, typer.Option(help="Threshold in standard deviations; or LAYER=NUMBER.", metavar="NUMBER")
    ] = None,
    pattern: Annotated[str, typer.Option(help="element, kernel, n:m (2:4), or 'block 16x1'.")] = "element",
    scope: Annotated[str, typer.Option(help="The share of every layer (local), or of all (global).")] = "local",
    criterion: Annotated[str, typer.Option(help="magnitude, lamp or random.")] = "magnitude",
    only: Only = None,
    ignore: Ignore = None,
    bits: Annotated[
        int | None, typer.Option(min=1, max=8, help="Also share weights (2^bits values) in a compressed file.")
    ] = None,
    convert: Annotated[
        bool, typer.Option("--convert", help="Also time sparse products, and save a network with those that win.")
    ] = False,
    input_shape: Shape = None,
    trust: Trust = False,
    use: Use = None,
) -> None:
    """Removes single weights without training: same shapes, real zeros."""
    from secateur.cli.commands import sparsifying
    from secateur.cli.commands.networks import open_network, parse_shape

    amount = {"ratio": sparsifying.amounts("--ratio", ratio), "std": sparsifying.amounts("--std", std)}
    opened = open_network(model, weights=weights, shape=parse_shape(input_shape), trust=trust)
    options: dict[str, Any] = {"pattern": pattern, "scope": scope, "criterion": criterion}
    sparsifying.sparsify(opened, out, bits=bits, convert=convert, only=only, ignore=ignore or (), **amount, **options)


def layers(
    model: Source,
    out: Annotated[Path | None, typer.Option(help="Remove, into this new folder.", metavar="FOLDER")] = None,
    weights: Weights = None,
    count: Annotated[int | None, typer.Option(help="How many branches go.", min=1)] = None,
    ratio: Annotated[float | None, typer.Option(help="Share of the branches that goes.")] = None,
    names: Annotated[list[str] | None, typer.Option(help="Branches that go; repeatable.", metavar="PATTERN")] = None,
    ignore: Annotated[list[str] | None, typer.Option(help="Branches that stay; repeatable.", metavar="PATTERN")] = None,
    criterion: Annotated[str, typer.Option(help="auto, bn_scale, l1, l2 or random.")] = "auto",
    backend: Annotated[str, typer.Option(help="Surgery back end: auto, module or graph.")] = "auto",
    input_shape: Shape = None,
    trust: Trust = False,
    use: Use = None,
) -> None:
    """Lists a network's residual branches, or removes whole ones (their skips stay)."""
    from secateur.cli.commands import layers as command
    from secateur.cli.commands.networks import open_network, parse_shape

    opened = open_network(model, weights=weights, shape=parse_shape(input_shape), trust=trust)
    amount = {"count": count, "ratio": ratio, "names": names or None}
    command.layers(opened, out, criterion=criterion, amount=amount, ignore=ignore or (), backend=backend)
