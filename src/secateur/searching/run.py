"""The search itself: trials until there are enough, then the front: measured on test samples, saved, and on a page."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from secateur.core import arguments
from secateur.core.errors import BudgetError, InputError, UnknownNameError, VerificationError
from secateur.core.files import disk_errors, new_folder, write_json, write_text
from secateur.core.types import ExampleInputs
from secateur.cost import nonzero_params, size_on_disk
from secateur.cost.counts import count
from secateur.cost.energy import energy
from secateur.criteria import CRITERIA
from secateur.cut.prune import prune
from secateur.cut.pruned import Pruned
from secateur.data import DataSet
from secateur.recipe.comparison import Comparison, Row
from secateur.recipe.comparison.page import write_comparison
from secateur.recipe.steps.weights import contents
from secateur.recovery import recover
from secateur.recovery.sensitivity import LeadingMetric, sensitivity
from secateur.searching.space import COSTS, Space, ratio_key
from secateur.searching.study import open_study, optuna
from secateur.searching.trials import Searched, Tried
from secateur.task import Task, as_task
from secateur.timing import machine
from secateur.timing.measurement import scored
from secateur.train import evaluate

__all__ = ["search"]


@arguments.checked
def search(
    model: nn.Module,
    data: Task | DataSet,
    out: str | Path,
    *,
    trials: int = 60,
    cost: str = "macs",
    ratios: Sequence[float] = (0.0, 0.8),
    criteria: Sequence[str] = ("l2",),
    repair: bool = False,
    images: int = 512,
    storage: str | None = None,
    seed: int = 0,
    on_trial: Callable[[Tried], None] | None = None,
) -> Searched:
    """Searches for the networks that lose least for what they cost, without training.

    Every trial cuts the network with other ratios per group and another criterion, and asks for two numbers: the
    task's leading metric on samples that may decide (validation, else training), and the cost. The first trials take
    the ratios of measured sensitivity (:func:`secateur.sensitivity`) at several sizes, and equal ratios; Optuna's
    tree-structured Parzen estimator proposes the others. The networks that no other beats in both are measured on the
    test split, saved and shown on a page.

    Source of the sampler: Ozaki et al., *Multiobjective tree-structured Parzen estimator*, JAIR 73 (2022); of the
    library: Akiba et al., *Optuna*, https://arxiv.org/abs/1907.10902.

    The study is kept, so a search that is stopped goes on when it is started again. One process searches at a time.

    Args:
        model: The trained network, left untouched.
        data: Task, or data set of images.
        out: Folder for everything.
        trials: How many in all, those of earlier starts among them.
        cost: ``macs``, ``params``, or ``energy`` (by a model).
        ratios: Smallest and largest share of a group's units that goes.
        criteria: Names of the criteria that decide which units of a group go first.
        repair: Whether every cut is repaired (:func:`secateur.recover`) before it is measured.
        images: Samples of the metric, and of criteria and repair.
        storage: Where Optuna keeps the study, as SQLAlchemy names databases; by default ``study.db`` in ``out``.
        seed: Of what is proposed, and of criteria that draw random numbers.
        on_trial: Called with every network that was tried.

    Returns:
        What was tried, and the front.

    Raises:
        InputError: Optuna is not installed, no room to search, a storage that cannot be opened, a study of another
            search, or not a single network came out.
        UnknownNameError: A cost or criterion that is not there.
        BudgetError: Nothing can be pruned.
        TraceError: The network cannot be traced.
    """
    for name, value in (("trials", trials), ("images", images)):
        if value < 1:
            raise InputError(f"{name} is at least 1; got {value}.")
    if cost not in COSTS:
        raise UnknownNameError("cost", cost, COSTS)
    library, folder, task = optuna(), Path(out), as_task(data)
    subject = _Subject(model, task, cost, LeadingMetric(task, images), repair, images, seed)
    first = criteria[0] if criteria else "l2"
    Space.of(("any",), ratios, criteria, list(CRITERIA))  # before anything is measured
    found = sensitivity(model, subject.example, data=task, ratios=(0.25, 0.5, 0.75, 0.9), criterion=first)
    order = list(found.ratios(macs=0.999)) if found.curves else []
    space = Space.of(order, ratios, criteria, list(CRITERIA))
    folder.mkdir(parents=True, exist_ok=True)
    of = {"network": contents(model), "data": task.describe(), "space": space.to_json(), "cost": cost,
          "samples": images, "repair": repair}  # fmt: skip
    better = "minimize" if task.leading.better == "lower" else "maximize"
    with disk_errors(folder, "start the search again"):
        study = open_study(storage or f"sqlite:///{folder / 'study.db'}", of, (better, "minimize"), seed)
        if not study.trials:
            for parameters in space.seeds(found):
                study.enqueue_trial(parameters, skip_if_exists=True)
        _try(library, study, space, subject, trials, on_trial)
        return _ended(library, study, space, subject, folder)


@dataclass(frozen=True)
class _Subject:
    """What is cut, and how a cut is judged."""

    model: nn.Module
    task: Task
    cost: str
    score: LeadingMetric
    repair: bool
    images: int
    seed: int

    @property
    def example(self) -> ExampleInputs:
        return self.task.sample(2)

    def cut(self, ratios: dict[str, float], criterion: str) -> Pruned:
        data = [inputs for inputs, _ in self.task.calibration(self.images)] if self.repair else None
        pairs = list(self.task.calibration(self.images)) if CRITERIA[criterion].needs else None
        loss: Any = self.task.loss if self.task.has_loss else None
        made = prune(self.model, self.example, ratio=ratios, criterion=criterion, data=pairs, loss=loss, seed=self.seed)
        return made if data is None else recover(made, data, seed=self.seed)

    def judged(self, made: Pruned) -> tuple[float, float]:
        return self.score(made.model), COSTS[self.cost][1](made, self.example)


def _try(library: Any, study: Any, space: Space, subject: _Subject, trials: int, on_trial: Any) -> None:
    ended = (library.trial.TrialState.COMPLETE, library.trial.TrialState.PRUNED)

    def objective(trial: Any) -> tuple[float, float]:
        ratios, criterion = space.asked(trial)
        try:
            made = subject.cut(ratios, criterion)
        except (BudgetError, VerificationError) as error:
            trial.set_user_attr("refused", str(error))
            raise library.TrialPruned from error
        value, cost = subject.judged(made)
        if on_trial is not None:
            on_trial(Tried(trial.number, value, cost, criterion, ratios))
        return value, cost

    left = trials - len(study.get_trials(deepcopy=False, states=ended))
    if left > 0:
        before = library.logging.get_verbosity()
        library.logging.set_verbosity(library.logging.WARNING)
        try:
            study.optimize(objective, callbacks=[library.study.MaxTrialsCallback(trials, states=ended)])
        finally:
            library.logging.set_verbosity(before)


def _ended(library: Any, study: Any, space: Space, subject: _Subject, folder: Path) -> Searched:
    states = library.trial.TrialState
    tried = tuple(_tried(trial, space) for trial in study.get_trials(states=(states.COMPLETE,)))
    refused = len(study.get_trials(deepcopy=False, states=(states.PRUNED,)))
    if not tried:
        raise InputError(f"Not a single trial made a network: {refused} cuts could not be made. Give smaller ratios.")
    best = {trial.number for trial in study.best_trials}
    front, rows = [], [_row("dense", subject, subject.model, None)]
    for one in sorted((t for t in tried if t.number in best), key=lambda t: t.cost):
        place = folder / "front" / f"trial-{one.number}"
        made = subject.cut(dict(one.ratios), one.criterion)
        if not place.exists():
            with new_folder(place) as new:
                shutil.copytree(made.save(new / "artifact"), new, dirs_exist_ok=True)
                shutil.rmtree(new / "artifact")
        rows.append(_row(f"trial {one.number}", subject, made.model, rows[0].params))
        front.append(replace(one, test=rows[-1].now, artifact=place))
    result = Searched(folder, subject.task.leading, subject.cost, tried, tuple(front), refused)
    _write(result, tuple(rows), subject.task, type(subject.model).__name__)
    return result


def _tried(trial: Any, space: Space) -> Tried:
    ratios = {name: trial.params[ratio_key(name)] for name in space.groups}
    return Tried(trial.number, trial.values[0], trial.values[1], trial.params["criterion"], ratios)


def _row(name: str, subject: _Subject, model: nn.Module, dense: int | None) -> Row:
    example, leading = subject.task.sample(1), subject.task.leading
    params, macs = nonzero_params(model), count(model, example).macs
    now: dict[str, float | None] = dict(evaluate(model, subject.task).metrics)
    score = scored(leading.percent(now.get(leading.name)), params, macs)
    return Row(
        name, now=now, params=params, macs=macs, flops=2 * macs, compression=(dense or params) / max(1, params),
        energy_mj=energy(model, example).estimated_mj, weight_bytes=size_on_disk(model), netscore=score,
        at_chance=score is not None and subject.task.at_chance(now),
    )  # fmt: skip


def _write(result: Searched, rows: tuple[Row, ...], task: Task, name: str) -> None:
    command = f"secateur.search(…, {str(result.folder)!r})"
    facts = {"model": name, "data": task.describe(), "budget": "", "command": command, "machine": machine().to_json()}
    table = Comparison(result.folder, rows, facts, tuple(task.metrics), task.unit)
    write_text(result.folder / "search.csv", table.to_csv())
    write_comparison(table, result.folder / "search.html")
    write_json(result.folder / "search.json", {
        "cost": result.cost, "metric": result.metric.to_dict(), "trials": [t.to_json() for t in result.trials],
        "front": [t.number for t in result.front], "refused": result.refused,
    })  # fmt: skip
