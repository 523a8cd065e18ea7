from __future__ import annotations

from torch import nn

from secateur.core.types import Counts, LayerCount
from secateur.report import block_rows, layer_rows


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 1, bias=False)
        self.layer1 = nn.Sequential(nn.Sequential(nn.Conv2d(width, 8, 1), nn.BatchNorm2d(8)), nn.Linear(8, 2))
        self.dense = nn.ModuleDict({"block": nn.ModuleDict({"conv": nn.Linear(2, 2)})})
        self.scale = nn.Parameter(nn.Linear(1, 1).weight.detach())


def test_blocks_by_hand() -> None:
    rows = [(row.block, row.before, row.after) for row in block_rows(Network(10), Network(5))]
    assert rows == [
        ("(root)", 1, 1),
        ("conv1", 30, 15),
        ("layer1.0", 10 * 8 + 8 + 16, 5 * 8 + 8 + 16),
        ("layer1.1", 18, 18),
        ("dense.block", 6, 6),
    ]


def test_blocks_sum_to_all_parameters() -> None:
    dense, pruned = Network(10), Network(5)
    rows = block_rows(dense, pruned)
    assert sum(row.before for row in rows) == sum(p.numel() for p in dense.parameters())
    assert sum(row.after for row in rows) == sum(p.numel() for p in pruned.parameters())


def test_layers_that_are_gone_keep_nothing() -> None:
    def layer(name: str, channels: int) -> LayerCount:
        return LayerCount(name, "conv2d", channels, 1, 1)

    dense = Counts(1, 1, (layer("a", 8), layer("b", 4)))
    rows = layer_rows(dense, Counts(1, 1, (layer("a", 6),)))
    assert [(row.layer, row.before, row.after) for row in rows] == [("a", 8, 6), ("b", 4, 0)]
