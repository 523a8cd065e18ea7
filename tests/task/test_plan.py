"""The plan of an epoch: sizes, shares of processes, seeds."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from secateur.core.seeds import derive
from secateur.data import DataSet, Split
from secateur.task import Epoch
from secateur.task.plan import EpochPlan, plan_epoch, steps_per_epoch


def data_of(images: int) -> DataSet:
    split = Split(torch.zeros(images, 1, 4, 4, dtype=torch.uint8), torch.zeros(images, dtype=torch.int64))
    return DataSet("x", ("a", "b"), (1, 4, 4), split, split, split, (0.5,), (0.5,), pad=1, flip=True)


def plan(images: int, batch_size: int, rank: int = 0, processes: int = 1, epoch: int = 1) -> EpochPlan:
    return plan_epoch(data_of(images), Epoch((0, "t", epoch), batch_size, rank=rank, processes=processes))


@pytest.mark.parametrize("images", [1, 2, 7, 64, 127, 128, 129, 130, 1000])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 64, 128])
def test_steps_are_even_and_cover_the_images(images: int, batch_size: int) -> None:
    found = plan(images, batch_size)
    assert found.size <= batch_size
    assert len(found.order) >= images - 1
    assert len(found.order.unique()) == len(found.order)
    sizes = [len(step) for step in found.order.split(found.size)]
    assert len(sizes) == steps_per_epoch(images, batch_size)
    if batch_size > 1 and images > 1:
        assert min(sizes) > 1  # batch norm cannot take a single image


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("images", [12, 100, 101, 129])
def test_processes_share_every_step_and_its_augmentation(images: int, processes: int) -> None:
    alone = plan(images, 12)
    parts = [plan(images, 12, rank, processes) for rank in range(processes)]
    assert len({-(-len(p.order) // p.size) for p in parts}) == 1
    together = torch.cat([p.order for p in parts])
    assert len(together.unique()) == len(together) >= images - 2 * processes
    tops = {int(i): int(t) for p in parts if p.draws for i, t in zip(p.order, p.draws.top, strict=True)}
    assert alone.draws is not None
    wanted = {int(i): int(t) for i, t in zip(alone.order, alone.draws.top, strict=True)}
    same = [tops[i] == wanted[i] for i in tops if i in wanted]
    assert all(same) or len(alone.order) != len(together)


def test_epochs_differ_and_the_global_generator_has_no_say() -> None:
    first = plan(50, 10)
    torch.manual_seed(99)
    again, other = plan(50, 10), plan(50, 10, epoch=2)
    assert torch.equal(first.order, again.order)
    assert not torch.equal(first.order, other.order)
    assert first.draws is not None
    assert again.draws is not None
    assert torch.equal(first.draws.flip, again.draws.flip)


def test_without_augmentation_nothing_is_drawn() -> None:
    found = plan_epoch(data_of(10), Epoch((0, "t", 1), 128, augment=False))
    assert found.draws is None
    assert found.crop_seed is None
    still = dataclasses.replace(data_of(10), pad=0, flip=False)
    assert plan_epoch(still, Epoch((0, "t", 1), 128)).draws is None


def test_seeds_keep_their_parts_apart() -> None:
    assert derive(1, "1") != derive("11", "")
    assert 0 <= derive("x") < 2**63
