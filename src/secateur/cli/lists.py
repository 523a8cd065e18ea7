"""The commands that list what there is by name: argument parsing only."""

from __future__ import annotations

import typer

from secateur.cli.options import Pattern, examples

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Adds the commands to the application."""
    app.command(epilog=examples("recipes"))(recipes)
    app.command(epilog=examples("criteria", "criteria magnitude"))(criteria)
    app.command(epilog=examples("models", "models resnet"))(models)
    app.command(epilog=examples("datasets"))(datasets)


def recipes(text: Pattern = None) -> None:
    """Lists the built-in recipes."""
    from secateur.cli.commands import listing

    listing.recipes(text)


def criteria(text: Pattern = None) -> None:
    """Lists what can decide which units go."""
    from secateur.cli.commands import listing

    listing.criteria(text)


def models(text: Pattern = None) -> None:
    """Lists the networks."""
    from secateur.cli.commands import listing

    listing.models(text)


def datasets(text: Pattern = None) -> None:
    """Lists the data sets."""
    from secateur.cli.commands import listing

    listing.datasets(text)
