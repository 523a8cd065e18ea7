"""Every operator as a matrix product: W·X at all positions is what the operator gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.criteria.least_squares.layout import layout
from secateur.graph.flow import flow
from secateur.graph.trace import trace

CASES: dict[str, tuple[Any, tuple[int, ...]]] = {
    "plain": (lambda: nn.Conv2d(4, 6, 3), (3, 4, 7, 7)),
    "padded": (lambda: nn.Conv2d(4, 6, 3, padding=1), (3, 4, 5, 6)),
    "strided": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1), (3, 4, 7, 8)),
    "dilated": (lambda: nn.Conv2d(4, 6, 3, dilation=2, padding=(2, 1)), (3, 4, 9, 8)),
    "same": (lambda: nn.Conv2d(4, 6, (4, 3), padding="same"), (3, 4, 7, 8)),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2, padding=1), (3, 4, 5, 5)),
    "depthwise": (lambda: nn.Conv2d(4, 8, 3, groups=4), (3, 4, 5, 5)),
    "one_dimension": (lambda: nn.Conv1d(4, 6, 5, stride=3, padding=2), (3, 4, 17)),
    "three_dimensions": (lambda: nn.Conv3d(2, 3, (1, 2, 3), padding=(0, 1, 1)), (2, 2, 3, 4, 5)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3), (3, 4, 5, 5)),
    "transposed_strided": (lambda: nn.ConvTranspose2d(4, 6, 4, stride=3, padding=1, output_padding=2), (3, 4, 4, 5)),
    "transposed_dilated": (lambda: nn.ConvTranspose1d(4, 6, 3, stride=2, dilation=2, padding=3), (3, 4, 9)),
    "transposed_grouped": (lambda: nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2), (3, 4, 4, 4)),
    "linear": (lambda: nn.Linear(4, 6), (5, 4)),
    "linear_tokens": (lambda: nn.Linear(4, 6), (5, 3, 4)),
}


@pytest.mark.parametrize("name", CASES)
def test_matrix_times_columns_is_the_operator(name: str) -> None:
    make, shape = CASES[name]
    torch.manual_seed(0)
    layer = make().double()
    x = torch.randn(shape).double()
    node = next(iter(flow(trace(layer, x)).macs))
    weight = layer.weight.detach()
    form = layout(node, weight)
    want = layer(x).detach()
    every = torch.arange(form.positions(want))
    columns = form.columns(x, tuple(want.shape), every)
    assert (columns.shape[1], want.shape[-1 if form.linear else 1] // form.groups) == form.sizes(weight)
    product = form.matrix(weight) @ columns.flatten(2) + layer.bias.detach().reshape(form.groups, -1, 1)
    assert torch.allclose(product, form.rows(want, every).flatten(2), atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_a_matrix_goes_back_into_the_weight(name: str) -> None:
    make, shape = CASES[name]
    layer = make()
    weight: Tensor = layer.weight.detach()
    form = layout(next(iter(flow(trace(layer, torch.randn(shape))).macs)), weight)
    assert torch.equal(form.weight(form.matrix(weight)).reshape(weight.shape), weight)


def test_some_positions_are_columns_of_all() -> None:
    layer, x = nn.Conv2d(3, 4, 3, stride=2, padding=1), torch.randn(2, 3, 8, 8)
    form = layout(next(iter(flow(trace(layer, x)).macs)), layer.weight.detach())
    some, every = torch.tensor([1, 6, 15]), torch.arange(16)
    all_columns = form.columns(x, (2, 4, 4, 4), every)
    assert torch.equal(form.columns(x, (2, 4, 4, 4), some), all_columns[..., some])
