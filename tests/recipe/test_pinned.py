"""What a report says of layers whose channels were not to be had."""

import torch
from torch import nn

import secateur
from secateur.recipe.steps.pruning import pinned_layers


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 1), nn.Linear(8, 1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.body(x).relu()
        return {"first": self.first(x), "second": self.second(x)}


def test_every_head_of_several_may_be_an_output() -> None:
    pruned = secateur.prune(TwoHeads(), torch.randn(2, 4), ratio=0.5)
    pinned = pinned_layers(pruned.before, (cut.group for cut in pruned.groups))
    assert [row["layer"] for row in pinned] == ["first", "second"]
    assert all("output" in row["reason"] for row in pinned)
