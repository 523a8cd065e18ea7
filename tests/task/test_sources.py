"""Where batches come from: loaders of all kinds, seeded, endless, empty and used up."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

import secateur
from secateur.core.errors import InputError
from secateur.task import try_task
from secateur.task.sources import Source, digest_of, repeats

X, Y = torch.arange(12.0)[:, None], torch.arange(12)


class Noisy(Dataset[tuple[Tensor, Tensor]]):
    """Draws from all three of the global random states."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        drawn = torch.rand(()).item() + float(np.random.rand()) + random.random()
        return X[index] + drawn, Y[index]


class Stream(IterableDataset[Tensor]):
    def __iter__(self) -> Iterator[Tensor]:
        yield from torch.rand(9, 2)


def once(source: Source, *seeds: object) -> list[str]:
    return [digest_of(batch) for batch in source.epoch(4, *seeds, shuffle=True)]


def own() -> torch.Generator:
    return torch.Generator()


LOADERS = {
    "shuffled": lambda: DataLoader(TensorDataset(X, Y), 4, shuffle=True),
    "own generator": lambda: DataLoader(TensorDataset(X, Y), 4, shuffle=True, generator=own()),
    "sampler": lambda: DataLoader(TensorDataset(X, Y), 4, sampler=RandomSampler(X, generator=own())),
    "weighted": lambda: DataLoader(
        TensorDataset(X, Y), 4, sampler=WeightedRandomSampler([1.0] * 12, 12, generator=own())
    ),
    "sampler of batches": lambda: DataLoader(
        TensorDataset(X, Y), batch_sampler=BatchSampler(RandomSampler(X, generator=own()), 4, False)
    ),
    "noise": lambda: DataLoader(Noisy(), 4, shuffle=True),
    "workers": lambda: DataLoader(Noisy(), 4, shuffle=True, num_workers=2),
    "stream": lambda: DataLoader(Stream(), 4),
    "data set": lambda: Noisy(),
    "tensors": lambda: (X, Y),
    "list": lambda: [(X[:4], Y[:4]), (X[4:], Y[4:])],
    "function": lambda: lambda: iter([(torch.rand(4, 1), Y[:4])]),
}  # fmt: skip


@pytest.mark.parametrize("kind", LOADERS)
def test_the_same_seeds_give_the_same_batches(kind: str) -> None:
    source, again = Source("train", LOADERS[kind]()), Source("train", LOADERS[kind]())
    first = once(source, 0, 1)
    other = once(source, 0, 2)
    assert once(source, 0, 1) == first
    torch.rand(7)  # what others draw has no say
    assert once(again, 0, 1) == first
    assert (other == first) == (kind == "list")


def test_persistent_workers_are_found_out() -> None:
    """They keep the random states that they were started with, so no seed reaches them; their order does repeat."""
    loader = DataLoader(Noisy(), 4, num_workers=1, persistent_workers=True)
    source = Source("train", loader)
    count, same = repeats(lambda: source.epoch(4, 0))
    assert count == 3
    assert isinstance(same, bool)


def test_a_loader_that_cannot_be_seeded_is_found_out() -> None:
    hidden = torch.Generator().manual_seed(5)
    loader = Source("train", lambda: iter([torch.rand(2, generator=hidden)]))
    assert repeats(lambda: loader.epoch(4, 0)) == (1, False)


def test_one_shot_iterators_are_empty_the_second_time() -> None:
    source = Source("train", (batch for batch in [X[:4], X[4:]]))
    assert repeats(lambda: source.epoch(4, 0)) == (2, False)
    assert once(source, 0) == []


def test_endless_loaders_want_steps() -> None:
    def endless() -> Iterator[Tensor]:
        while True:
            yield X

    with pytest.raises(InputError, match=r"does not say how many batches it has.*Task\(steps=…\)"):
        Source("train", endless).length(4)
    source = Source("train", endless, steps=3)
    assert source.length(4) == 3
    assert len(once(source, 0)) == 3
    assert Source("train", DataLoader(TensorDataset(X), 4), steps=2).length(7) == 2
    with pytest.raises(InputError, match="at least 1; got 0"):
        Source("train", endless, steps=0)


@pytest.mark.parametrize("given", [X, "images", {"a": X}, 7, None, b"x"])
def test_what_no_batches_come_from(given: object) -> None:
    with pytest.raises(InputError, match=r"Task\(test=…\) wants a DataLoader"):
        Source("test", given)


def test_a_function_has_to_give_an_iterator() -> None:
    with pytest.raises(InputError, match="the function gave int, no iterator"):
        list(Source("train", lambda: 7).epoch(4, 0))


def test_counts_and_the_last_batch_of_one() -> None:
    source = Source("train", (torch.zeros(9, 2), torch.zeros(9)))
    assert (source.samples(), source.length(4)) == (9, 3)
    assert [len(b[0]) for b in source.epoch(4, 0)] == [4, 4, 1]
    assert [len(b[0]) for b in source.epoch(4, 0, shuffle=True)] == [4, 4], "batch norm has no statistics of one"
    assert Source("train", DataLoader(TensorDataset(X), 5)).samples() == 12
    assert Source("train", DataLoader(Stream(), 5)).samples() is None


def test_tuples_hold_as_many_targets_as_inputs() -> None:
    with pytest.raises(InputError, match=r"as many of each; this one has 12, 11\."):
        Source("train", (X, Y[:11]))
    with pytest.raises(InputError, match="this one has nothing"):
        Source("train", ())
    with pytest.raises(InputError, match="this one has 12, no length"):
        Source("train", (X, torch.tensor(1)))


def test_digests_tell_values_types_and_shapes_apart() -> None:
    values = [torch.zeros(2), torch.zeros(2, 1), torch.zeros(2).double(), np.zeros(3), "a", 1, [1, 2], {"a": X}]
    assert len({digest_of(v) for v in values}) == len(values)
    assert digest_of(np.zeros(2)) == digest_of(torch.zeros(2).double())
    assert digest_of([torch.tensor([])]) != digest_of([])


def test_the_random_numbers_of_whoever_asks_stay_as_they_are() -> None:
    data = TensorDataset(torch.arange(40.0).view(20, 2), torch.zeros(20, 1))
    loader = DataLoader(data, 4, shuffle=True)
    task = secateur.Task(train=loader, validation=loader, test=loader, loss=nn.functional.mse_loss)
    net = nn.Linear(2, 1)
    asks: dict[str, Callable[[], object]] = {
        "evaluate": lambda: secateur.evaluate(net, task),
        "sample": lambda: task.sample(3),
        "calibration": lambda: list(task),
        "exact": lambda: task.exact,
        "fingerprint": lambda: task.fingerprint("test"),
        "try_task": lambda: try_task(task, net),
    }
    for name, ask in asks.items():
        torch.manual_seed(5)
        np.random.seed(5)
        random.seed(5)
        wanted = torch.rand(1), np.random.rand(), random.random()
        torch.manual_seed(5)
        np.random.seed(5)
        random.seed(5)
        ask()
        assert (torch.rand(1), np.random.rand(), random.random()) == wanted, name


def test_batches_do_not_depend_on_what_is_drawn_between_them() -> None:
    def noisy() -> Iterator[Tensor]:
        for _ in range(3):
            yield torch.rand(2)

    source = Source("test", noisy, 3)
    plain = list(source.epoch(1, "a"))
    disturbed = []
    for batch in source.epoch(1, "a"):
        torch.rand(7)
        disturbed.append(batch)
    assert all(torch.equal(a, b) for a, b in zip(plain, disturbed, strict=True))
