"""The results of a run's steps, joined to what the report shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.recipe.files import read_json
from secateur.recipe.schema import Recipe

if TYPE_CHECKING:
    from secateur.data import DataSet

__all__ = ["collect", "describe"]

_APPENDED = ("curves", "exports", "latency", "networks", "notes", "points", "scales")


def collect(recipe: Recipe, about: Mapping[str, Any], folder: Path, steps: Iterable[str]) -> dict[str, Any]:
    """Joins what the finished steps found out: curves and the like are appended, else the later stays.

    Args:
        recipe: The recipe of the run.
        about: The run's ``environment.json``.
        folder: The run's folder.
        steps: Names of the finished steps.

    Returns:
        Fields of `secateur.report.Results`, as plain data.
    """
    files = [read_json(folder / "steps" / name / "result.json") for name in steps]
    joined: dict[str, Any] = {
        "recipe": recipe.name,
        "description": " ".join(recipe.description.split()),
        "model": recipe.model.name,
        "duration_s": round(sum(float(file["seconds"]) for file in files), 3),
        "recipe_yaml": recipe.to_yaml(),
        **{key: about[key] for key in ("data", "created", "seeds", "machine", "command")},
    }
    for file in files:
        for key, value in file["result"]["report"].items():
            joined[key] = [*joined.get(key, []), *value] if key in _APPENDED else value
    return joined


def describe(data: DataSet) -> str:
    """One line about a data set.

    >>> from secateur.data import load
    >>> describe(load("digits"))  # doctest: +ELLIPSIS
    'digits: ... training, ... validation, ... test images of 1×8×8, 10 classes'
    """
    channels, height, width = data.shape
    counts = f"{len(data.train):,} training, {len(data.validation):,} validation, {len(data.test):,} test images"
    return f"{data.name}: {counts} of {channels}×{height}×{width}, {len(data.classes)} classes"
