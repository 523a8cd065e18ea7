"""Methods that libraries put in the place of a module's forward take the new sizes too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.core.plan import Place


class Halves(nn.Module):
    """Its forward asks the tensor for its halves; what an exporter calls instead has the size in an attribute."""

    def __init__(self, width: int, *, inner: int | None = None) -> None:
        super().__init__()
        self.c, self.steps = inner or width // 2, 32
        self.cv1, self.cv2 = nn.Conv2d(width, 2 * self.c, 1), nn.Conv2d(2 * self.c, width, 1)
        self.m = nn.Conv2d(self.c, self.c, 3, padding=1)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.cv1(x).chunk(2, 1)
        return self.cv2(torch.cat([a, self.m(b).relu()], 1))

    def forward_split(self, x: Tensor) -> Tensor:
        self.calls += 1
        a, b = self.cv1(x).split((self.c, self.c), 1)
        return self.cv2(torch.cat([a, self.m(b).relu()], 1))

    def forward_other(self, x: Tensor) -> Tensor:
        """Not the same function: it must not count for anything."""
        return self.cv2(self.cv1(x)[:, : self.c].repeat(1, 2, 1, 1))

    def forward_two(self, x: Tensor, y: Tensor) -> Tensor:
        raise AssertionError("it is called with two")


class Table(nn.Module):
    """An attribute that is as large as a width by chance, and another forward that does not read it."""

    def __init__(self) -> None:
        super().__init__()
        self.classes = 16
        self.linear = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.mean((2, 3)))

    def forward_eagerly(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(2).mean(2))


def net(*blocks: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), *blocks, nn.Conv2d(16, 4, 1)).eval()


def test_an_attribute_that_only_another_forward_reads_is_changed_too(tmp_path: Path) -> None:
    model, x = net(Halves(16), Halves(16, inner=12)), torch.randn(2, 3, 8, 8)
    small = secateur.prune(model, x, ratio=0.5)
    assert small.backend == "module"
    assert (model[2].c, model[3].c) == (8, 12)
    assert (small.model[2].c, small.model[3].c) == (4, 6)
    assert small.model[2].calls == model[2].calls == 0, "what is tried is tried on a copy"
    assert small.model[2].steps == 32
    assert small.plan.numbers == {Place("2", (("attribute", "c"),)): 4, Place("3", (("attribute", "c"),)): 6}
    assert any("*.c" in note or "2.c" in note for note in small.notes)
    small.save(tmp_path / "a")
    again = (secateur.load(tmp_path / "a", net(Halves(16), Halves(16, inner=12))), secateur.apply(model, small.plan, x))
    for one in (small, *again):
        expected = one(x)
        for block in list(one.model)[2:4]:
            block.forward = block.forward_split
        assert torch.allclose(one(x), expected, atol=1e-6)


def test_an_attribute_that_no_other_forward_needs_stays() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), Table(), nn.ReLU(), nn.Linear(16, 4)).eval()
    small = secateur.prune(model, torch.randn(2, 3, 8, 8), ratio=0.5)
    assert small.model[1].linear.weight.shape == (8, 8)
    assert small.model[1].classes == 16
    assert not small.plan.numbers


def test_a_second_cut_goes_on_from_there(tmp_path: Path) -> None:
    model, x = net(Halves(16)), torch.randn(2, 3, 8, 8)
    small = secateur.prune(secateur.prune(model, x, ratio=0.5), ratio=0.5)
    assert small.model[2].c == 2
    small.save(tmp_path / "a")
    for again in (secateur.load(tmp_path / "a", model).model, secateur.apply(model, small.plan, x).model):
        assert again[2].c == 2
        assert torch.allclose(again[2].forward_split(torch.ones(1, 4, 3, 3)), again[2](torch.ones(1, 4, 3, 3)))


@pytest.mark.parametrize("training", [True, False])
def test_modes_and_statistics_stay(training: bool) -> None:
    model = net(nn.BatchNorm2d(16), Halves(16)).train(training)
    small = secateur.prune(model, torch.randn(2, 3, 8, 8), ratio=0.5)
    assert small.model[3].c == 4
    assert {m.training for m in small.model.modules()} == {training}
    assert small.model[2].num_batches_tracked == 0
