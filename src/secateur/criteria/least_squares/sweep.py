"""One sweep through networks: stop by stop, in the order of execution, over all batches at every stop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from secateur.core.progress import watched
from secateur.criteria.least_squares.shelf import Shelf
from secateur.criteria.least_squares.walk import Store, Values, Walker

__all__ = ["Adjustment", "Later", "Stops", "Sweep", "sweep"]


class Adjustment(ABC):
    """A place where something is measured over all batches, and then changed.

    Attributes:
        name: For messages.
        passes: How often the batches are shown.
        notes: What the user should know.
    """

    name: str = ""
    passes: int = 1

    def __init__(self) -> None:
        """No notes yet."""
        self.notes: list[str] = []

    @abstractmethod
    def until(self) -> tuple[int, ...]:
        """How many operators of every network run before the stop (one that has gone further stays there)."""

    @abstractmethod
    def see(self, turn: int, index: int, values: Sequence[Values]) -> None:
        """One batch: the round, its number, and what every network knows of it."""

    def sums(self, turn: int) -> Sequence[Tensor]:
        """What a round has summed up over the samples, to be added up in place where processes share these."""
        return ()

    @abstractmethod
    def finish(self, turn: int) -> None:
        """After all batches of a round."""


@dataclass(frozen=True)
class Later:
    """A stop that is made when the sweep comes there, so that one layer's sums are in memory at a time.

    Attributes:
        name: For messages.
        make: Makes it.
    """

    name: str
    make: Callable[[], Adjustment]


Stops = Sequence[Adjustment | Later]


class Sweep:
    """A walk from stop to stop; every operator runs once per batch, whatever the number of stops.

    What is alive between two stops is kept per batch, in memory up to a limit and in temporary files beyond, so memory
    does not grow with the number of samples.
    """

    def __init__(
        self,
        walkers: Sequence[Walker],
        shelf: Shelf | None = None,
        what: str = "Refitting",
        over_processes: bool = False,
    ) -> None:
        """``walkers`` are the networks, side by side; ``what`` is done at the stops, for who watches."""
        self._what, self._over_processes = what, over_processes
        self._walkers = walkers
        self._shelf = Shelf() if shelf is None else shelf
        self._store = Store(walkers, self._shelf)
        self._samples = 0

    def add(self, batch: Any) -> None:
        """Takes a batch of inputs."""
        self._store.add([w.begin(batch) for w in self._walkers])
        self._samples += next(t.shape[0] for t in pytree.tree_leaves(batch) if isinstance(t, Tensor) and t.ndim)

    def run(self, plan: Callable[[int], Stops], after: Callable[[Adjustment], None] | None = None) -> list[str]:
        """Walks to the end; nothing is kept behind it.

        Args:
            plan: Is told how many samples there are, and says where to stop.
            after: Is given every stop when it is done.

        Returns:
            The stops' notes, each with the name of its layer.
        """
        at, notes = [0] * len(self._walkers), list[str]()
        try:
            with torch.no_grad():
                stops = plan(int(self._added(torch.tensor(self._samples))))
                with watched(stops, self._what, "layers", lambda stop: stop.name) as told:
                    for planned in told:
                        stop = planned.make() if isinstance(planned, Later) else planned
                        at = self._visit(stop, at)
                        notes += [f"{stop.name}: {note}" for note in stop.notes]
                        if after is not None:
                            after(stop)
                        del stop
        except BaseException:
            self.close()
            raise
        self._store.close()
        return notes

    def _visit(self, stop: Adjustment, at: Sequence[int]) -> list[int]:
        """Takes every batch to the stop; later rounds find it there."""
        until, store = stop.until(), self._store
        for turn in range(stop.passes):
            for index in range(len(store)):
                values = store.get(index) if turn else store.take(index)
                if turn == 0:
                    for walker, part, start, end in zip(self._walkers, values, at, until, strict=True):
                        walker.advance(part, start, end)
                    store.put(index, values)
                stop.see(turn, index, values)
            for found in stop.sums(turn):
                self._added(found)
            stop.finish(turn)
        return [max(a, u) for a, u in zip(at, until, strict=True)]

    def _added(self, found: Tensor) -> Tensor:
        """Added up over all processes, in place."""
        if self._over_processes:
            torch.distributed.all_reduce(found)
        return found

    def close(self) -> None:
        """Forgets all that is on the shelf."""
        self._shelf.close()


def sweep(
    walkers: Sequence[Walker],
    batches: Iterable[Any],
    plan: Callable[[int], Stops],
    memory_bytes: int | None = None,
    after: Callable[[Adjustment], None] | None = None,
    over_processes: bool = False,
) -> list[str]:
    """Walks through networks with all ``batches``: see :class:`Sweep`."""
    walk = Sweep(walkers, Shelf(memory_bytes), over_processes=over_processes)
    try:
        for batch in batches:
            walk.add(batch)
        return walk.run(plan, after)
    finally:
        walk.close()
