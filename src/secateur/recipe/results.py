"""The results of a run's steps, joined to what the report shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from secateur.core.errors import DataError
from secateur.recipe.records import REMEDY, StepRecord, problem, read_record
from secateur.recipe.schema import Recipe
from secateur.report import Results

__all__ = ["collect"]

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

    Raises:
        DataError: A step's ``result.json`` is damaged.
    """
    steps = list(steps)
    files = [read_record(folder / "steps" / name / "result.json", StepRecord)[1] for name in steps]
    joined: dict[str, Any] = {
        "recipe": recipe.name,
        "description": " ".join(recipe.description.split()),
        "model": recipe.model.name,
        "duration_s": round(sum(float(file["seconds"]) for file in files), 3),
        "recipe_yaml": recipe.to_yaml(),
        **{key: about[key] for key in ("data", "created", "seeds", "machine", "command", "metrics", "unit")},
        "notes": list(about.get("notes", ())),  # of what the run assumed; earlier versions noted none
    }
    names = [metric["name"] for metric in joined["metrics"]]
    joined["stages"] = [
        {"step": step, "role": role, "quality": {key: found.get(key) for key in (*names, "loss")}}
        for step, file in zip(steps, files, strict=True)
        for role, found in file["result"]["evaluations"].items()
    ]
    for file in files:
        for key, value in file["result"]["report"].items():
            joined[key] = [*joined.get(key, []), *_listed(value)] if key in _APPENDED else value
    return _shown(joined, folder)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _shown(results: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The results, once the report is known to take them.

    Raises:
        DataError: It does not: a file of the run is damaged.
    """
    try:
        Results.model_validate(results)
    except ValidationError as error:
        raise DataError(f"The results of the steps in {folder} are damaged: {problem(error)}. {REMEDY}") from error
    return results
