"""What every step and every recipe has to be. That a step goes on where it was stopped is for its own tests to show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from secateur.core.errors import PluginError
from secateur.recipe.load import load_recipe
from secateur.recipe.schema import ITERATE, Settings
from secateur.recipe.steps import Step

__all__ = ["check_recipe", "check_step"]


def check_step(name: str, step: Step[Any]) -> None:
    """It says what it is, its settings are checked, and the networks that it makes can be had again.

    Raises:
        PluginError: Something of this is not so.
    """
    if not isinstance(step, Step):
        raise PluginError(f"it is {type(step).__name__}, wanted an instance of a subclass of Step")
    if name == ITERATE or not name.replace("_", "").replace("-", "").isalnum():
        raise PluginError("its name is to be of letters, digits, - and _, and not iterate")
    if not getattr(step, "summary", ""):
        raise PluginError("it has no summary, the line that says what it does")
    config = getattr(step, "config", None)
    if not (isinstance(config, type) and issubclass(config, Settings)):
        raise PluginError("its config has to be a class of settings (a subclass of secateur.recipe.steps.Settings)")
    try:
        config.model_validate({"no_such_setting": 1})
    except (ValidationError, PluginError):
        pass
    else:
        raise PluginError("its settings take any key, so that a misspelt one would be lost without a word")
    if step.trains and "epochs" not in config.model_fields:
        raise PluginError("it says that it trains, and has no setting epochs for --epochs to speak to")
    changes = step.changes_network or step.trains
    if changes and type(step).restore is Step.restore:
        raise PluginError("it makes or changes a network, and has no restore, which gives that network again")
    if step.cuts and not step.changes_network:
        raise PluginError(f"it says that it cuts {step.cuts}, and not that it changes the network")


def check_recipe(name: str, file: Path) -> None:
    """It is valid, says what it does, and has the name of its file.

    Raises:
        SecateurError: What is wrong, with the line.
    """
    recipe = load_recipe(name)
    if recipe.name != name:
        raise PluginError(f"its file is {file.name}, and its name {recipe.name!r}")
    if not recipe.description:
        raise PluginError("it has no description")
