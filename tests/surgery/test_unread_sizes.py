"""Attributes that no code reads, and that say how large a module is all the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import secateur
from zoo import settle


class Layer(nn.Module):
    """A layer of the user's own that remembers its sizes for others (its ``repr``, a head that is put on later)."""

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True, made_for: str = "x") -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.made_for, self.calls = in_channels, out_channels, made_for, 32
        self.inside = nn.Linear(in_channels, out_channels, bias=False)
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        out = self.inside(x)
        return out if self.bias is None else out + self.bias


class Network(nn.Module):
    def __init__(self, width: int = 32, heads: int = 4, size: int = 8) -> None:
        super().__init__()
        self.width, self.heads, self.size = width, heads, size
        self.one, self.two, self.head = Layer(10, width), Layer(width, heads * size), nn.Linear(heads * size, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.two(self.one(x).relu()).relu())  # type: ignore[no-any-return]


def test_what_nobody_reads_is_true_after_a_cut(tmp_path: Path) -> None:
    x = torch.randn(4, 10)
    pruned = secateur.prune(settle(Network()), x, ratio=0.5)
    small = pruned.model
    assert (small.one.in_channels, small.one.out_channels) == (10, 16)
    assert (small.two.in_channels, small.two.out_channels) == (16, 16)
    assert small.width == 16
    assert (small.heads, small.size) == (4, 8)  # either may have changed
    assert small.one.calls == 32
    assert "size in its code: one.out_channels 32 → 16" in pruned.notes
    pruned.save(tmp_path / "kept")
    loaded: Any = secateur.load(tmp_path / "kept", Network()).model
    assert (loaded.two.in_channels, loaded.width) == (16, 16)
    torch.testing.assert_close(loaded(x), small(x))


def test_numbers_that_code_does_read_are_left_to_it() -> None:
    class Reads(nn.Module):
        """``count`` is as many as there are channels, and something else."""

        def __init__(self, channels: int, count: int = 16) -> None:
            super().__init__()
            self.channels, self.count = channels, count
            self.inside, self.table = nn.Linear(channels, 4), nn.Parameter(torch.ones(count, 1))

        def forward(self, x: Tensor) -> Tensor:
            return self.inside(x) + self.table.sum() / self.count  # type: ignore[no-any-return]

    model = settle(nn.Sequential(nn.Linear(6, 16), nn.ReLU(), Reads(16)))
    pruned = secateur.prune(model, torch.randn(4, 6), ratio=0.5)
    assert (pruned.model[2].channels, pruned.model[2].count) == (8, 16)


def test_a_constructor_that_fails_or_is_another_changes_nothing() -> None:
    class Picky(Layer):
        def __init__(self, in_channels: int, out_channels: int) -> None:
            if out_channels != 32:
                raise ValueError("only 32")
            super().__init__(in_channels, out_channels)

    model = settle(nn.Sequential(Picky(10, 32), nn.ReLU(), nn.Linear(32, 3)))
    pruned = secateur.prune(model, torch.randn(4, 10), ratio=0.5)
    assert pruned.backend == "module"
    assert pruned.model[0].out_channels == 32


class Reader(nn.Module):
    """Reads its width where it is trained alone, and ends the program where it is made with too large a one."""

    def __init__(self, width: int = 32, most: int = 32, ends: bool = False) -> None:
        super().__init__()
        if ends and width > most:
            raise SystemExit("too wide")
        self.width, self.most, self.ends = width, most, ends
        self.a, self.b = nn.Linear(10, width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).relu()
        return self.b(h / self.width if self.training else h)  # type: ignore[no-any-return]


def test_what_is_read_in_train_mode_alone_stays() -> None:
    small: Any = secateur.prune(settle(Reader()), torch.randn(4, 10), ratio=0.5).model
    assert (small.a.out_features, small.width) == (16, 32)


def test_a_constructor_that_ends_the_program_ends_no_cut() -> None:
    small: Any = secateur.prune(settle(Reader(ends=True)), torch.randn(4, 10), ratio=0.5).model
    assert (small.a.out_features, small.width) == (16, 32)
