"""Where a task's batches come from: loaders, data sets, lists and functions of the user's, gone through by epochs.

An epoch is seeded: before it, PyTorch's, NumPy's and Python's global random numbers are set from a seed, and so are
the generators that a loader has of its own. Outside of training the global numbers are the caller's again after every
batch (:func:`apart`). A loader that draws its order and augmentation from these gives the same
batches for the same seed, and a run that was killed goes on exactly. :func:`repeats` finds out by asking twice.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from secateur.core.errors import InputError
from secateur.core.seeds import derive

__all__ = ["Source", "apart", "digest_of", "repeats", "seed_everything"]

_FIRST = 8  # batches that are looked at before an end is given up


@dataclass(frozen=True)
class Source:
    """The batches of one split.

    Attributes:
        split: ``train``, ``validation`` or ``test``; for messages.
        given: What the user gave.
        steps: Batches that make an epoch, where the loader does not say it or says too many.
    """

    split: str
    given: Any
    steps: int | None = None

    def __post_init__(self) -> None:
        """Checks that batches can come of it, without asking for one."""
        given = self.given
        fine = isinstance(given, DataLoader | Dataset | tuple | list) or callable(given) or isinstance(given, Iterable)
        if isinstance(given, str | bytes | Tensor | dict) or not fine:
            raise InputError(
                f"Task({self.split}=…) wants a DataLoader, a Dataset, a tuple of tensors (all inputs, all targets), a "
                f"list of batches or a function that makes an iterator of them; got {type(given).__name__}."
            )
        if isinstance(given, tuple):
            _check_tuple(self.split, given)
        if self.steps is not None and self.steps < 1:
            raise InputError(f"Task(steps=…) is the number of batches of an epoch, at least 1; got {self.steps}.")

    @property
    def own_batches(self) -> bool:
        """Whether the batches are the user's; else they are made here, of the size that is asked for."""
        return not isinstance(self.given, tuple) and not _is_data_set(self.given)

    def samples(self) -> int | None:
        """Number of samples, where it can be known without going through them."""
        given = self.given
        if isinstance(given, DataLoader):
            given = given.dataset
        if isinstance(given, tuple):
            return len(given[0])
        if _is_data_set(given):
            return len(given)
        return None

    def length(self, batch_size: int) -> int:
        """Batches of an epoch.

        Raises:
            InputError: Nothing says how many there are.
        """
        if not self.own_batches:
            found: int | None = -(-(self.samples() or 0) // batch_size)
        else:
            try:
                found = len(self.given)
            except TypeError:
                found = None
        if found is None and self.steps is None:
            raise InputError(
                f"The {self.split} loader ({type(self.given).__name__}) does not say how many batches it has, and may "
                "go on for ever: give Task(steps=…), the number of batches that make an epoch."
            )
        counts = [n for n in (found, self.steps) if n is not None]
        return min(counts)

    def epoch(self, batch_size: int, *seeds: object, shuffle: bool = False) -> Iterator[Any]:
        """The user's batches of one epoch; the global random numbers of whoever asks stay as they are.

        Args:
            batch_size: Samples per batch where they are made here.
            seeds: What the order and augmentation depend on.
            shuffle: Whether batches that are made here come in an order drawn from ``seeds``.
        """
        return apart(self.seeded(batch_size, *seeds, shuffle=shuffle))

    def seeded(self, batch_size: int, *seeds: object, shuffle: bool = False) -> Iterator[Any]:
        """The same for training, which goes on with the global random numbers: they are seeded at the first batch."""
        seed_everything(*seeds, self.split)
        if self.own_batches:
            yield from itertools.islice(self._iterator(*seeds), self.steps)
            return
        count = self.samples() or 0
        generator = torch.Generator().manual_seed(derive(*seeds, self.split, "order"))
        order = torch.randperm(count, generator=generator) if shuffle else torch.arange(count)
        parts = torch.split(order, batch_size)
        if shuffle and len(parts) > 1 and len(parts[-1]) == 1:
            parts = parts[:-1]  # batch norm has no statistics of one value
        yield from (self._made(part) for part in itertools.islice(parts, self.steps))

    def _iterator(self, *seeds: object) -> Iterator[Any]:
        given = self.given
        if isinstance(given, DataLoader):
            _seed_loader(given, derive(*seeds, self.split, "loader"))
        found = given() if callable(given) and not isinstance(given, Iterable) else given
        if not isinstance(found, Iterable):
            raise InputError(f"Task({self.split}=…): the function gave {type(found).__name__}, no iterator of batches.")
        return iter(found)

    def _made(self, index: Tensor) -> Any:
        if isinstance(self.given, tuple):
            return tuple(value[index] for value in self.given)
        return default_collate([self.given[int(i)] for i in index])


def _check_tuple(split: str, given: tuple[Any, ...]) -> None:
    """A target too few would move none to its sample, but end in an index beyond the last, or in silence."""
    counts = [
        len(value) if hasattr(value, "__len__") and getattr(value, "ndim", None) != 0 else None for value in given
    ]
    if not given or len(set(counts)) != 1 or None in counts:
        words = ", ".join("no length" if count is None else f"{count:,}" for count in counts) or "nothing"
        raise InputError(
            f"Task({split}=…): a tuple holds all inputs and all targets, as many of each; this one has {words}. "
            "Batches come in a list."
        )


def _is_data_set(given: Any) -> bool:
    return isinstance(given, Dataset) and not isinstance(given, IterableDataset) and hasattr(given, "__len__")


def seed_everything(*seeds: object) -> None:
    """Sets PyTorch's, NumPy's and Python's global random numbers from anything."""
    seed = derive(*seeds, "global")
    torch.default_generator.manual_seed(seed)  # the CPU's: loaders draw there, and a GPU's stay the caller's
    np.random.seed(seed % 2**32)
    random.seed(seed)


def apart(batches: Iterator[Any]) -> Iterator[Any]:
    """The same batches, drawn from global random numbers of their own: the caller's come back after each of them."""
    own: tuple[Any, ...] | None = None
    while True:
        callers = _random_states()
        if own is not None:
            _set_random_states(own)
        try:
            batch = next(batches)
        except StopIteration:
            return
        finally:
            own = _random_states()
            _set_random_states(callers)
        yield batch


def _random_states() -> tuple[Any, ...]:
    return torch.get_rng_state(), np.random.get_state(), random.getstate()


def _set_random_states(states: tuple[Any, ...]) -> None:
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])
    random.setstate(states[2])


