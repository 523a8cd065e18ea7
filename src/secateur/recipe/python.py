"""Recipes from Python: with a network, data, a loss and metrics of one's own, handed over as they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from secateur.core import arguments
from secateur.core.errors import InputError
from secateur.core.yamltree import YamlTree
from secateur.data import DataSet
from secateur.jobs import Ray
from secateur.recipe import runner
from secateur.recipe.comparison import (
    Comparison,
    JobEvent,
    at_budget,
    at_ratios,
    compare_recipes,
    is_comparison,
    refuse_jobs,
    resume_comparison,
)
from secateur.recipe.folder import free
from secateur.recipe.load import load_recipe
from secateur.recipe.overrides import override, shortcuts
from secateur.recipe.prepare import NOTHING, Given
from secateur.recipe.runner import Event, RunResult
from secateur.task import Task, as_task

__all__ = ["compare", "resume", "run", "sweep"]

Model = nn.Module | str


@arguments.checked
def run(
    recipe: str | Path,
    out: str | Path | None = None,
    *,
    model: Model | None = None,
    task: Task | DataSet | str | None = None,
    data: str | None = None,
    set: Sequence[str] | Mapping[str, Any] = (),
    log: str | Sequence[str] = (),
    on_event: Callable[[Event], None] | None = None,
    progress: bool | None = None,
    trust: bool = False,
    **options: Any,
) -> RunResult:
    """Runs a recipe with a network and a task of one's own.

    What ``secateur run`` does from the command line, with objects in place of names. The network that is given stays as
    it is; the run works on a copy. A run that was stopped goes on with :func:`resume`.

    Args:
        recipe: A built-in name, or a YAML file.
        out: A new folder; by default the first of ``runs/NAME``, ``runs/NAME-2``, … that is free.
        model: A network, or its name; by default the recipe's.
        task: Data, loss and metrics: a :class:`secateur.Task`, a data set of images from :func:`secateur.data.load`, or
            the name of a kind of task.
        data: Name or path of a data set, for a task that is named.
        set: Any settings, as ``{"steps.prune.ratio": 0.3}`` or ``["steps.prune.ratio=0.3"]``.
        log: Loggers that get every epoch's numbers, every step's results and the report: ``tensorboard``, ``mlflow``,
            ``wandb``, or one of your own. A resume goes on with them.
        on_event: Called when a step begins and ends.
        progress: Whether training shows progress bars; ``None`` for only on a terminal.
        trust: Whether the recipe may name any code.
        options: ``ratio``, ``params`` or ``macs`` (what is removed, or to be left), ``epochs``, ``seed``, ``weights``,
            ``use``: see ``secateur run --help``.

    Returns:
        The run: ``result.state.pruned`` is the pruned network, ``result.folder`` where everything lies.

    Raises:
        InputError: A misfit of network, data, loss and metrics, or of an option; told before anything is trained.
        SecateurError: What the steps raise.
    """
    given = _given(model, task)
    edit = partial(_edited, given=given, model=model, task=task, data=data, sets=_settings(set), options=options)
    found = load_recipe(recipe, edit=edit, trust=trust)
    folder = Path(out) if out is not None else free(Path("runs") / found.name)
    command = None if given == NOTHING else f"secateur.run({str(recipe)!r}, …), with a network or task handed over"
    return runner.run(found, folder, given=given, command=command, log=log, on_event=on_event, progress=progress,
                      trust=trust)  # fmt: skip


@arguments.checked
def resume(
    folder: str | Path,
    *,
    model: nn.Module | None = None,
    task: Task | DataSet | None = None,
    jobs: int | Ray | None = None,
    progress: bool | None = None,
    trust: bool = False,
) -> RunResult | Comparison:
    """Goes on with a run or a comparison; what was handed over when it began is handed over again.

    The end is the same as that of one that was never stopped, on the same machine, if the training loader gives the
    same batches for the same seed.

    Args:
        folder: Of the run or the comparison.
        model: The network that was handed over.
        task: The task that was handed over.
        jobs: Where the jobs of a comparison run from now on, as for :func:`compare`; by default where they did.
        progress: Whether training shows progress bars; ``None`` for only on a terminal.
        trust: Whether what the folder names may be run: code, and the cluster of a comparison.

    Raises:
        InputError: Network or task is missing, or its recipe was changed; or ``jobs`` for a run, which has none.
        DataError: There is no run, its files are damaged, or the data have changed since it began.
        WeightsError: The network has other weights than when it began.
    """
    given = _given(model, task)
    if is_comparison(folder):
        return resume_comparison(folder, given=given, jobs=jobs, trust=trust)
    refuse_jobs(folder, jobs)
    return runner.resume(folder, given=given, progress=progress, trust=trust)


@arguments.checked
def compare(
    recipes: Sequence[str | Path],
    out: str | Path | None = None,
    *,
    model: Model | None = None,
    task: Task | DataSet | str | None = None,
    params: float | None = None,
    macs: float | None = None,
    jobs: int | Ray | None = None,
    set: Sequence[str] | Mapping[str, Any] = (),
    log: str | Sequence[str] = (),
    on_event: Callable[[JobEvent], None] | None = None,
    trust: bool = False,
    **options: Any,
) -> Comparison:
    """Runs several recipes from one dense network, and measures what they end with in one table.

    Args:
        recipes: Built-in names or YAML files.
        out: A new folder; by default the first of ``runs/comparison``, ``runs/comparison-2``, … that is free.
        model: As for :func:`run`.
        task: As for :func:`run`.
        params: Share of the dense network's parameters that every recipe keeps.
        macs: The same for MACs; at most one of the two.
        jobs: Processes at a time, or a cluster: ``secateur.jobs.Ray("auto", cpus=2, gpus=1)``. Networks and tasks that
            are handed over stay in this process, one after the other.
        set: Settings for every recipe that has the step they speak to.
        log: As for :func:`run`; each recipe's run is followed under its own name.
        on_event: Called with every event.
        trust: Whether the recipes may name any code.
        options: As for :func:`run`.

    Raises:
        InputError: See :func:`run`; or several processes were asked for, with something that was handed over.
        SecateurError: What loading raises; a recipe that fails says why in its row.
    """
    given = _given(model, task)
    named = {**options, **_names(model, task)}
    edit = partial(_handed, given=given)
    made = at_budget(recipes, params=params, macs=macs, sets=_settings(set), trust=trust, edit=edit, **named)
    shares = {"parameters": params, "MACs": macs}
    budget = ", ".join(f"{share:.0%} of the dense {key}" for key, share in shares.items() if share is not None)
    folder = Path(out) if out is not None else free(Path("runs") / "comparison")
    return compare_recipes(made, folder, given=given, jobs=jobs, log=log, on_event=on_event, budget=budget, trust=trust)


@arguments.checked
def sweep(
    recipe: str | Path,
    out: str | Path | None = None,
    *,
    ratios: Sequence[float] | None = None,
    params: Sequence[float] | None = None,
    macs: Sequence[float] | None = None,
    model: Model | None = None,
    task: Task | DataSet | str | None = None,
    jobs: int | Ray | None = None,
    set: Sequence[str] | Mapping[str, Any] = (),
    log: str | Sequence[str] = (),
    on_event: Callable[[JobEvent], None] | None = None,
    trust: bool = False,
    **options: Any,
) -> Comparison:
    """Runs one recipe at several ratios, or several shares of parameters or MACs.

    Args:
        recipe: A built-in name, or a YAML file.
        out: A new folder; by default ``runs/RECIPE-sweep`` or the next that is free.
        ratios: Shares removed, in [0, 1).
        params: Shares of the parameters kept, in (0, 1].
        macs: Shares of the MACs kept, in (0, 1].
        model: As for :func:`run`.
        task: As for :func:`run`.
        jobs: As for :func:`compare`.
        set: Settings.
        log: As for :func:`run`; each recipe's run is followed under its own name.
        on_event: Called with every event.
        trust: Whether the recipe may name any code.
        options: As for :func:`run`.

    Raises:
        InputError: See :func:`compare`; or not exactly one of ``ratios``, ``params`` and ``macs``.
    """
    points = {"ratio": ratios, "params": params, "macs": macs}
    asked = {key: value for key, value in points.items() if value is not None}
    if len(asked) != 1:
        got = " and ".join(asked) or "none"
        raise InputError(f"sweep wants one of ratios, params and macs, like ratios=[0.2, 0.4]; got {got}.")
    key, values = next(iter(asked.items()))
    given = _given(model, task)
    edit = partial(_handed, given=given)
    named = {**options, **_names(model, task)}
    made = at_ratios(recipe, values, key=key, sets=_settings(set), trust=trust, edit=edit, **named)
    folder = Path(out) if out is not None else free(Path("runs") / f"{Path(recipe).stem}-sweep")
    return compare_recipes(made, folder, given=given, jobs=jobs, log=log, on_event=on_event, trust=trust)


def _given(model: Any, task: Any) -> Given:
    """What is an object; names are the recipe's business."""
    if model is not None and not isinstance(model, nn.Module | str):
        inner = getattr(model, "model", None)
        if not isinstance(inner, nn.Module):
            raise InputError(f"model=… is a network or the name of one; got {type(model).__name__}.")
        model = inner
    network = model if isinstance(model, nn.Module) else None
    return Given(network, None if task is None or isinstance(task, str) else as_task(task))


