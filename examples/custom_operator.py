"""A rule for an operator of one's own, in ten lines.

Without the rule everything that touches the operator is pinned (and reported); with it the network is cut
through it, and verified as always. Run: python examples/custom_operator.py
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import secateur
from secateur.graph.flow import Call
from secateur.graph.labels import Labels
from secateur.graph.ops import operator


@torch.library.custom_op("garden::scaled_swish", mutates_args=())
def scaled_swish(x: Tensor, scale: Tensor) -> Tensor:
    """x · σ(scale · x), one scale per channel; x (N, C, H, W), scale (C,)."""
    return x * torch.sigmoid(x * scale[:, None, None])


@scaled_swish.register_fake
def _(x: Tensor, scale: Tensor) -> Tensor:
    return torch.empty_like(x)


class Network(nn.Module):
    """Two convolutions with the operator between them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 4, 3)
        self.scale = nn.Parameter(torch.rand(16) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(scaled_swish(self.a(x), self.scale))


def rule() -> None:
    """Channels pass; the scale's entries go with them."""

    @operator("garden.scaled_swish")
    def flow(call: Call) -> Labels:
        x: Labels = call["x"]
        call.c.tie(x.at(1), call["scale"].at(0))
        return x


def main() -> None:
    """Shows the network before and after the rule."""
    model, x = Network().eval(), torch.randn(2, 3, 8, 8)
    try:
        secateur.prune(model, x, ratio=0.5)
    except secateur.BudgetError as error:
        print(f"Without the rule: {error}")
    rule()
    print(f"With the rule: {secateur.prune(model, x, ratio=0.5)}")


if __name__ == "__main__":
    main()
