"""What a network's code keeps outside of the network is left as it was."""

from __future__ import annotations

import functools
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.graph.outside import undisturbed


@functools.lru_cache
def table(length: int, width: int) -> Tensor:
    return torch.arange(length * width).float().view(length, width) / 100


@functools.cache
def settings(name: str) -> dict[str, str]:
    return {"name": name}


TABLES: dict[int, Tensor] = {}
NAMES: list[str] = []


class Cached(nn.Module):
    """A table from a function's cache, a dictionary of the module, one of the class, or a static method's cache."""

    tables: ClassVar[dict[tuple[int, ...], Any]] = {}

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.a, self.b, self.scale = nn.Linear(4, 8), nn.Linear(8, 4), nn.Parameter(torch.ones(4))
        self.kind = kind

    @staticmethod
    @functools.lru_cache(maxsize=4)
    def own(length: int) -> Tensor:
        return torch.arange(length * 4).float().view(length, 4) / 100

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        if self.kind == "function":
            found = table(length, 4)
        elif self.kind == "static method":
            found = self.own(length)
        elif self.kind == "module":
            found = TABLES.setdefault(length, torch.arange(length * 4).float().view(length, 4) / 100)
        else:
            if (length,) not in self.tables:
                self.tables[length,] = [torch.arange(length * 4).float().view(length, 4) / 100]
            found = self.tables[length,][0]
        return self.b(self.a(x + self.scale * found).relu())  # type: ignore[no-any-return]


@pytest.mark.parametrize("backend", ["module", "graph"])
@pytest.mark.parametrize("kind", ["function", "static method", "module", "class"])
def test_the_network_trains_on_at_every_length(kind: str, backend: str) -> None:
    table.cache_clear()
    Cached.own.cache_clear()
    TABLES.clear()
    Cached.tables.clear()
    NAMES.append("kept")
    kept = settings("one")
    model = Cached(kind)
    pruned = secateur.prune(model, torch.randn(3, 6, 4), ratio=0.5, backend=backend)
    for network in (model, pruned.model):
        for length in (6, 230, 7, 22):
            loss = network(torch.randn(2, length, 4)).sum()
            assert loss.dtype == torch.float32
            loss.backward()
    assert settings("one") is kept  # what is no tensor stays
    assert NAMES.pop() == "kept"


def test_what_was_there_before_is_there_afterwards() -> None:
    model = Cached("module")
    TABLES.clear()
    mine = TABLES[6] = torch.zeros(6, 4)
    with undisturbed(model):
        TABLES[6] = torch.ones(6, 4)
        TABLES[7] = torch.ones(7, 4)
        NAMES.append("said")
    assert list(TABLES) == [6]
    assert TABLES[6] is mine
    assert NAMES.pop() == "said"  # no tensor, so it is the network's own affair
    TABLES.clear()
