"""Statistics of a network over calibration data, collected in one pass in constant memory.

The traced graph is run operator by operator, and what flows past is added up at once: nothing that grows with the
data is kept. Criteria say what they need by name; a new statistic is a subclass of :class:`Watcher` and one entry
in ``NEEDS``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Interpreter, Node
from torch.utils import _pytree as pytree

from secateur.core import arguments
from secateur.core.errors import InputError, SecateurError
from secateur.core.inputs import Batch, Data, batches, pieces
from secateur.core.plan import Plan
from secateur.core.registry import Registry
from secateur.criteria.base import Criterion, NotApplicable
from secateur.graph.calling import preserved_rng
from secateur.graph.flow import Flow, module_of
from secateur.graph.groups import Groups
from secateur.graph.traced import Traced
from secateur.graph.writes import written

__all__ = [
    "NEEDS",
    "Collecting",
    "Dense",
    "Learner",
    "Loss",
    "Need",
    "Statistic",
    "Watcher",
    "check_run",
    "collect",
    "needed_data",
    "runs",
    "watch",
]  # fmt: skip

Loss = Callable[[Any, Any], Tensor]
"""From the network's output and the labels to the mean loss of the samples."""


@dataclass(frozen=True)
class Dense:
    """The network that was cut before, as it was before its first cut.

    Attributes:
        plan: What was cut since.
        flow: Labels it, when it is first asked for; ``None`` where the network is not known any more.
    """

    plan: Plan
    flow: Callable[[], Flow] | None


@dataclass(frozen=True)
class Collecting:
    """What statistics are collected with.

    Attributes:
        groups: All groups of the network.
        seed: Of statistics that sample.
        loss: Of statistics that need gradients; ``None`` for cross-entropy.
        measure: What the cut aims at (``macs``, ``params`` …), for criteria that weigh by it; ``None`` for a ratio.
        dense: The network before its first cut, for criteria that look at its responses; ``None`` where this is the
            first cut.
    """

    groups: Groups
    seed: int = 0
    loss: Loss | None = None
    measure: str | None = None
    dense: Dense | None = None


class Statistic(ABC):
    """Something that is known of every group once the pass is over.

    Attributes:
        notes: What the user should know of the data.
    """

    notes: tuple[str, ...] = ()

    def __init__(self, setting: Collecting) -> None:
        """Prepares; nothing has been seen yet."""
        self.groups = setting.groups

    def finish(self) -> None:  # noqa: B027 (most have nothing left to do)
        """Computes what can only be computed once all data were seen."""

    @abstractmethod
    def of(self, number: int) -> Any:
        """What was found for the group with this number.

        Raises:
            NotApplicable: The network has nothing of the kind there.
        """


class Watcher(Statistic):
    """A statistic of values that flow through the network; one forward pass serves all of them."""

    nodes: Sequence[Node] = ()
    """Operators to be called about, in :meth:`see`."""

    @abstractmethod
    def see(self, node: Node, value: Tensor, inputs: Sequence[Any]) -> None:
        """Adds up what operator ``node`` makes of ``inputs``, for one batch."""


class Learner(Statistic):
    """A statistic that runs the network itself."""

    @abstractmethod
    def learn(self, batch: Batch) -> None:
        """Adds up one batch."""


@dataclass(frozen=True)
class Need:
    """A kind of statistic.

    Attributes:
        make: Its class.
        data: What the data have to hold: ``""`` for no data at all, ``inputs``, or ``inputs, labels``.
        measured: Whether a clock says it, so that it is another one each time.
    """

    make: Callable[[Collecting], Statistic]
    data: str
    measured: bool = False


NEEDS: Registry[Need] = Registry("statistic")
"""What criteria may need, by name."""


def collect(
    criterion: Criterion, setting: Collecting, data: Data | None
) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """Collects statistics in one pass over ``data``.

    Args:
        criterion: Whose needs are collected.
        setting: The groups, and how to sample and compute losses.
        data: Calibration data; may be ``None`` where nothing needs them.

    Returns:
        What was found by name, for every group (the reason, a :class:`NotApplicable`, where there is nothing to
        find), and notes for the user.

    Raises:
        InputError: Data that are missing or do not fit, labels that are missing, NaN activations.
    """
    _check(criterion, data)
    traced = setting.groups.flow.traced
    with preserved_rng(*(v for v in (*traced.args, *traced.kwargs.values()) if isinstance(v, Tensor))):
        found = {name: NEEDS[name].make(setting) for name in criterion.needs}
        notes: tuple[str, ...] = ()
        if data is not None and needed_data(criterion):
            notes = _Pass(traced, list(found.values()), criterion).over(data)
            for statistic in found.values():
                statistic.finish()
                notes += statistic.notes
    return [{name: _of(s, number) for name, s in found.items()} for number in range(len(setting.groups.items))], notes


@arguments.checked
def needed_data(criterion: Criterion) -> str:
    """What data a criterion needs: nothing (``""``), ``inputs``, or ``inputs, labels``."""
    return max((NEEDS[need].data for need in criterion.needs), key=len, default="")


