"""A share of the parameters of every block: widths within one channel of it, in the seed's network and by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.core.errors import BudgetError, InputError, UnknownNameError
from secateur.models import create, replace_head
from zoo import Lambda, conv, pooled, settle

PARAMS = {"ratio_of": "params", "scope": "block"}


def size(model: nn.Module, name: str = "") -> int:
    return sum(p.numel() for p in model.get_submodule(name).parameters())


@pytest.mark.parametrize("hidden", [None, 512])
def test_every_block_of_resnet50_and_the_whole_lose_a_tenth(hidden: int | None) -> None:
    """Seed 000, Table 1; the head of its text: global average pooling, a dense layer, ten classes."""
    dense = replace_head(create("torchvision:resnet50"), 10, hidden=hidden).eval()
    small = secateur.prune(
        dense, torch.randn(1, 3, 32, 32), criterion="l2", ratio=0.1, verify=False, granularity="within", **PARAMS
    )
    blocks = [f"layer{k + 1}.{i}" for k, many in enumerate((3, 4, 6, 3)) for i in range(many)]
    largest = 0
    for name in blocks:
        width, inputs = dense.get_submodule(name).conv2.weight.shape[0], dense.get_submodule(name).conv1.weight.shape[1]
        one = (
            inputs + 9 * width + 2,
            9 * width + 4 * width + 2,
        )  # a channel of each convolution
        assert abs(size(dense, name) - size(small.model, name) - 0.1 * size(dense, name)) <= max(one), name
        largest = max(largest, *one)
    assert abs(size(dense) - size(small.model) - 0.1 * size(dense)) <= largest
    assert round(100 * (1 - size(small.model) / size(dense)), 1) == 10.0
    assert small.model.conv1.out_channels == 64, "the stem is no block"
    assert not small.notes


class Blocks(nn.Module):
    """A stem, two blocks of two 1×1 convolutions without bias, a classifier: every size is easily written down."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 1, bias=False)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, w, 1, bias=False), nn.ReLU(), nn.Conv2d(w, 8, 1, bias=False)) for w in widths
        )
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x.mean((2, 3)))


def kept(pruned: secateur.Pruned) -> list[int]:
    return [block[0].out_channels for block in pruned.model.blocks]  # type: ignore[union-attr,index]


def test_widths_of_a_small_network_by_hand() -> None:
    """16 parameters a channel. A fifth of 10 is 2, of 24 is 4.8: 5 of the 24; the whole is 544 + 26, a fifth 114.

    112 went so: within half a channel, no further one helps.
    """
    net = settle(Blocks(10, 24))
    pruned = secateur.prune(net, torch.randn(2, 1, 4, 4), ratio=0.2, **PARAMS)
    assert kept(pruned) == [8, 19]
    assert pruned.before.params - pruned.after.params == 16 * 7
    scores = net.blocks[1][0].weight.square().flatten(1).sum(1) + net.blocks[1][2].weight.square().flatten(1).sum(0)  # type: ignore[index,union-attr]
    gone = set(scores.argsort()[:5].tolist())
    assert set(pruned.plan.keep["blocks.1.0.weight"][0]) == set(range(24)) - gone
    assert pruned.plan.provenance["ratio_of"] == "params"


def test_the_whole_decides_which_way_a_block_is_rounded() -> None:
    """A tenth of 14 channels is 1.4 in each of four blocks: 1 is nearest; of all, 5.6 are wanted, so two lose 2."""
    pruned = secateur.prune(settle(Blocks(14, 14, 14, 14)), torch.randn(2, 1, 4, 4), ratio=0.1, **PARAMS)
    assert sorted(kept(pruned)) == [12, 12, 13, 13]


def test_a_further_cut_counts_from_the_dense_network() -> None:
    """30 % of 20 channels of the dense network are 6, of which a tenth, 2, went before."""
    net, x = settle(Blocks(20, 20)), torch.randn(2, 1, 4, 4)
    first = secateur.prune(net, x, ratio=0.1, **PARAMS)
    assert kept(first) == [18, 18]
    assert kept(secateur.prune(first, ratio=0.3, of="dense", **PARAMS)) == [14, 14]
    again = secateur.prune(first, ratio=0.3, of="current", **PARAMS)
    assert sorted(kept(again)) == [12, 13], "5.4 of 18 in each; 11.3 of all, with stem and classifier"


def test_a_block_that_cannot_lose_so_much_is_named() -> None:
    pruned = secateur.prune(settle(Blocks(10, 40)), torch.randn(2, 1, 4, 4), ratio=0.6, min_units=8, **PARAMS)
    assert kept(pruned)[0] == 8
    assert any("blocks.0 (20.0%)" in note for note in pruned.notes)


def test_what_lies_in_no_block_is_said() -> None:
    net = settle(Lambda(lambda m, x: m.fc(pooled(x) + pooled(m.block(m.stem(x)))), stem=conv(3, 3),
                        block=nn.Sequential(conv(3, 8), conv(8, 3)), fc=nn.Linear(3, 400)))  # fmt: skip
    pruned = secateur.prune(net, torch.randn(2, 3, 8, 8), ratio=0.5, **PARAMS)
    assert any("what lies in no block stays" in note for note in pruned.notes)


def test_nothing_goes_at_zero_and_every_block_keeps_a_channel() -> None:
    net, x = settle(Blocks(10, 24)), torch.randn(2, 1, 4, 4)
    assert kept(secateur.prune(net, x, ratio=0.0, **PARAMS)) == [10, 24]
    assert min(kept(secateur.prune(net, x, ratio=0.99, **PARAMS))) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ratio": 0.1, "ratio_of": "params"}, "goes with one ratio and scope='block'.*got scope=None"),
        ({"ratio": 0.1, "ratio_of": "params", "scope": "global"}, "got scope='global'"),
        ({"ratio": {"blocks": 0.1}, "ratio_of": "params"}, "got a ratio per layer"),
        ({"macs": 0.5, **PARAMS}, "got no ratio"),
    ],
)
def test_what_it_does_not_go_with_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        secateur.prune(settle(Blocks(10)), torch.randn(2, 1, 4, 4), **options)


def test_an_unknown_amount_and_too_coarse_widths_are_refused() -> None:
    net, x = settle(Blocks(10)), torch.randn(2, 1, 4, 4)
    with pytest.raises(UnknownNameError, match="Did you mean 'params'"):
        secateur.prune(net, x, ratio=0.1, ratio_of="parms", scope="block")
    with pytest.raises(BudgetError, match="round_to=16"):
        secateur.prune(net, x, ratio=0.1, round_to=16, **PARAMS)
