"""The results of a run's steps, joined to what the report shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.recipe.files import read_json
from secateur.recipe.schema import Recipe

if TYPE_CHECKING:
    from secateur.data import DataSet
    from secateur.recipe.steps.base import StepResult

__all__ = ["collect", "durations"]


def collect(
    recipe: Recipe,
    about: Mapping[str, Any],
    data: DataSet,
    results: Mapping[str, StepResult],
    duration_s: float,
) -> dict[str, Any]:
    """Joins the steps' parts of the report: lists are appended, everything else is replaced by the later.

    Returns:
        Fields of `secateur.report.Results`, as plain data.
    """
    joined: dict[str, Any] = {
        "recipe": recipe.name,
        "description": " ".join(recipe.description.split()),
        "model": recipe.model.name,
        "data": _describe(data),
        "created": about["created"],
        "duration_s": duration_s,
        "recipe_yaml": recipe.to_yaml(),
        "seeds": about["seeds"],
        "machine": about["machine"],
        "command": about["command"],
    }
    for result in results.values():
        for key, value in result.report.items():
            joined[key] = [*joined.get(key, []), *value] if isinstance(value, list | tuple) else value
    return joined


def durations(folder: Path, steps: Iterable[str]) -> float:
    """Seconds that the finished steps took together."""
    files = [folder / "steps" / name / "result.json" for name in steps]
    return round(sum(float(read_json(file)["seconds"]) for file in files), 3)


def _describe(data: DataSet) -> str:
    channels, height, width = data.shape
    counts = (
        f"{len(data.train):,} training, {len(data.validation):,} validation, {len(data.test):,} test images"
    )
    return f"{data.name}: {counts} of {channels}×{height}×{width}, {len(data.classes)} classes"
