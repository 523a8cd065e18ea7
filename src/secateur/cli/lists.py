"""The commands that list what there is by name: argument parsing only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from secateur.cli import completion
from secateur.cli.lazy import Lazy
from secateur.cli.options import Pattern, Use, examples
from secateur.core.errors import InputError

if TYPE_CHECKING:
    from secateur.cli.commands import doctoring, listing
else:
    listing = Lazy("secateur.cli.commands.listing")
    doctoring = Lazy("secateur.cli.commands.doctoring")

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Adds the commands to the application."""
    app.command(epilog=examples("recipes", "recipes layer", "recipes show thinet > mine.yaml"))(recipes)
    app.command(epilog=examples("criteria", "criteria magnitude"))(criteria)
    app.command(epilog=examples("models", "models resnet"))(models)
    app.command(epilog=examples("datasets"))(datasets)
    app.command(epilog=examples("tasks", "tasks text"))(tasks)
    app.command(epilog=examples("loggers"))(loggers)
    app.command(epilog=examples("doctor", "doctor --json"))(doctor)
    app.command(epilog=examples("check --use my_module", "check l2 --use my_module"))(check)


def recipes(
    text: Annotated[
        str | None, typer.Argument(metavar="[TEXT]", help="Show only lines with this in them; or `show` and a name.")
    ] = None,
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="After `show`: the recipe to print.", autocompletion=completion.recipes),
    ] = None,
    use: Use = None,
) -> None:
    """Lists the recipes, or prints the YAML of one, to start from: `recipes show NAME`."""
    if text == "show":
        return listing.show_recipe(name)
    if name is not None:
        raise InputError(f"`secateur recipes` takes one text to look for, or `show` and a name; got {text} {name}.")
    listing.recipes(text)


def criteria(text: Pattern = None, use: Use = None) -> None:
    """Lists what can decide which units go."""
    listing.criteria(text)


def models(text: Pattern = None, use: Use = None) -> None:
    """Lists the networks."""
    listing.models(text)


def datasets(text: Pattern = None, use: Use = None) -> None:
    """Lists the data sets."""
    listing.datasets(text)


def tasks(text: Pattern = None, use: Use = None) -> None:
    """Lists the kinds of tasks: what they learn, their metrics, data and network by default."""
    listing.tasks(text)


def loggers(text: Pattern = None, use: Use = None) -> None:
    """Lists the loggers of `run --log`: which are installed, and how to install the others."""
    listing.loggers(text)


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Looks at the installation and the machine: versions, what is missing, what is broken (then it ends with 1)."""
    doctoring.doctor(as_json=as_json)


def check(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]…", help="Criteria, steps, recipes …; by default all that --use brings."),
    ] = None,
    use: Use = None,
) -> None:
    """Tries what a plug-in brings as Secateur's own tests try what it comes with."""
    listing.check(names or use or [])
