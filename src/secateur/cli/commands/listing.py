"""`secateur recipes`, `criteria`, `models`, `datasets`, `loggers` and `runtimes`: what there is by name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from secateur.cli.commands.show import console, say, table
from secateur.core.conformance import check as tried
from secateur.core.errors import InputError
from secateur.criteria import CRITERIA, needed_data
from secateur.data import DATASETS
from secateur.loggers import LOGGERS
from secateur.models import MODELS
from secateur.recipe import builtin_recipes, recipe_text
from secateur.runtimes import RUNTIMES, installed
from secateur.runtimes.packages import install_command, missing
from secateur.task import TASKS

__all__ = ["check", "criteria", "datasets", "loggers", "models", "recipes", "runtimes", "show_recipe", "tasks"]


def _show(columns: Sequence[str], rows: Iterable[Sequence[str]], pattern: str | None) -> None:
    rows = list(rows)
    if pattern is not None:
        known = [row[0] for row in rows]
        rows = [row for row in rows if pattern.lower() in " ".join(row).lower()]
        if not rows:
            raise InputError(f"Nothing here has {pattern!r} in it. Known: {', '.join(known)}.")
    console().print(table(columns, rows, words=range(len(columns)), fold=range(1, len(columns))))


def recipes(pattern: str | None) -> None:
    """Lists the built-in recipes with their steps."""
    rows = [[entry.name, ", ".join(entry.steps), entry.description] for entry in builtin_recipes()]
    _show(["Recipe", "Steps", "What it does"], rows, pattern)


def show_recipe(name: str | None) -> None:
    """Prints the YAML of a recipe, as it is in its file."""
    if name is None:
        raise InputError(f"Say which recipe: {', '.join(entry.name for entry in builtin_recipes())}.")
    print(recipe_text(name), end="")


def criteria(pattern: str | None) -> None:
    """Lists the criteria with what they score, what they need and their sources."""
    every = (CRITERIA[name] for name in CRITERIA)
    rows = [[c.name, ", ".join(c.kinds), c.summary, needed_data(c) or "–", c.paper] for c in every]
    _show(["Criterion", "Of", "What decides", "Data", "Source"], rows, pattern)


def check(names: Sequence[str]) -> None:
    """Tries registered things, or all that plug-ins brought, and says what was tried."""
    if not names:
        raise InputError("Say what to check: secateur check --use my_module, or a name like l2.")
    for found in (one for name in names for one in tried(name)):
        say(f"{found.kind} {found.name}: {'in order' if found.tried else 'found (there is no check for its kind)'}")


def models(pattern: str | None) -> None:
    """Lists the built-in networks."""
    rows = [[m.name, m.summary, "×".join(map(str, m.shape)), str(m.classes)] for m in (MODELS[name] for name in MODELS)]
    rows += [
        ["torchvision:NAME", "any classification network of torchvision", "", ""],
        ["timm:NAME", "any network of timm", "", ""],
        ["hf:NAME", "any network of transformers: a folder, a .gguf file, owner/name of the Hub", "", ""],
        ["package.module:factory", "your own function that returns a network", "", ""],
    ]
    _show(["Network", "What it is", "Input", "Classes"], rows, pattern)


def datasets(pattern: str | None) -> None:
    """Lists the data sets."""
    rows = [
        [name, entry.summary, f"{name}:PATH ({entry.needs})" if entry.needs else name]
        for name, entry in ((name, DATASETS[name]) for name in DATASETS)
    ]
    _show(["Data set", "What it is", "How to name it"], rows, pattern)


def tasks(pattern: str | None) -> None:
    """Lists the kinds of tasks."""
    rows = [
        [name, kind.summary, kind.data or "yours", kind.model or "yours"]
        for name, kind in ((name, TASKS[name]) for name in TASKS)
    ]
    rows.append(["package.module:MyTask", "a class of your own (docs/tasks.md)", "", ""])
    _show(["Task", "What is learned, and its metrics", "Data by default", "Network by default"], rows, pattern)


def loggers(pattern: str | None) -> None:
    """Lists the loggers, and whether what each needs is there or how to get it."""
    rows = []
    for logger in (LOGGERS[name] for name in LOGGERS):
        gone = missing(logger.packages)
        rows.append([logger.name, logger.summary, install_command(logger.extra, gone) if gone else "yes"])
    _show(["Logger", "What it is", "Installed, or how to"], rows, pattern)


def runtimes(pattern: str | None) -> None:
    """Lists the runtimes with the file format each reads, whether it has int8, and its version or how to get it."""
    rows = []
    for runtime in (RUNTIMES[name] for name in RUNTIMES):
        state = runtime.version() if installed(runtime) else runtime.install_command()
        file = runtime.format if runtime.writes else "–"
        rows.append([runtime.name, runtime.summary, file, "yes" if runtime.int8 else "–", str(runtime.step), state])
    _show(["Runtime", "What it is", "Format", "int8", "Width step", "Installed, or how to"], rows, pattern)
