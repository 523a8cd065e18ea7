"""What a task is: what recipes, training, evaluation and reports must not know of the user's data."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from secateur.core import arguments
from secateur.core.errors import InputError, first_line
from secateur.core.metric import LOSS, Metric
from secateur.core.types import ExampleInputs, call
from secateur.data.preprocessing import Preprocessing
from secateur.task.batch import Batch, form, inputs_and_target, joined, layout_of, moved, samples_in, shapes
from secateur.task.meters import Meter, MetricMeter, named_metrics
from secateur.task.shown import Shown
from secateur.task.sources import Source, digest_of, repeats

__all__ = ["SPLITS", "Epoch", "Task"]

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Epoch:
    """One pass over the training samples, as the engine asks for it.

    Attributes:
        seeds: Everything random about it depends on these alone.
        batch_size: Samples per step over all processes, where the task makes the batches.
        augment: Whether samples are changed at random.
        rank: Number of this process.
        processes: How many there are.
        device: Where the batches go.
        layout: Memory format of images.
    """

    seeds: tuple[object, ...]
    batch_size: int
    augment: bool = True
    rank: int = 0
    processes: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    layout: torch.memory_format = torch.contiguous_format


@arguments.checked
class Task:
    """The user's data, loss and metrics; what Secateur trains, evaluates, repairs and reports with.

    Made in place from loaders, or by a class of one's own that overrides some of :meth:`inputs`, :meth:`target`,
    :meth:`loss`, :meth:`predictions` and :meth:`distillation`.

    Args:
        train: Batches to train on: a DataLoader, a Dataset (batches are made of it), a tuple of tensors that hold all
            inputs and all targets, a list of batches, or a function that makes an iterator of them anew for each epoch.
        validation: Batches that the best epoch is chosen by; may be left out.
        test: Batches that no decision is based on; recipes and :func:`secateur.evaluate` score on them.
        loss: ``loss(output, target)``: the mean over a batch, a scalar. Needed to train and for criteria with
            gradients.
        metrics: By name, the one that leads first: metrics of torchmetrics, or ``secateur.Metric(function,
            better="lower")``. Without any, the loss leads.
        name: What reports call the task.
        steps: Batches that make an epoch of ``train``, for loaders that do not say it.
        unit: What one sample is called: ``image``, ``row``, ``text``.

    Raises:
        InputError: Something that no batches can come from, or a metric without a direction.

    >>> x, y = torch.randn(8, 4), torch.randn(8, 1)
    >>> task = Task(train=(x, y), test=(x, y), loss=torch.nn.functional.mse_loss)
    >>> task.leading.name, task.samples("train"), tuple(task.sample(3).shape)
    ('loss', 8, (3, 4))
    """

    name: str = "task"
    unit: str = "sample"
    metrics: tuple[Metric, ...] = ()
    classes: tuple[str, ...] = ()
    outputs: int | None = None
    """Scores a sample, (B, outputs), of the classifier at the network's end; ``None`` where it has none."""
    mirrors: ClassVar[bool] = False
    """Whether a mirror image of the inputs is as good an input, with the same target."""
    running: ClassVar[Metric | None] = None
    """A metric that is cheap enough to be measured on every training batch; see :meth:`hits`."""

    def __init__(
        self,
        *,
        train: Any = None,
        validation: Any = None,
        test: Any = None,
        loss: Callable[[Any, Any], Tensor] | None = None,
        metrics: Mapping[str, Any] | Sequence[Metric] | None = None,
        name: str | None = None,
        steps: int | None = None,
        unit: str | None = None,
    ) -> None:
        """Nothing is loaded yet."""
        given = {"train": train, "validation": validation, "test": test}
        self._sources = {
            split: Source(split, value, steps if split == "train" else None)
            for split, value in given.items()
            if value is not None
        }
        self._loss = loss
        kind = type(self)
        own = kind.name if kind is Task or kind.name != Task.name else kind.__name__
        self.name, self.unit = name or own, unit or kind.unit
        self.metrics = named_metrics(metrics if metrics is not None else type(self).metrics)

    # ------------------------------------------------------------------------------------- what a user may override

    def inputs(self, batch: Any) -> ExampleInputs:
        """What the network is called with: a tensor, a tuple of positional or a dict of keyword inputs."""
        found: ExampleInputs = inputs_and_target(batch)[0]
        return found

    def target(self, batch: Any) -> Any:
        """What the loss and the metrics compare the network's output with."""
        return inputs_and_target(batch)[1]

    def loss(self, output: Any, target: Any) -> Tensor | None:
        """The mean loss of a batch, a scalar; ``None`` where an output has none (a detector in evaluation mode).

        Raises:
            InputError: The task has no loss.
        """
        if self._loss is None:
            raise InputError(
                f"The task {self.name} has no loss, which training and criteria with gradients need: give "
                "Task(loss=…), a function of output and target."
            )
        return self._loss(output, target)

    def predictions(self, output: Any) -> Any:
        """What metrics are given of the network's output; by default all of it."""
        return output

    def distillation(self, output: Any, wanted: Any, temperature: float) -> Tensor:
        """The loss between a student's and its teacher's output; by default the mean square over all their tensors.

        Raises:
            InputError: The two are not built alike.
        """
        pairs = list(zip(_tensors(output), _tensors(wanted), strict=False))
        if not pairs or any(a.shape != b.shape for a, b in pairs):
            raise InputError(
                f"Distillation compares outputs of the same form; the student gives {shapes(output)} and the teacher "
                f"{shapes(wanted)}. Give the task a distillation(output, wanted, temperature) of its own."
            )
        return sum((F.mse_loss(a.float(), b.float()) for a, b in pairs), torch.zeros(())) / len(pairs)

    def forward(self, model: nn.Module, batch: Batch) -> Any:
        """Calls the network on a batch; some want the target too while they train."""
        return call(model, batch.inputs)

    def finished(self, model: nn.Module, output: Any, batch: Batch) -> Any:
        """What :meth:`forward` gives, of what a file of the network gave for the batch; ``None`` where nobody can say.

        For networks whose :meth:`forward` does more than call them.
        """
        return output

    # ------------------------------------------------------------------------------------------ what the engine asks

    @property
    def leading(self) -> Metric:
        """The metric that chooses the best epoch and stands first in reports."""
        return self.metrics[0] if self.metrics else LOSS

    @property
    def has_loss(self) -> bool:
        """Whether there is a loss to train with."""
        return self._loss is not None or type(self).loss is not Task.loss

    def has(self, split: str) -> bool:
        """Whether there is such a split."""
        return self._of(split) is not None

    def samples(self, split: str) -> int | None:
        """Samples of a split, where that can be known without going through them; 0 where there is none."""
        source = self._of(split)
        return 0 if source is None else source.samples()

    def guess(self, split: str = "test") -> float | None:
        """The leading metric, in percent, of the best guess that does not look at the inputs; ``None``: not known."""
        return None

    def at_chance(self, quality: Mapping[str, Any], split: str = "test") -> bool:
        """Whether a network does no better on a split than such a guess, within two standard errors of its samples.

        NetScore rewards size so much that a network that has learnt nothing can score highest.

        Args:
            quality: Metrics by name, as `secateur.train.Evaluation.to_dict` gives them.
            split: What they were measured on.
        """
        percent, guess = self.leading.percent(quality.get(self.leading.name)), self.guess(split)
        if percent is None or guess is None:
            return False
        return percent <= guess + 2 * math.sqrt(guess * (100 - guess) / max(1, self.samples(split) or 1))

    def steps(self, batch_size: int, processes: int = 1) -> int:
        """Optimiser steps per epoch."""
        return -(-self.source("train").length(-(-batch_size // processes)) // processes)

    def training(self, epoch: Epoch) -> Iterator[Batch]:
        """The training batches of one epoch for one process, on its device."""
        size = -(-epoch.batch_size // epoch.processes)
        batches = self.source("train").seeded(size, *epoch.seeds, shuffle=True)
        mine = itertools.islice(batches, epoch.rank, None, epoch.processes)
        return self.ready(mine, "train", epoch.device, epoch.layout)

    def evaluation(
        self,
        split: str,
        *,
        batch_size: int = 500,
        limit: int | None = None,
        share: tuple[int, int] = (0, 1),
        device: torch.device | None = None,
        layout: torch.memory_format = torch.contiguous_format,
    ) -> Iterator[Batch]:
        """The batches of a split in their order.

        Args:
            split: ``train``, ``validation`` or ``test``.
            batch_size: Samples per batch, where the task makes the batches.
            limit: Stop once there were so many samples.
            share: Number of this process and of all; used where a meter has sums.
            device: Where the batches go.
            layout: Memory format of images.
        """
        batches = self.source(split).epoch(batch_size, "evaluation")
        seen = 0
        for batch in self.ready(batches, split, device or torch.device("cpu"), layout):
            yield batch
            seen += batch.size
            if limit is not None and seen >= limit:
                return

    def meter(self) -> Meter:
        """Something new that adds up the loss and the metrics."""
        return _TaskMeter(self)

    def hits(self, output: Any, target: Any) -> Tensor | None:
        """The sum over a batch of :attr:`running`, where there is such a metric."""
        return None

    def training_loss(self, smoothing: float = 0.0) -> Callable[[Any, Any], Tensor | None]:
        """The loss to train with.

        Raises:
            InputError: Labels are to be smoothed, and there are none.
        """
        if smoothing:
            raise InputError(f"label_smoothing is for class labels; the task {self.name} has none. Set it to 0.")
        return self.loss

    def sample(self, count: int, *, split: str = "train", seed: int = 0) -> ExampleInputs:
        """Inputs of ``count`` samples (fewer if there are not so many): examples, calibration data."""
        parts: list[ExampleInputs] = []
        for batch in self._drawn(split, count, seed):
            parts.append(batch.inputs)
            if sum(map(samples_in, parts)) >= count:
                break
        return joined(parts, count)

    def calibration(self, count: int, *, split: str = "train", seed: int = 0) -> Iterator[tuple[ExampleInputs, Any]]:
        """Pairs of inputs and target, whole batches until there were ``count`` samples: for criteria and repair."""
        seen = 0
        for batch in self._drawn(split, count, seed):
            yield batch.inputs, batch.target
            seen += batch.size
            if seen >= count:
                return

    def __iter__(self) -> Iterator[tuple[ExampleInputs, Any]]:
        """Calibration data, so that a task can be given wherever ``data`` is asked for: 512 training samples."""
        return self.calibration(512)

    def show(self, models: Mapping[str, nn.Module]) -> Shown:
        """What the report shows of networks by role: test samples side by side, curves; nothing by default."""
        return Shown()

    def image_preprocessing(self) -> Preprocessing | None:
        """How an image file becomes an input; ``None`` where inputs are no image files, or nobody can say."""
        return None

    def options(self, model: str) -> dict[str, Any]:
        """What a network of that name is built with for this task: classes, anchors; those of a recipe go first."""
        return {}

    def settings(self) -> dict[str, Any]:
        """Plain data that has to be the same for a checkpoint to be continued."""
        counts = {f"{split}_{self.unit}s": self.samples(split) for split in SPLITS}
        return {"task": self.name, "metric": self.leading.name, **counts}

    def describe(self) -> str:
        """One line about it."""
        words = {"train": "training", "validation": "validation", "test": "test"}
        counted = [f"{count:,} {words[s]}" for s in SPLITS if s in self._sources and (count := self.samples(s))]
        loaders = [words[s] for s in self._sources if self.samples(s) is None]
        tail = [f"a loader of {' and of '.join(loaders)} batches"] if loaders else []
        return f"{self.name}: {', '.join([*counted, *tail])} {self.unit}s".replace(f"batches {self.unit}s", "batches")

    def fingerprint(self, split: str) -> str:
        """SHA-256 of what a split begins with, to find out whether data have changed since a run began."""
        source = self._of(split)
        if source is None:
            return digest_of(None)
        first = next(iter(source.epoch(64, "fingerprint")), None)
        return digest_of((source.samples(), first))

    @cached_property
    def exact(self) -> bool:
        """Whether the training batches are the same for the same seeds, so that a killed run can go on exactly."""
        return repeats(lambda: self.source("train").epoch(64, "repeats", shuffle=True))[1]

    # --------------------------------------------------------------------------------------------------------- inside

    def _of(self, split: str) -> Source | None:
        if split not in SPLITS:
            raise InputError(f"A split is one of {', '.join(SPLITS)}; got {split!r}.")
        return self._sources.get(split)

    def source(self, split: str) -> Source:
        """Where the batches of a split come from.

        Raises:
            InputError: There is no such split.
        """
        found = self._of(split)
        if found is None:
            same = ", the validation loader again if no other samples are to be had" if split == "test" else ""
            raise InputError(f"The task {self.name} has no {split} split: give Task({split}=…){same}.")
        return found

    def ready(
        self,
        batches: Iterator[Any],
        split: str,
        device: torch.device | None = None,
        layout: torch.memory_format = torch.contiguous_format,
    ) -> Iterator[Batch]:
        """The user's batches split into inputs and target, on the device."""
        device = device or torch.device("cpu")
        for number, batch in enumerate(batches, start=1):
            try:
                inputs, target = self.inputs(batch), self.target(batch)
            except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
                if isinstance(error, InputError):
                    raise
                raise InputError(
                    f"Batch {number} of {split} is {form(batch)}, which the task {self.name} cannot split into inputs "
                    f"and target: {first_line(error)}."
                ) from error
            inputs = layout_of(moved(inputs, device), layout)
            yield Batch(inputs, moved(target, device), samples_in(inputs))

    def _drawn(self, split: str, count: int, seed: int) -> Iterator[Batch]:
        """Batches of a split in an order that is drawn from ``seed``."""
        batches = self.source(split).epoch(min(count, 64), "sample", seed, shuffle=True)
        return self.ready(batches, split)


class _TaskMeter(MetricMeter):
    """The meter of a task: metrics see what it calls predictions."""

    def __init__(self, task: Task) -> None:
        super().__init__(task.metrics, task.loss if task.has_loss else None)
        self._task = task

    def update(self, output: Any, target: Any, size: int) -> None:
        self.add(output, self._task.predictions(output), target, size)


def _tensors(value: Any) -> list[Tensor]:
    leaves = pytree.tree_leaves(dict(value) if isinstance(value, Mapping) else value)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]
