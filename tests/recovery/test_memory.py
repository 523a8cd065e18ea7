"""Limits to the memory: the same result within them, one sentence where they are too small, nothing lost."""

from __future__ import annotations

import copy
import functools
import gc
from typing import Any

import pytest
import torch
from torch import nn

import secateur
from secateur.core.errors import InputError
from secateur.criteria.least_squares import normal
from secateur.criteria.least_squares.affine import Options
from secateur.criteria.least_squares.normal import Moments
from secateur.recovery import api


@pytest.fixture
def cut() -> tuple[nn.Module, torch.Tensor, secateur.Pruned]:
    torch.manual_seed(0)
    net = nn.Sequential(*(layer for _ in range(6) for layer in (nn.Linear(16, 16), nn.ReLU())), nn.Linear(16, 3))
    x = torch.randn(96, 16)
    return net.eval(), x, secateur.prune(net, x[:2], ratio=0.5)


def test_a_limit_changes_nothing_but_the_memory(cut: Any) -> None:
    net, x, pruned = cut
    want = secateur.recover(pruned, x, dense=net).model.state_dict()
    got = secateur.recover(pruned, x, dense=net, memory_bytes=normal.bytes_of_fit(1, 16, 8)).model.state_dict()
    assert all(torch.equal(got[n], want[n]) for n in want)


def test_too_small_a_limit_is_one_sentence_and_nothing_is_lost(cut: Any) -> None:
    net, x, pruned = cut
    before = copy.deepcopy(pruned.model.state_dict()), copy.deepcopy(net.state_dict())
    too_little = r"memory_bytes=1,000 is too little: the fit of '0' \(16 inputs and 8 outputs\)"
    with pytest.raises(InputError, match=too_little):
        secateur.recover(pruned, x, dense=net, memory_bytes=1_000)
    with pytest.raises(InputError, match="memory_bytes is a number of bytes"):
        secateur.recover(pruned, x, dense=net, memory_bytes=-1)
    for model, state in zip((pruned.model, net), before, strict=True):
        assert all(torch.equal(t, state[n]) for n, t in model.state_dict().items())
    assert secateur.recover(pruned, x, dense=net, memory_bytes=1_000, method="bias").notes == pruned.notes


def test_a_wide_layer_is_fitted_where_the_limit_allows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "Options", functools.partial(Options, largest=20))
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(6, 48), nn.ReLU(), nn.Linear(48, 3)).eval(), torch.randn(400, 6)
    pruned, needed = secateur.prune(net, x[:2], ratio=0.5), normal.bytes_of_fit(1, 24, 3)
    alone, allowed = (secateur.recover(pruned, x, dense=net, memory_bytes=m) for m in (needed - 1, needed))
    assert "24 inputs are too many for a fit (at most 20, or what memory_bytes allows); bias alone" in alone.notes[-1]
    assert torch.equal(alone.model[2].weight, pruned.model[2].weight)
    assert allowed.notes == pruned.notes
    assert not torch.equal(allowed.model[2].weight, pruned.model[2].weight)


def test_a_failure_in_the_middle_leaves_the_pruned_network_as_it_was(cut: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    net, x, pruned = cut
    before = copy.deepcopy(pruned.model.state_dict())
    real, calls = normal.ridge_solve, []

    def breaks(*args: Any, **options: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) > 40:
            raise MemoryError
        return real(*args, **options)

    monkeypatch.setattr(normal, "ridge_solve", breaks)
    with pytest.raises(MemoryError):
        secateur.recover(pruned, x, dense=net)
    assert all(torch.equal(t, before[n]) for n, t in pruned.model.state_dict().items())


def test_sums_of_one_layer_are_alive_at_a_time(cut: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    net, x, pruned = cut
    alive: list[int] = []
    real = Moments.zeros

    def counted(groups: int, columns: int, outputs: int) -> Moments:
        gc.collect()
        alive.append(sum(isinstance(o, Moments) for o in gc.get_objects()))
        return real(groups, columns, outputs)

    monkeypatch.setattr(Moments, "zeros", counted)
    secateur.recover(pruned, x, dense=net)
    assert len(alive) == 2 * (7 + 6), "two folds a layer, and two of what enters where a layer loses inputs"
    assert max(alive) <= 3, "two folds of this layer, and what the one before leaves until then"
    alive.clear()
    secateur.prune(net, x[:2], criterion="reconstruction", data=x, ratio=0.5)
    assert len(alive) == 6
    assert max(alive) <= 1


def test_layers_with_the_same_input_share_its_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.gate, self.up = nn.Linear(4, 12), nn.Linear(12, 8), nn.Linear(12, 8)
            self.down = nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.tanh(self.into(x))
            return self.down(torch.sigmoid(self.gate(x)) * self.up(x))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    net, x, made = Gated().eval(), torch.randn(64, 4), []
    real = Moments.zeros

    def counted(groups: int, columns: int, outputs: int) -> Moments:
        made.append(columns)
        return real(groups, columns, outputs)

    monkeypatch.setattr(Moments, "zeros", counted)
    secateur.prune(net, x[:2], criterion="reconstruction", data=x, ratio=0.5)
    assert made == [12, 8], "of gate and up together, and of down"
