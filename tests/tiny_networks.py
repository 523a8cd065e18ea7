"""A network for recipes that are run only to see what their steps do: small enough for a second."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Blocks(nn.Module):
    """A stem, three residual blocks, a wider one with a projection, a classifier: for whole layers."""

    class Residual(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.a, self.b, self.bn = nn.Conv2d(width, 5, 1), nn.Conv2d(5, width, 3, padding=1), nn.BatchNorm2d(width)

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(x + self.bn(self.b(F.relu(self.a(x)))))

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, stride=2)
        self.blocks = nn.Sequential(*(self.Residual(6) for _ in range(3)))
        self.wide = nn.ModuleDict({"body": nn.Conv2d(6, 8, 3), "shortcut": nn.Conv2d(6, 8, 3)})
        self.linear = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.relu(self.stem(x)))
        x = self.wide["body"](x) + self.wide["shortcut"](x)
        return self.linear(x.mean((2, 3)))  # type: ignore[no-any-return]


class Tiny(nn.Module):
    """A stem, a residual block with a shortcut, a wider layer, a classifier."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.block = nn.Sequential(
            nn.Conv2d(6, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6),
        )  # fmt: skip
        self.wide, self.bn2 = nn.Conv2d(6, 12, 3, stride=2, bias=False), nn.BatchNorm2d(12)
        self.linear = nn.Linear(12, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.stem(x)))
        x = F.relu(x + self.block(x))
        return self.linear(F.adaptive_avg_pool2d(F.relu(self.bn2(self.wide(x))), 1).flatten(1))  # type: ignore[no-any-return]


class Mixture(nn.Module):
    """A layer of four experts in a list, of which the router chooses two, and one that all see; a classifier."""

    def __init__(self, classes: int = 10, experts: int = 4, inputs: int = 64) -> None:
        super().__init__()
        self.stem = nn.Linear(inputs, 8)
        self.router = nn.Linear(8, experts)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 8)) for _ in range(experts)
        )
        self.shared = nn.Linear(8, 8)
        self.linear = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x.flatten(1)))
        weights, numbers = self.router(x).softmax(-1).topk(2, -1)
        weights = weights / weights.sum(-1, keepdim=True)
        y = self.shared(x)
        for number, expert in enumerate(self.experts):
            chosen = numbers == number
            y = y + expert(x) * (weights * chosen).sum(-1, keepdim=True)
        return self.linear(y)  # type: ignore[no-any-return]
