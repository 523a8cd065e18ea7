from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from secateur.core.errors import InputError
from secateur.cost import peak_memory, size_on_disk


class Fork(nn.Module):
    """Holds one activation while the other branch grows."""

    def forward(self, x: Tensor) -> Tensor:
        wide = x.repeat(1, 10)
        return wide.sum(dim=1) + x.sum(dim=1)


def test_peak_by_hand() -> None:
    # Input 2×4 floats = 32 bytes, wide 320 bytes, two sums of 8 bytes and their sum of 8 bytes.
    assert peak_memory(Fork(), torch.zeros(2, 4)) == 32 + 320 + 3 * 8


def test_in_place_activations_cost_nothing() -> None:
    inputs = torch.zeros(1, 4)
    plain = peak_memory(nn.Sequential(nn.Linear(4, 8), nn.ReLU()), inputs)
    in_place = peak_memory(nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True)), inputs)
    assert plain - in_place == 32


def test_freed_activations_are_subtracted() -> None:
    deep = nn.Sequential(*[nn.ReLU() for _ in range(20)])
    # Input, the activation that is read and the one that is written; never all 21.
    assert peak_memory(deep, torch.zeros(1, 100)) == 3 * 400


def test_the_network_and_its_mode_are_untouched() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout()).train()
    net[2].eval()
    mean = net[1].running_mean.clone()
    first = peak_memory(net, torch.ones(3, 4))
    assert first == peak_memory(net, torch.ones(3, 4))
    assert [m.training for m in net] == [True, True, False]
    assert torch.equal(net[1].running_mean, mean)


def test_size_of_a_network_is_that_of_its_file(tmp_path: Path) -> None:
    net = nn.Linear(30, 20)
    save_file(dict(net.state_dict()), tmp_path / "w.safetensors")
    assert size_on_disk(net) == size_on_disk(tmp_path / "w.safetensors")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "note").write_bytes(b"12345")
    assert size_on_disk(tmp_path) == size_on_disk(net) + 5


def test_tied_weights_are_counted_once() -> None:
    net = nn.Sequential(nn.Linear(50, 50, bias=False), nn.Linear(50, 50, bias=False))
    apart = size_on_disk(net)
    net[1].weight = net[0].weight
    assert apart - size_on_disk(net) >= 50 * 50 * 4


def test_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        size_on_disk(tmp_path / "nothing")
