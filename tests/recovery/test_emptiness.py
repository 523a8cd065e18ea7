"""Purification by the share of a channel's columns that are zero."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.core.errors import InputError


def net(zero: dict[int, list[int]]) -> nn.Sequential:
    """Two convolutions; of the second, some places of some input channels are zero in all filters."""
    model = nn.Sequential(nn.Conv2d(2, 4, 1), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.Flatten(), nn.Linear(12, 2)).eval()
    with torch.no_grad():
        for channel, places in zero.items():
            model[2].weight.view(3, 4, 9)[:, channel, places] = 0
    return model


def by_hand(model: nn.Sequential, x: Tensor, gone: list[int]) -> Tensor:
    with torch.no_grad():
        model[2].weight[:, gone] = 0
        return model(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize(("emptiness", "gone"), [(None, [3]), (1.0, [3]), (0.7, [1, 3]), (0.2, [0, 1, 3])])
def test_channels_that_little_is_left_of_go(emptiness: float | None, gone: list[int]) -> None:
    model, x = net({0: [0, 4], 1: [0, 1, 2, 3, 4, 5, 8], 3: list(range(9))}), torch.randn(5, 2, 4, 4)
    before = model[2].weight.detach().clone()
    found = secateur.purify(model, x, emptiness=emptiness)
    assert torch.equal(before, model[2].weight)
    assert found.model[0].out_channels == 4 - len(gone)
    torch.testing.assert_close(found.model(x), by_hand(model, x, gone))
    emptied = len(gone) - 1
    assert any(f"{emptied} input channels with" in note for note in found.notes) == (emptiness is not None)


def test_the_channel_with_the_largest_weights_of_a_layer_stays() -> None:
    model, x = net({c: [0, 1, 2, 3] for c in range(4)}), torch.randn(5, 2, 4, 4)
    largest = int(model[2].weight.square().sum((0, 2, 3)).argmax())
    found = secateur.purify(model, x, emptiness=0.4)
    torch.testing.assert_close(found.model(x), by_hand(model, x, [c for c in range(4) if c != largest]))
    assert found.model[0].out_channels == 1


@pytest.mark.parametrize("bad", [0.0, 1.5, -1.0])
def test_a_share_out_of_range_is_refused(bad: float) -> None:
    with pytest.raises(InputError, match="emptiness is the share"):
        secateur.purify(net({}), torch.randn(1, 2, 4, 4), emptiness=bad)
