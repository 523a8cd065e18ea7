"""The commands that run recipes, alone or side by side: argument parsing only."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from secateur.cli import completion
from secateur.cli.options import Data, Epochs, Model, Quiet, Seed, Sets, Trust, Use, Weights, examples

__all__ = ["register"]

Out = Annotated[Path | None, typer.Option(help="New folder for everything that is made.", metavar="FOLDER")]
Jobs = Annotated[int | None, typer.Option(help="Processes at a time. [default: one per core]")]


def register(app: typer.Typer) -> None:
    """Adds the commands to the application."""
    app.command(
        epilog=examples(
            "run transfer-channel --out runs/first",
            "run transfer-channel --ratio 0.3 --epochs 20 --set steps.prune.scope=global",
            "run transfer-channel --model resnet56 --weights r56.pt --data cifar.tar",
            "run my-recipe.yaml --seed 1",
        )
    )(run)
    app.command(epilog=examples("resume runs/first"))(resume)
    app.command(epilog=examples("report runs/first", "report runs/first --picture result.svg"))(report)
    app.command(
        epilog=examples(
            "compare transfer-channel slimming --macs 0.5 --model resnet_digits",
            "compare thinet mine.yaml --model resnet20 --weights r20.safetensors --data cifar.tar --jobs 2",
        )
    )(compare)
    app.command(
        epilog=examples(
            "sweep transfer-channel --ratios 0.2,0.4,0.6,0.8",
            "sweep network-trimming --macs 0.7,0.5,0.3 --out runs/trimming",
        )
    )(sweep)


def run(
    recipe: Annotated[
        str,
        typer.Argument(metavar="RECIPE", help="Built-in recipe, or a YAML file.", autocompletion=completion.recipes),
    ],
    out: Out = None,
    model: Model = None,
    weights: Weights = None,
    data: Data = None,
    ratio: Annotated[float | None, typer.Option(help="Share of the units that is removed.")] = None,
    epochs: Epochs = None,
    seed: Seed = None,
    set_: Sets = None,
    quiet: Quiet = False,
    trust: Trust = False,
    use: Use = None,
) -> None:
    """Runs a recipe: adapt, prune, fine-tune, measure, export, report."""
    from secateur.cli.commands.running import run_recipe

    options = {
        "model": model,
        "weights": weights,
        "data": data,
        "ratio": ratio,
        "epochs": epochs,
        "seed": seed,
        "use": use or (),
    }
    run_recipe(recipe, out, options=options, sets=set_ or [], quiet=quiet, command=_command(), trust=trust)


def resume(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of the run or comparison that was stopped.")],
    quiet: Quiet = False,
    trust: Trust = False,
    use: Use = None,
) -> None:
    """Goes on with a run that was stopped; it ends with the same numbers."""
    from secateur.cli.commands.running import resume_run

    resume_run(folder, quiet=quiet, trust=trust)


def report(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of a run.")],
    picture: Annotated[Path | None, typer.Option(help="Also draw the result as .svg or .png.", metavar="FILE")] = None,
) -> None:
    """Writes report.html of a run again, of as much as there is."""
    from secateur.cli.commands import exporting

    exporting.report(folder, picture)


def compare(
    recipes: Annotated[
        list[str],
        typer.Argument(metavar="RECIPE…", help="Built-in recipes, or YAML files.", autocompletion=completion.recipes),
    ],
    out: Out = None,
    model: Model = None,
    weights: Weights = None,
    data: Data = None,
    params: Annotated[
        str | None, typer.Option(help="Equal parameters: share kept, 0.5 or 50%.", metavar="SHARE")
    ] = None,
    macs: Annotated[str | None, typer.Option(help="Equal MACs: share kept, 0.5 or 50%.", metavar="SHARE")] = None,
    epochs: Epochs = None,
    seed: Seed = None,
    set_: Sets = None,
    jobs: Jobs = None,
    quiet: Quiet = False,
    trust: Trust = False,
    use: Use = None,
) -> None:
    """Runs several recipes from one dense network, in parallel, and ends in one table and a Pareto chart."""
    from secateur.cli.commands import comparing

    options = {"model": model, "weights": weights, "data": data, "epochs": epochs, "seed": seed, "use": use or ()}
    budget = {"params": params, "macs": macs}
    comparing.compare(
        recipes,
        out,
        budget=budget,
        options=options,
        sets=set_ or [],
        jobs=jobs,
        quiet=quiet,
        command=_command(),
        trust=trust,
    )


def sweep(
    recipe: Annotated[
        str,
        typer.Argument(metavar="RECIPE", help="Built-in recipe, or a YAML file.", autocompletion=completion.recipes),
    ],
    out: Out = None,
    ratios: Annotated[str | None, typer.Option(help="Shares removed, like 0.2,0.4,0.6.", metavar="LIST")] = None,
    params: Annotated[str | None, typer.Option(help="Shares of parameters kept.", metavar="LIST")] = None,
    macs: Annotated[str | None, typer.Option(help="Shares of MACs kept.", metavar="LIST")] = None,
    model: Model = None,
    weights: Weights = None,
    data: Data = None,
    epochs: Epochs = None,
    seed: Seed = None,
    set_: Sets = None,
    jobs: Jobs = None,
    quiet: Quiet = False,
    trust: Trust = False,
    use: Use = None,
) -> None:
    """Runs one recipe at several ratios from one dense network, and ends in one table and a Pareto chart."""
    from secateur.cli.commands import comparing

    options = {"model": model, "weights": weights, "data": data, "epochs": epochs, "seed": seed, "use": use or ()}
    points = {"ratio": ratios, "params": params, "macs": macs}
    comparing.sweep(
        recipe,
        out,
        points=points,
        options=options,
        sets=set_ or [],
        jobs=jobs,
        quiet=quiet,
        command=_command(),
        trust=trust,
    )


def _command() -> str:
    return shlex.join(["secateur", *sys.argv[1:]])
