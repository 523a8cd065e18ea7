"""Pruned graphs go on into TorchScript."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur
from zoo import Lambda, settle


def convolutions() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2), nn.AdaptiveAvgPool2d(1),
                         nn.Flatten(), nn.Linear(8, 4))  # fmt: skip


def scripted(network: nn.Module) -> Any:
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(network), file)
    file.seek(0)
    return torch.jit.load(file)


def test_a_pruned_graph_is_scripted_with_its_checks(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 16, 16)
    pruned = secateur.prune(convolutions().eval(), x, ratio=0.5, backend="graph")
    pruned.save(tmp_path)
    for network in (pruned.model, copy.deepcopy(pruned.model), secateur.load(tmp_path).model):
        made = scripted(network.eval())
        compiled = torch.compile(network, backend="eager")
        for given in (x, torch.randn(5, 3, 24, 20)):
            assert torch.allclose(made(given), network(given), atol=1e-6)
            assert torch.allclose(compiled(given), network(given), atol=1e-6)
        with pytest.raises(torch.jit.Error, match="dimension 1 of input"):
            made(torch.randn(2, 4, 16, 16))


def test_containers_of_results_are_those_of_the_network() -> None:
    torch.manual_seed(0)
    model = Lambda(lambda m, x, y: {"sum": m.b(m.a(x) + y), "both": m.b(m.a(x) * y)}, a=nn.Linear(4, 8),
                   b=nn.Linear(8, 2))  # fmt: skip
    x, y = torch.randn(3, 4), torch.randn(3, 1)
    pruned = secateur.prune(settle(model), (x, y), ratio=0.5, backend="graph")
    made = scripted(pruned.model)
    for name, value in made(x, y).items():
        assert torch.allclose(value, pruned.model(x, y)[name], atol=1e-6)
    with pytest.raises(torch.jit.Error, match="dimension 0 of"):
        made(x, y[:2].repeat(1, 1))


class Decides(nn.Module):
    """What it does depends on a size."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv1d(3, 8, 1), nn.Conv1d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.b(y.relu() if x.shape[-1] > 6 else y.sin())


def test_decisions_by_sizes_are_checked() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 9)
    pruned = secateur.prune(Decides(), x, ratio=0.5, backend="graph")
    made = scripted(pruned.model)
    assert torch.allclose(made(x), pruned.model(x), atol=1e-6)
    with pytest.raises(torch.jit.Error, match=r"another way|dimension 2"):
        made(torch.randn(2, 3, 4))
