"""Names that the shell completes; they are remembered, for the registries need PyTorch, which takes a while."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from secateur.core.files import write_json

__all__ = ["criteria", "datasets", "loggers", "models", "recipes", "runtimes", "tasks"]

_HOMES = {
    "criterion": ("secateur.criteria", "CRITERIA"),
    "data": ("secateur.data", "DATASETS"),
    "logger": ("secateur.loggers", "LOGGERS"),
    "model": ("secateur.models", "MODELS"),
    "recipe": ("secateur.recipe.shelf", "RECIPES"),
    "runtime": ("secateur.runtimes", "RUNTIMES"),
    "task": ("secateur.task.registry", "TASKS"),
}


def _completing(kind: str) -> Callable[[str], list[str]]:
    """The names of a kind that begin with what was typed; none where anything goes wrong: nobody could be told."""

    def complete(incomplete: str) -> list[str]:
        with contextlib.suppress(Exception):
            return [name for name in _names(kind) if name.startswith(incomplete)]
        return []

    return complete


models, criteria, recipes, datasets, runtimes, tasks, loggers = map(
    _completing, ("model", "criterion", "recipe", "data", "runtime", "task", "logger")
)


def _names(kind: str) -> list[str]:
    """What is registered, from the file of an earlier time where nothing has changed since."""
    module, registry = _HOMES[kind]
    file, key = _file(kind), _key()
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(file.read_text(encoding="utf-8"))
        if known["key"] == key:
            return [str(name) for name in known["names"]]
    found = list(getattr(import_module(module), registry))
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {"key": key, "names": found})
    return found


def _file(kind: str) -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "secateur" / f"names-{kind}.json"


def _key() -> str:
    """What changes when other names are registered: the version, the files of a checkout, the plug-ins."""
    from secateur import __version__
    from secateur.core.plugins import installed_modules

    house = Path(__file__).parents[1]
    changed = max(path.stat().st_mtime_ns for path in house.glob("*/*.py"))
    return f"{__version__} {changed} {sorted(installed_modules().items())}"
