"""Networks are divided where their blocks end."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.models import create
from secateur.recovery.tuning.blocks import MOST_LAYERS, Block, find_blocks
from secateur.recovery.twin import twin


def blocks(net: nn.Module, x: Tensor) -> list[Block]:
    return find_blocks(twin(secateur.prune(net, x, ratio=0.5), net))


class Layer(nn.Module):
    """Of a transformer that normalises before its branches, or behind its sums."""

    def __init__(self, behind: bool) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(4))
        self.up, self.down = nn.Linear(8, 24), nn.Linear(24, 8)
        self.one, self.two, self.behind = nn.LayerNorm(8), nn.LayerNorm(8), behind

    def attention(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (2, 4)).transpose(1, 2) for f in (self.q, self.k, self.v))
        return self.o(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        if self.behind:
            x = self.one(x + self.attention(x))
            return self.two(x + self.down(torch.relu(self.up(x))))  # type: ignore[no-any-return]
        x = x + self.attention(self.one(x))
        return x + self.down(torch.relu(self.up(self.two(x))))  # type: ignore[no-any-return]


def test_residual_blocks_end_behind_their_activation() -> None:
    torch.manual_seed(0)
    found = blocks(create("resnet20").eval(), torch.randn(2, 3, 32, 32))
    assert [b.name for b in found] == ["conv1", *(f"layer{s}.{k}" for s in (1, 2, 3) for k in range(3)), "linear"]
    assert all([str(dense.target) for dense, _ in b.outputs] == ["aten.relu.default"] for b in found[:-1])
    assert {n.rpartition(".")[0] for n in found[1].parameters} == {
        f"layer1.0.{n}" for n in ("conv1", "bn1", "conv2", "bn2")
    }


@pytest.mark.parametrize("behind", [False, True])
def test_attention_and_mlp_are_blocks_wherever_the_normalisation_is(behind: bool) -> None:
    torch.manual_seed(0)
    found = blocks(nn.Sequential(Layer(behind), Layer(behind)).eval(), torch.randn(2, 5, 8))
    assert len(found) == 4
    held = [{n.split(".")[1] for n in b.parameters} for b in found]
    assert [{"q", "k", "v", "o"} <= one for one in held] == [True, False] * 2
    assert [{"up", "down"} <= one for one in held] == [False, True] * 2


def plain(layers: int) -> nn.Module:
    return nn.Sequential(*(nn.Sequential(nn.Linear(6, 6), nn.ReLU()) for _ in range(layers)))


@pytest.mark.parametrize(
    ("make", "count"), [(lambda: plain(MOST_LAYERS), 1), (lambda: plain(2 * MOST_LAYERS + 1), 3), (lambda: plain(1), 1)]
)
def test_without_residual_connections_a_few_layers_are_a_block(make: Callable[[], nn.Module], count: int) -> None:
    torch.manual_seed(0)
    net = make()
    found = (
        blocks(net, torch.randn(2, 6))
        if count > 1 or len(net) > 1
        else blocks(nn.Sequential(net, nn.Linear(6, 2)), torch.randn(2, 6))
    )  # type: ignore[arg-type]
    assert len(found) == count
    names = [n for b in found for n in b.parameters]
    assert len(names) == len(set(names))


def test_a_shared_weight_belongs_to_no_block() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.out = nn.Linear(6, 6), nn.Linear(6, 12), nn.Linear(12, 6)

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.out(torch.relu(self.two(self.one(x))))
            return x + torch.relu(self.one(x))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    names = [n for b in blocks(Twice(), torch.randn(2, 6)) for n in b.parameters]
    assert "two.weight" in names
    assert "one.weight" not in names