def _check(criterion: Criterion, data: Data | None) -> None:
    wanted = needed_data(criterion)
    if wanted and data is None:
        what = "pairs (inputs, labels)" if "labels" in wanted else "inputs"
        raise InputError(
            f"The criterion {criterion.name!r} needs calibration data: data=…, an iterable of batches of {what} (a "
            "DataLoader, a list). On the command line --data."
        )


def _of(statistic: Statistic, number: int) -> Any:
    try:
        return statistic.of(number)
    except NotApplicable as reason:
        return reason


class _Pass:
    """One pass over the data."""

    def __init__(self, traced: Traced, statistics: Sequence[Statistic], criterion: Criterion) -> None:
        self.traced, self.criterion = traced, criterion.name
        self.labels = "labels" in needed_data(criterion)
        self.watchers = [s for s in statistics if isinstance(s, Watcher)]
        self.learners = [s for s in statistics if isinstance(s, Learner)]
        self.left_out, self.free = 0, None if traced.dynamic else False

    def over(self, data: Data) -> tuple[str, ...]:
        seen = 0
        for batch in batches(data, self.traced):
            if self.labels and batch.labels is None:
                raise InputError(
                    f"The criterion {self.criterion!r} needs labels: every item of data is a pair (inputs, labels); "
                    f"batch {batch.number} has inputs alone."
                )
            for call in self._calls(batch):
                self._one(call)
                seen += call.size
        if not seen:
            raise InputError(
                f"The network was traced with batches of exactly {self.traced.batch} samples, and no batch of the "
                "data has as many. Give larger batches, or example inputs of another size."
            )
        if not self.left_out:
            return ()
        return (f"{self.left_out} samples of the data left out: the network takes {self.traced.batch} at a time",)

    def _calls(self, batch: Batch) -> Iterator[Batch]:
        """A batch as it is, or cut to the only size that the network takes."""
        size = self.traced.batch
        if self.free is None:
            self.free = runs(self.traced, batch, min(batch.size, size + 1))
        if not self.free:
            self.left_out += batch.size % size
        yield from [batch] if self.free else pieces(batch, size, self.traced)

    def _one(self, batch: Batch) -> None:
        try:
            if self.watchers:
                watch(self.traced, self.watchers, batch)
            for learner in self.learners:
                learner.learn(batch)
        except SecateurError:
            raise
        except Exception as error:
            reason = (str(error).strip().splitlines() or [""])[0][:200]
            raise InputError(
                f"The network{' or its loss' * self.labels} does not run on batch {batch.number} of the data: "
                f"{type(error).__name__}: {reason}"
            ) from error


def check_run(traced: Traced, batch: Batch) -> None:
    """Runs the network on ``batch``; raises :class:`InputError` with the name of the module whose output is NaN."""
    watch(traced, [], batch)


def runs(traced: Traced, batch: Batch, size: int) -> bool:
    """Whether the network takes ``size`` samples: a size that is traced as free may be bound all the same."""
    try:
        watch(traced, [], next(pieces(batch, size, traced)))
    except SecateurError:
        return True  # what it says of the data is said when they are counted
    except Exception:
        return size == traced.batch
    return True


def watch(traced: Traced, watchers: Sequence[Watcher], batch: Batch) -> None:
    """Runs the network on ``batch`` and shows ``watchers`` what they ask for."""
    with torch.no_grad():
        _Watched(traced, watchers).run(*pytree.tree_leaves(batch.copied()), enable_io_processing=False)


class _Watched(Interpreter):
    """Runs the graph, shows the watchers what they asked for, and stops at the first NaN that they would count."""

    def __init__(self, traced: Traced, watchers: Sequence[Watcher]) -> None:
        super().__init__(traced.module)
        self._asked: dict[Node, list[Watcher]] = {}
        for watcher in watchers:
            for node in dict.fromkeys(watcher.nodes):
                self._asked.setdefault(node, []).append(watcher)
        self._own = written(traced.module)  # a network that changes itself changes copies here

    def run_node(self, n: Node) -> Any:
        if n.op == "get_attr" and n.target in self._own:
            return self._own[str(n.target)]
        asked = self._asked.get(n, ())
        inputs = [_detached(self.env[a]) if isinstance(a, Node) else a for a in n.args] if asked else []
        value = super().run_node(n)
        if n.op == "call_function":
            check_finite(n, value, infinite=bool(asked))
        for watcher in asked:
            watcher.see(n, value, inputs)
        return value


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def check_finite(node: Node, value: Any, *, infinite: bool) -> None:
    """Refuses values that are NaN, or ``infinite`` where they are counted (a mask of attention may be).

    Raises:
        InputError: Names the module that gave them.
    """
    if not (isinstance(value, Tensor) and value.is_floating_point()) or torch.isfinite(value.sum()):
        return
    bad = int((~torch.isfinite(value) if infinite else torch.isnan(value)).sum())
    if bad:
        where = module_of(node) or "(top level)"
        raise InputError(
            f"The activations of the module {where!r} ({node.target}) hold {bad} NaN or infinite values of "
            f"{value.numel()} on the calibration data; scores would mean nothing. Check how the data are normalised, "
            "and the weights."
        )
