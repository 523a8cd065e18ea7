"""Counts against golden numbers and an independent formula with hooks."""

from __future__ import annotations

import importlib.util
from math import prod
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur import models
from zoo import ZOO, settle


def macs_by_hooks(model: nn.Module, x: Any) -> int:
    """Independent of the graph: kernel size × inputs per group × outputs, summed by forward hooks."""
    total = 0

    def convolution(m: Any, inputs: tuple[Tensor, ...], out: Tensor) -> None:
        nonlocal total
        positions = inputs[0] if m.transposed else out
        total += prod(m.weight.shape) * prod(positions.shape[2:])

    def linear(m: Any, inputs: tuple[Tensor, ...], out: Tensor) -> None:
        nonlocal total
        total += prod(m.weight.shape) * prod(out.shape[1:-1])

    for module in model.modules():
        if isinstance(module, nn.modules.conv._ConvNd):
            module.register_forward_hook(convolution)
        elif isinstance(module, nn.Linear):
            module.register_forward_hook(linear)
    model(x)
    return total


@pytest.mark.parametrize(
    ("name", "shape", "params", "macs"),
    [
        ("resnet56", (1, 3, 32, 32), 853_018, 125_485_696),
        ("resnet20", (1, 3, 32, 32), 269_722, 40_551_040),
        ("lenet300", (1, 1, 28, 28), 266_610, 266_200),
        ("lenet5", (1, 1, 28, 28), 431_080, 2_293_000),
    ],
)
def test_golden(name: str, shape: tuple[int, ...], params: int, macs: int) -> None:
    counts = secateur.count(models.create(name), torch.zeros(shape))
    assert (counts.params, counts.macs) == (params, macs)


def test_golden_resnet18() -> None:
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    counts = secateur.count(models.create("torchvision:resnet18"), torch.zeros(1, 3, 224, 224))
    assert (counts.params, counts.macs) == (11_689_512, 1_814_073_344)


@pytest.mark.parametrize(
    "name", ["plain", "residual", "grouped_convolutions", "autoencoder", "unet", "three_dimensional"]
)
def test_against_hooks(name: str) -> None:
    model, x = ZOO[name]()
    assert secateur.count(model.eval(), x).macs == macs_by_hooks(model, x)


def test_the_plan_is_costed_as_the_cut_network_counts() -> None:
    for name in ("residual", "dense_concatenation", "grouped_convolutions", "squeeze_excitation", "matrix_products"):
        model, x = ZOO[name]()
        pruned = secateur.prune(settle(model), x, ratio=0.4)
        assert secateur.count(pruned.model, x) == pruned.after


def test_layers_are_named_in_order_and_sum_up() -> None:
    model, x = ZOO["plain"]()
    counts = secateur.count(model.eval(), x)
    assert [(c.name, c.kind, c.out_channels) for c in counts.layers] == [
        ("0.0", "conv2d", 16), ("2.0", "conv2d", 24), ("4", "linear", 10),
    ]  # fmt: skip
    assert sum(c.macs for c in counts.layers) == counts.macs
    assert counts.layers[2].params == 24 * 16 * 10 + 10


def test_parameters_that_the_forward_pass_does_not_use_count_too() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    model.register_parameter("spare", nn.Parameter(torch.zeros(7)))
    assert secateur.count(model, torch.zeros(1, 4)).params == 4 * 3 + 3 + 7


def test_macs_are_for_one_sample() -> None:
    model, _ = ZOO["plain"]()
    counts = [secateur.count(model.eval(), torch.zeros(n, 3, 8, 8)).macs for n in (1, 2, 8)]
    assert len(set(counts)) == 1


def test_tensors_without_entries_count_nothing() -> None:
    class Empty(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Parameter(torch.zeros(0, 8))
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)
            self.last = nn.Parameter(torch.zeros(0))

        def forward(self, x: Tensor) -> Tensor:
            made = torch.tensor([])  # a cache before its first entry
            y = torch.cat([self.first, self.a(x).relu()])
            return torch.cat([torch.cat([self.last, made]), self.b(y).flatten()])

    pruned = secateur.prune(settle(Empty()), torch.randn(3, 4), ratio=0.5)
    assert (pruned.before.params, pruned.after.params) == (8 * 5 + 2 * 9, 4 * 5 + 2 * 5)
    assert pruned.model(torch.randn(3, 4)).shape == (6,)