def _names(model: Any, task: Any) -> dict[str, Any]:
    return {key: value for key, value in (("model", model), ("task", task)) if isinstance(value, str)}


def _settings(given: Sequence[str] | Mapping[str, Any]) -> list[str]:
    if isinstance(given, str):
        return [given]
    return [f"{key}={value}" for key, value in given.items()] if isinstance(given, Mapping) else list(given)


def _edited(
    tree: YamlTree,
    *,
    given: Given,
    model: Any,
    task: Any,
    data: str | None,
    sets: Sequence[str],
    options: Mapping[str, Any],
) -> YamlTree:
    tree = shortcuts(tree, data=data, **_names(model, task), **options)
    return override(_handed(tree, given=given), sets)


def _handed(tree: YamlTree, *, given: Given) -> YamlTree:
    """Writes down what was handed over in place of what the recipe names."""
    content = dict(tree.data)
    if given.model is not None:
        content["model"] = {"name": type(given.model).__name__, "given": True}
        known = tree.data.get("model")
        if isinstance(known, dict) and "head" in known and given.task is None:
            content["model"]["head"] = known["head"]
    if given.task is not None:
        content["task"] = {"name": given.task.name, "given": True}
        content["data"] = {}
    return YamlTree(content, tree.source, tree.lines)
