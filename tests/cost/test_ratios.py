from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from secateur.core.errors import InputError
from secateur.core.metric import TOP1
from secateur.cost import compression_ratio, count, mac_reduction, netscore, nonzero_params
from secateur.timing import measurement


def test_netscore_by_hand() -> None:
    # 90 % with 4 M parameters and 0.25 G MACs: 20·log10(8100 / (2 · 0.5)) = 20·log10(8100)
    assert netscore(90, 4e6, 0.25e9) == pytest.approx(20 * math.log10(8100), abs=1e-12)


def test_netscore_rewards_each_part() -> None:
    base = netscore(90, 4e6, 1e9)
    assert netscore(91, 4e6, 1e9) > base
    # Half the parameters are worth 20·log10(√2) = 3.01.
    assert netscore(90, 2e6, 1e9) - base == pytest.approx(20 * math.log10(2) / 2)
    assert netscore(90, 4e6, 0.5e9) - base == pytest.approx(20 * math.log10(2) / 2)


def test_netscore_exponents() -> None:
    assert netscore(10, 1e6, 1e9, alpha=1, beta=0, gamma=0) == pytest.approx(20)
    assert netscore(10, 1e7, 1e9, alpha=0, beta=1, gamma=0) == pytest.approx(-20)
    assert netscore(0, 1e6, 1e9) == -math.inf


@pytest.mark.parametrize("arguments", [(101, 1, 1), (-1, 1, 1), (50, 0, 1), (50, 1, math.nan), (50, 1, -3)])
def test_netscore_refuses(arguments: tuple[float, float, float]) -> None:
    with pytest.raises(InputError):
        netscore(*arguments)


def test_ratios_are_dense_over_pruned() -> None:
    assert compression_ratio(853_018, 426_509) == 2.0
    assert mac_reduction(3, 4) == 0.75
    with pytest.raises(InputError, match="pruned_macs must be a positive"):
        mac_reduction(10, 0)


def test_zeros_are_not_counted_and_shared_weights_once() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
        model[0].weight[0] = 0
    assert nonzero_params(model) == 6 + 3 + 3


def test_the_netscore_of_a_sparse_network_counts_what_is_not_zero() -> None:
    net, x = nn.Linear(1000, 1000, bias=False), torch.zeros(1, 1000)
    quality: dict[str, Any] = {"top1": 80.0, "samples": 10, "seconds_per_sample": 0.1}
    dense = measurement(net, x, count(net, x), quality=quality, leading=TOP1)
    with torch.no_grad():
        net.weight[100:] = 0
    sparse = measurement(net, x, count(net, x), quality=quality, leading=TOP1)
    assert sparse.netscore == pytest.approx((dense.netscore or 0) + 10)
    assert dense.netscore == pytest.approx(netscore(80.0, 1_000_000, 1_000_000))
    assert (dense.quality, dense.samples) == ({"top1": 80.0}, 10)
    assert (sparse.sparse, dense.sparse) == (True, False)