def _seed_loader(loader: DataLoader[Any], seed: int) -> None:
    """Seeds the generators that a loader, its sampler and the sampler of its batches have of their own."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    for holder in (loader, loader.sampler, batch_sampler, getattr(batch_sampler, "sampler", None)):
        generator = getattr(holder, "generator", None)
        if isinstance(generator, torch.Generator):
            generator.manual_seed(seed)
        set_epoch = getattr(holder, "set_epoch", None)
        if callable(set_epoch):
            set_epoch(seed % 2**31)


def repeats(make: Callable[[], Iterable[Any]]) -> tuple[int, bool]:
    """Asks for the first batches twice.

    Returns:
        How many batches came (of the first few), and whether the second time gave the same.
    """
    first = [digest_of(batch) for batch in itertools.islice(make(), _FIRST)]
    second = [digest_of(batch) for batch in itertools.islice(make(), _FIRST)]
    return len(first), first == second


def digest_of(value: Any) -> str:
    """SHA-256 of a batch: its tensors, arrays and plain values."""
    digest = hashlib.sha256()
    for leaf in pytree.tree_leaves(value):
        if isinstance(leaf, np.ndarray):
            leaf = torch.from_numpy(np.ascontiguousarray(leaf)) if leaf.dtype.kind in "biuf" else leaf.tolist()
        if isinstance(leaf, Tensor):
            digest.update(f"{leaf.dtype}{tuple(leaf.shape)}".encode())
            digest.update(leaf.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        else:
            fields = getattr(leaf, "__dict__", None)
            digest.update(digest_of(fields).encode() if fields else repr(leaf).encode())
    return digest.hexdigest()
