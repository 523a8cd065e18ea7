"""Values that are no numbers: refused where they mean nothing, taken where they are masks and limits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.core.errors import InputError, WeightsError
from zoo import settle


class Bounded(nn.Module):
    """Clamps by buffers (an upper limit of infinity clamps nothing) and masks by minus infinity."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)
        self.register_buffer("high", torch.tensor(torch.inf))
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf, 0.0]))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.minimum(self.norm(self.a(x)), self.high)
        return self.b(y) + self.mask  # type: ignore[no-any-return]


def test_infinite_limits_and_masks_are_numbers() -> None:
    proof = secateur.prune(settle(Bounded()), torch.randn(3, 4), ratio=0.5).verification
    assert proof is not None
    assert proof.proven


@pytest.mark.parametrize(
    ("name", "value"),
    [("norm.running_mean", torch.inf), ("norm.running_mean", -torch.inf), ("norm.running_var", -1.0),
     ("mask", torch.nan), ("a.bias", -torch.inf)],
)  # fmt: skip
def test_unsound_values_are_refused_by_name(name: str, value: float) -> None:
    model = settle(Bounded())
    tensor = dict(model.named_parameters()) | dict(model.named_buffers())
    with torch.no_grad():
        tensor[name].fill_(value)
    with pytest.raises(WeightsError, match=f"'{name}'"):
        secateur.prune(model, torch.randn(3, 4), ratio=0.5)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_unsound_inputs_are_refused_by_name(value: float) -> None:
    with pytest.raises(InputError, match="example_inputs holds 12 NaN or infinite"):
        secateur.prune(settle(Bounded()), torch.full((3, 4), value), ratio=0.5)
