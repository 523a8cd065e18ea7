"""What a step of a recipe is, what it is given and what it gives back."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from torch import Tensor, nn

from secateur.core import arguments
from secateur.core.errors import InputError
from secateur.core.metric import LOSS
from secateur.core.registry import Registry
from secateur.recipe.metrics import Metrics
from secateur.recipe.schema import Recipe, Settings, StepEntry
from secateur.train import evaluate

if TYPE_CHECKING:
    from secateur.core.types import ExampleInputs
    from secateur.cut.pruned import Pruned
    from secateur.task import Task

__all__ = ["DENSE", "PRUNED", "STEPS", "Ahead", "Context", "State", "Step", "StepResult", "derive_seed",
           "descent", "step", "title_of"]  # fmt: skip

DENSE: str = "dense"
PRUNED: str = "pruned"
"""Roles of the network that a run begins with and of the one that it ships."""

ConfigT = TypeVar("ConfigT", bound=Settings)


@dataclass(frozen=True)
class State:
    """The networks at one point of a run.

    Attributes:
        dense: The network that the run began with, adapted to the data.
        pruned: The result of the last step that cut it or gave the cut network other weights; the runner keeps it as
            the run's artifact after every step. ``None`` before the first cut.
        masks: Which single weights of ``pruned`` stay, by parameter name; training holds them.
        before: The network that the last cut was made in; ``None`` before the first.
        others: Networks to compare with, by role: ``control`` (dense, trained as long as the pruned one), ``scratch``.
    """

    dense: nn.Module
    pruned: Pruned | None = None
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    others: Mapping[str, nn.Module] = field(default_factory=dict)
    before: nn.Module | None = None

    @property
    def models(self) -> dict[str, nn.Module]:
        """All networks by role."""
        cut = {} if self.pruned is None else {PRUNED: self.pruned.model}
        return {DENSE: self.dense, **self.others, **cut}

    @property
    def current(self) -> str:
        """Role of the network that a run ships: ``pruned`` once there is one, else ``dense``."""
        return DENSE if self.pruned is None else PRUNED

    @property
    def network(self) -> nn.Module:
        """The network that a run ships."""
        return self.dense if self.pruned is None else self.pruned.model

    @property
    def cut(self) -> Pruned:
        """The pruned network, for steps that come after one that cuts (the recipe's check sees to that)."""
        if self.pruned is None:
            raise InputError("This step needs a pruned network, and no step before it cuts.")
        return self.pruned

    def with_other(self, role: str, model: nn.Module) -> State:
        """The same state with a network to compare with."""
        return replace(self, others={**self.others, role: model})

    def with_pruned(self, pruned: Pruned, masks: Mapping[str, Tensor] | None = None) -> State:
        """The same state with another pruned network (and other masks)."""
        return replace(self, pruned=pruned, masks=self.masks if masks is None else masks)


@dataclass(frozen=True)
class StepResult:
    """What a step found out, as plain data (it is kept in the step's ``result.json``).

    Attributes:
        summary: Numbers for the step's closing line in ``metrics.jsonl``.
        report: Parts of `secateur.report.Results`; curves, networks, timings, exports and notes are joined
            with those of other steps, anything else replaces what earlier steps gave.
        epochs: Lines of ``metrics.jsonl``, one per epoch.
        evaluations: Quality per role of network, as `secateur.train.Evaluation` gives it.
    """

    summary: Mapping[str, Any] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)
    epochs: tuple[Mapping[str, Any], ...] = ()
    evaluations: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "summary": dict(self.summary),
            "report": dict(self.report),
            "epochs": [dict(line) for line in self.epochs],
            "evaluations": {role: dict(numbers) for role, numbers in self.evaluations.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> StepResult:
        """Reads what :meth:`to_dict` wrote."""
        return cls(data["summary"], data["report"], tuple(data["epochs"]), data["evaluations"])


AT_CHANCE = "{what}: no better than a guess that does not look at the inputs, so its NetScore says nothing."
"""What is said of a network that has learnt nothing, or forgotten all."""


@dataclass(frozen=True)
class Context:
    """Where a step works and what it may read.

    Attributes:
        recipe: The whole recipe.
        step: The step's name in this run, for instance ``03-prune``.
        folder: Folder of the run.
        task: Data, loss and metrics.
        metrics: The run's metrics.
        results: Results of the earlier steps by name.
        about: What the runner knows for the report: command, machine, seeds, creation time.
        begin: Makes the network that the run began with, as it was then.
        progress: Whether training shows progress bars; ``None`` for only on a terminal.
    """

    recipe: Recipe
    step: str
    folder: Path
    task: Task
    metrics: Metrics
    results: Mapping[str, StepResult]
    about: Mapping[str, Any]
    begin: Callable[[], nn.Module]
    progress: bool | None = None

    @property
    def work(self) -> Path:
        """Folder of the step's own files; made when first asked for."""
        path = self.folder / "steps" / self.step
        path.mkdir(parents=True, exist_ok=True)
        return path

    def inputs(self, count: int, *, split: str = "train") -> ExampleInputs:
        """Inputs of ``count`` samples, always the same ones of a recipe; of images normalised, (count, C, H, W)."""
        return self.task.sample(count, split=split, seed=derive_seed(self.recipe.seed, "images"))

    def calibration(self, count: int) -> Iterator[tuple[ExampleInputs, Any]]:
        """Batches of ``count`` training samples with their targets, always the same ones of a recipe."""
        return self.task.calibration(count, seed=derive_seed(self.recipe.seed, "images"))

    def judge(self, model: nn.Module) -> Mapping[str, Any]:
        """How well a network does on the test samples, as `secateur.train.Evaluation` gives it."""
        return evaluate(model, self.task).to_dict()

    def told(self, quality: Mapping[str, Any]) -> dict[str, Any]:
        """The same numbers for a step's summary, and in words for the line that closes it."""
        shown = [self.task.leading, *([] if self.task.leading is LOSS else [LOSS])]
        said = [f"{m.within} {m.words(quality[m.name])}" for m in shown if quality.get(m.name) is not None]
        if self.task.at_chance(quality):
            said[0] += " (no better than a guess)"
        return {**{f"test_{key}": value for key, value in quality.items()}, "test": ", ".join(said)}

    def evaluation(self, role: str) -> Mapping[str, Any] | None:
        """The latest known quality of the network in ``role``."""
        found = [result.evaluations[role] for result in self.results.values() if role in result.evaluations]
        return found[-1] if found else None


@dataclass(frozen=True)
class Ahead:
    """What is known at a step's place before the first step of a run.

    Attributes:
        model: The dense network as the run begins.
        task: Data, loss and metrics.
        earlier: The steps before this one.
        seed: The recipe's.
        name: Of the network in the recipe; empty where it was handed over.
    """

    model: nn.Module
    task: Task
    earlier: tuple[StepEntry, ...]
    seed: int
    name: str = ""

    @cached_property
    def inputs(self) -> ExampleInputs:
        """What the network is called with, the same samples as :meth:`Context.inputs` gives."""
        return self.task.sample(2, split="train", seed=derive_seed(self.seed, "images"))

    @property
    def weight_bytes(self) -> int:
        """Of the network's parameters and buffers."""
        return sum(t.numel() * t.element_size() for t in (*self.model.parameters(), *self.model.buffers()))


class Step(ABC, Generic[ConfigT]):
    """A kind of step, which says of itself what others have to know. A new one is a subclass below ``@step("name")``.

    Attributes:
        summary: One line for people.
        config: Class of its settings.
        role: Role of the network that it makes or changes.
        title: What that network is called in the report, where the step's role is its own.
        trains: Whether it trains for as long as the user says: ``--epochs`` speaks to it.
        changes_network: Whether there is a pruned network once it is done.
        cuts: What it removes, in words, for instance ``channels``; nothing for most.
        repairable: Whether what it removes is missed, so that a repair without training has something to do.
        compared: Whether it is done in a comparison; what only shows or ships a network is not.
    """

    summary: ClassVar[str]
    config: type[ConfigT]
    role: ClassVar[str] = "pruned"
    title: ClassVar[str] = ""
    trains: ClassVar[bool] = False
    changes_network: ClassVar[bool] = False
    cuts: ClassVar[str] = ""
    repairable: ClassVar[bool] = False
    compared: ClassVar[bool] = True

    def builds_on(self, earlier: Step[Any]) -> bool:
        """Whether ``earlier``, or another step for which this is true, has to come before this one; mostly none."""
        return False

    def words(self, summary: Mapping[str, Any]) -> str:
        """What came of it in a few words, for the line that closes it; empty for the quality after it."""
        return ""

    def check(self, config: ConfigT) -> None:
        """Checks that what the step needs is installed: asked when a run begins, not hours later.

        Raises:
            InputError: Something is missing; the message holds the install command.
        """

    def foresee(self, config: ConfigT, ahead: Ahead) -> None:
        """Checks what can be known of its success before the run's first step: asked then, not hours later.

        Raises:
            SecateurError: What the step would raise at its place, whatever the steps before it find.
        """

    def leaves(self, config: ConfigT, ahead: Ahead) -> int:
        """Bytes that it surely leaves in the run's folder; 0 where that depends on steps before it, or is small."""
        return 0

    @abstractmethod
    def run(self, context: Context, state: State, config: ConfigT) -> tuple[State, StepResult]:
        """Does the step; killed and called again with the same arguments, it ends the same."""

    def restore(self, context: Context, state: State, config: ConfigT) -> State:
        """Returns the state after this step from its files, for a run that goes on behind it."""
        return state


STEPS: Registry[Step[Any]] = Registry("step", check="secateur.recipe.conformance:check_step")
"""All kinds of steps by the name that recipes use."""


@arguments.checked
def step(kind: str) -> Callable[[type[Step[Any]]], type[Step[Any]]]:
    """Registers the class below as the kind of step that recipes call ``kind``."""

    def decorate(cls: type[Step[Any]]) -> type[Step[Any]]:
        STEPS.add(kind, cls())
        return cls

    return decorate


def title_of(role: str) -> str:
    """What the network in a role is called in the report: as the step says that makes it."""
    titles = (STEPS[kind].title for kind in STEPS if STEPS[kind].role == role)
    return next(filter(None, titles), role.capitalize())


def descent(role: str) -> frozenset[str]:
    """Roles of the networks whose training the network in ``role`` has behind it.

    >>> sorted(descent("pruned")), sorted(descent("scratch")), sorted(descent("control"))
    (['dense', 'pruned'], ['scratch'], ['dense'])
    """
    return frozenset({"pruned": {"dense", "pruned"}, "scratch": {"scratch"}}.get(role, {"dense"}))


def derive_seed(seed: int, purpose: str) -> int:
    """A 32-bit seed for one purpose, independent of those of other purposes.

    >>> derive_seed(0, "head") == derive_seed(0, "head") != derive_seed(0, "images")
    True
    """
    return int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:4], "big")
