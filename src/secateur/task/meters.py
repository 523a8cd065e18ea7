"""What adds up how well a network does over a split: the loss and every metric of a task."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from functools import partial
from typing import Any, Protocol

from torch import Tensor
from torch.utils import _pytree as pytree

from secateur.core.errors import InputError, first_line
from secateur.core.metric import Metric
from secateur.task.batch import shapes

__all__ = ["Meter", "MetricMeter", "named_metrics"]


class Meter(Protocol):
    """Takes the batches of a split one after the other, and gives the numbers at the end.

    Attributes:
        sums: Where all numbers are quotients of sums, the sums: processes that share a split add theirs up. ``None``
            where they are not, and every process goes through the whole split.
    """

    sums: Tensor | None

    def update(self, output: Any, target: Any, size: int) -> None:
        """Adds one batch.

        Args:
            output: What the network gave, in float32.
            target: What the task gave beside the inputs, on the device of the inputs.
            size: Samples in the batch.
        """

    def compute(self) -> dict[str, float]:
        """The metrics by name, with the mean ``loss`` where there is one."""


def named_metrics(given: Mapping[str, Any] | Sequence[Metric] | None) -> tuple[Metric, ...]:
    """Metrics as a task was given them, with their names and directions.

    Args:
        given: By name: a metric of torchmetrics, a function of outputs and targets that gives a number wrapped in a
            :class:`~secateur.core.metric.Metric` that says which way is better, or such a wrapped metric of
            torchmetrics. The first one leads: it chooses the best epoch and stands first in reports.

    Raises:
        InputError: A direction that nobody says, or something that is no metric.
    """
    if given is None:
        return ()
    if not isinstance(given, Mapping):
        given = {metric.name: metric for metric in given}
    return tuple(_named(str(name), value) for name, value in given.items())


def _named(name: str, value: Any) -> Metric:
    metric = value if isinstance(value, Metric) else Metric(value)
    measure = metric.measure
    if not name.isidentifier() or name == "loss":
        raise InputError(f"metrics=…: the name of a metric is a word like mae, and not loss; got {name!r}.")
    if measure is not None and not (_is_tracker(measure) or callable(measure)):
        raise InputError(
            f"metrics={{{name!r}: …}} wants a metric of torchmetrics, or secateur.Metric(function, better='lower'); "
            f"got {type(measure).__name__}."
        )
    better = metric.better
    if better is None and _is_tracker(measure):
        higher = getattr(measure, "higher_is_better", None)
        better = None if higher is None else "higher" if higher else "lower"
    if better is None:
        raise InputError(
            f"metrics={{{name!r}: …}}: nothing says which way is better. Wrap it: secateur.Metric(…, better='lower') "
            "or better='higher'."
        )
    share = metric is not value and metric.format == "number" and _is_share(measure)
    return Metric(measure, better, "share" if share else metric.format, metric.title, name, metric.digits)


def _is_tracker(measure: Any) -> bool:
    return all(callable(getattr(measure, method, None)) for method in ("update", "compute", "reset"))


def _is_share(measure: Any) -> bool:
    """Whether a metric of torchmetrics is one of those that are written in percent."""
    home = type(measure).__module__
    kinds = ("torchmetrics.classification", "torchmetrics.detection", "torchmetrics.segmentation")
    return home.startswith(kinds) and getattr(measure, "plot_upper_bound", None) == 1


class MetricMeter:
    """Adds up the loss and any metrics.

    Several names may stand for one metric that gives a dict of numbers (torchmetrics' mean average precision): it is
    asked once, and each name takes its own.
    """

    sums: Tensor | None = None

    def __init__(self, metrics: Sequence[Metric], loss: Callable[[Any, Any], Tensor | None] | None) -> None:
        """Nothing is added yet; trackers are copied, so that the user's keep their state."""
        self._metrics, self._loss = metrics, loss
        copies: dict[int, Any] = {}
        self._trackers: dict[str, Any] = {}
        for metric in metrics:
            if _is_tracker(metric.measure):
                made = copies.setdefault(id(metric.measure), copy.deepcopy(metric.measure))
                self._trackers[metric.name] = made
        self._distinct = list(copies.values())
        for tracker in self._distinct:
            tracker.reset()
        self._totals = {metric.name: 0.0 for metric in metrics if metric.name not in self._trackers}
        self._losses, self._seen = 0.0, 0

    def update(self, output: Any, target: Any, size: int) -> None:
        """Adds one batch; see :class:`Meter`."""
        self.add(output, output, target, size)

    def add(self, output: Any, predictions: Any, target: Any, size: int) -> None:
        """Adds one batch: the loss of the output, and the metrics of what is predicted by it."""
        loss = self._loss(output, target) if self._loss is not None else None
        if loss is None:
            self._loss = None
        else:
            self._losses += float(loss) * size
        self._seen += size
        for tracker in self._distinct:
            name = next(n for n, t in self._trackers.items() if t is tracker)
            self._asked(name, partial(_on_device(tracker, predictions).update, predictions, target), predictions)
        for metric in self._metrics:
            if metric.name in self._totals:
                measured = self._asked(metric.name, partial(metric.measure, predictions, target), predictions)
                self._totals[metric.name] += number(metric.name, measured) * size

    def compute(self) -> dict[str, float]:
        """See :class:`Meter`."""
        found: dict[str, float] = {}
        results = {id(t): self._asked("", t.compute, None) for t in self._distinct}
        for metric in self._metrics:
            if metric.name in self._totals:
                found[metric.name] = self._totals[metric.name] / max(1, self._seen)
            else:
                found[metric.name] = number(metric.name, results[id(self._trackers[metric.name])])
        if self._loss is not None:
            found["loss"] = self._losses / max(1, self._seen)
        return found

    def _asked(self, name: str, ask: Callable[[], Any], output: Any) -> Any:
        try:
            with warnings.catch_warnings():
                # "compute was called before update" and the like are about how a metric is used here, not by the user.
                warnings.filterwarnings("ignore", module="torchmetrics")
                return ask()
        except (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
            what = f"The metric {name}" if name else "A metric"
            shape = f" for an output of {shapes(output)}" if output is not None else ""
            raise InputError(
                f"{what} does not take what the network gives{shape}: {first_line(error)}. The task's "
                "predictions(output) says what metrics are given."
            ) from error


def number(name: str, value: Any) -> float:
    """A metric's value as a number.

    Raises:
        InputError: It is none.
    """
    if is_dataclass(value) and not isinstance(value, type):
        value = vars(value)
    if isinstance(value, Mapping):
        if name not in value:
            raise InputError(
                f"The metric {name} gives several numbers: {', '.join(map(str, value))}. Name it after the one that "
                "you want."
            )
        value = value[name]
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise InputError(f"The metric {name} gives a tensor of shape {tuple(value.shape)}; wanted one number.")
        value = value.item()
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"The metric {name} gives {type(value).__name__}; wanted one number.") from error


def _on_device(tracker: Any, output: Any) -> Any:
    tensor = next((t for t in pytree.tree_leaves(output) if isinstance(t, Tensor)), None)
    return tracker.to(tensor.device) if tensor is not None and hasattr(tracker, "to") else tracker
