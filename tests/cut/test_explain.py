"""What is told of layers that stay: why, and which change of the network's source would free them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur
import secateur.graph
from secateur.graph import reasons


class Held(nn.Module):
    """Layers whose outputs stay, each for a reason of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.shortcut, self.table, self.ranked = nn.Linear(6, 6), nn.Embedding(30, 16), nn.Linear(16, 12)
        self.masked, self.single, self.head = nn.Linear(12, 8), nn.Linear(12, 8), nn.Linear(12, 5)

    def forward(self, x: Tensor, words: Tensor) -> Any:
        h = self.ranked(self.table(words)).sort(-1)[0]
        one, *_ = self.single(h).unbind(-1)
        return self.shortcut(x) + x, self.masked(h)[h[..., :8] > 0].sum(), one, self.head(h)


@pytest.mark.parametrize(("layer", "why", "change"), [
    ("shortcut", "of an input of the network", "put a layer"),
    ("ranked", "which entry comes where depends on all of them), at", "sort or choose along another dimension"),
    ("masked", "in (top level) (", "torch.where"),
    ("single", "one by one", "take pieces of one size"),
    ("head", "it is an output of the network", "return what is computed from it in its place"),
])  # fmt: skip
def test_what_stays_says_why_and_what_to_change(layer: str, why: str, change: str) -> None:
    found = secateur.analyse(Held(), (torch.randn(2, 6), torch.randint(0, 30, (2, 4))))
    said = {row[3] for row in found.explain(layer).rows}
    assert len(said) == 1
    assert why in (words := said.pop())
    assert f"; to free it, {change}" in words or change in words


def test_every_change_belongs_to_a_reason_that_a_rule_gives() -> None:
    """A reason that nobody gives any more would keep its advice for ever."""
    rules = "".join(path.read_text() for path in Path(secateur.graph.__file__).parent.rglob("*.py"))
    names = {name for name in reasons.__all__ if isinstance(getattr(reasons, name), str)}
    assert all(rules.count(name) > 2 for name in names)
    assert {getattr(reasons, name) for name in names} == {*reasons.CHANGES}


def test_channels_that_pass_an_operator_of_several_results_are_explained() -> None:
    class Pieces(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside, self.head = nn.Linear(6, 16), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            one, two = self.inside(x).chunk(2, -1)
            return self.head(torch.cat([two.relu(), one], -1))  # type: ignore[no-any-return]

    (row, *_) = secateur.analyse(Pieces(), torch.randn(2, 6)).explain("inside").rows
    assert "chunk in (top level), " in row[3] or "relu in (top level)" in row[3]
