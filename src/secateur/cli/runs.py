"""The commands that run recipes, alone or side by side: argument parsing only."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secateur.cli import completion
from secateur.cli.groups import JobOptions, RunOptions, grouped
from secateur.cli.lazy import Lazy
from secateur.cli.options import Quiet, Trust, Use, examples

if TYPE_CHECKING:
    from secateur.cli.commands import comparing, exporting, running
else:
    comparing, exporting, running = (Lazy(f"secateur.cli.commands.{n}") for n in ("comparing", "exporting", "running"))

__all__ = ["register"]

Log = Annotated[
    list[str] | None,
    typer.Option(
        help="Logger that follows the run: tensorboard, mlflow, wandb; repeatable.",
        metavar="NAME",
        autocompletion=completion.loggers,
    ),
]


def register(app: typer.Typer) -> None:
    """Adds the commands to the application."""
    app.command(
        epilog=examples(
            "run --out runs/first",
            "run quickstart --model resnet56 --weights r56.pt --data cifar.tar",
            "run transfer-channel --ratio 0.3 --epochs 20 --set steps.prune.scope=global",
            "run my-recipe.yaml --seed 1",
            "run transfer-channel --log tensorboard --log mlflow",
        )
    )(run)
    app.command(epilog=examples("resume runs/first", "resume /shared/compared --ray 10.0.0.1:6379"))(resume)
    app.command(epilog=examples("report runs/first", "report runs/first --picture result.svg"))(report)
    app.command(
        epilog=examples(
            "compare transfer-channel slimming --macs 0.5 --model resnet_digits",
            "compare thinet mine.yaml --model resnet20 --weights r20.safetensors --data cifar.tar --jobs 2",
            "compare slimming thinet --log tensorboard",
            "compare slimming thinet --ray auto --job-cpus 4 --job-gpus 1 --out /shared/compared",
        )
    )(compare)
    app.command(
        epilog=examples(
            "sweep transfer-channel --ratios 0.2,0.4,0.6,0.8",
            "sweep network-trimming --macs 0.7,0.5,0.3 --out runs/trimming",
        )
    )(sweep)


@grouped
def run(
    recipe: Annotated[
        str,
        typer.Argument(metavar="RECIPE", help="Built-in recipe, or a YAML file.", autocompletion=completion.recipes),
    ] = "quickstart",
    *,
    how: RunOptions,
    ratio: Annotated[float | None, typer.Option(help="Share of the units that is removed.")] = None,
    log: Log = None,
) -> None:
    """Runs a recipe: adapt, prune, fine-tune, measure, export, report."""
    running.run_recipe(recipe, how.out, options=how.options() | {"ratio": ratio}, sets=how.set_ or [], quiet=how.quiet,
                       command=_command(), log=log or (), trust=how.trust)  # fmt: skip


@grouped
def resume(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of the run or comparison that was stopped.")],
    where: JobOptions,
    quiet: Quiet = False,
    trust: Trust = False,
    use: Use = None,
) -> None:
    """Goes on with a run that was stopped; it ends with the same numbers."""
    running.resume_run(folder, jobs=where.executor(), quiet=quiet, trust=trust)


def report(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of a run.")],
    picture: Annotated[Path | None, typer.Option(help="Also draw the result as .svg or .png.", metavar="FILE")] = None,
    trust: Trust = False,
) -> None:
    """Writes report.html of a run again, of as much as there is."""
    exporting.report(folder, picture, trust=trust)


@grouped
def compare(
    recipes: Annotated[
        list[str],
        typer.Argument(metavar="RECIPE…", help="Built-in recipes, or YAML files.", autocompletion=completion.recipes),
    ],
    how: RunOptions,
    params: Annotated[
        str | None, typer.Option(help="Equal parameters: share kept, 0.5 or 50%.", metavar="SHARE")
    ] = None,
    macs: Annotated[str | None, typer.Option(help="Equal MACs: share kept, 0.5 or 50%.", metavar="SHARE")] = None,
    *,
    where: JobOptions,
    log: Log = None,
) -> None:
    """Runs several recipes from one dense network, in parallel, and ends in one table and a Pareto chart."""
    comparing.compare(recipes, how.out, budget={"params": params, "macs": macs}, options=how.options(),
                      sets=how.set_ or [], jobs=where.executor(), quiet=how.quiet, command=_command(),
                      log=log or (), trust=how.trust)  # fmt: skip


@grouped
def sweep(
    recipe: Annotated[
        str,
        typer.Argument(metavar="RECIPE", help="Built-in recipe, or a YAML file.", autocompletion=completion.recipes),
    ],
    how: RunOptions,
    ratios: Annotated[str | None, typer.Option(help="Shares removed, like 0.2,0.4,0.6.", metavar="LIST")] = None,
    params: Annotated[str | None, typer.Option(help="Shares of parameters kept.", metavar="LIST")] = None,
    macs: Annotated[str | None, typer.Option(help="Shares of MACs kept.", metavar="LIST")] = None,
    *,
    where: JobOptions,
    log: Log = None,
) -> None:
    """Runs one recipe at several ratios from one dense network, and ends in one table and a Pareto chart."""
    comparing.sweep(recipe, how.out, points={"ratio": ratios, "params": params, "macs": macs}, options=how.options(),
                    sets=how.set_ or [], jobs=where.executor(), quiet=how.quiet, command=_command(),
                    log=log or (), trust=how.trust)  # fmt: skip


def _command() -> str:
    return shlex.join(["secateur", *sys.argv[1:]])
