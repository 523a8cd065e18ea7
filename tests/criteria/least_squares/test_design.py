"""The design matrix made piece by piece: its products are those of the explicit one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from secateur.criteria.least_squares import design as module
from secateur.criteria.least_squares.design import Design, design
from secateur.criteria.least_squares.layout import Layout, layout
from secateur.criteria.least_squares.normal import Moments
from secateur.graph.flow import flow
from secateur.graph.trace import trace

from .test_layout import CASES


def opened(name: str, kind: torch.dtype = torch.float64) -> tuple[Design, Tensor, Tensor]:
    """A case's design matrix at every second position, the explicit one (G, p + 1, n), and its outputs there."""
    make, shape = CASES[name]
    torch.manual_seed(0)
    layer: Any = make().to(kind)
    x = torch.randn(shape).to(kind)
    node = next(iter(flow(trace(layer, x)).macs))
    form: Layout = layout(node, layer.weight.detach())
    want = layer(x).detach()
    at = torch.arange(form.positions(want))[::2]
    columns = form.columns(x, tuple(want.shape), at).flatten(2)
    whole = torch.cat([columns, columns.new_ones(len(columns), 1, columns.shape[2])], 1)
    return design(form, x, tuple(want.shape), at), whole, form.rows(want, at)


@pytest.fixture(params=[1 << 25, 400], ids=["at once", "in pieces"], autouse=True)
def _pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE_BYTES", request.param)
    monkeypatch.setattr(module, "WIDTH", 5)


@pytest.mark.parametrize("name", CASES)
def test_sums_are_those_of_the_explicit_matrix(name: str) -> None:
    rows, whole, targets = opened(name)
    moments = Moments.zeros(len(whole), whole.shape[1] - 1, targets.shape[1])
    for part in (slice(0, None, 2), slice(1, None, 2)):
        moments.add(rows.of(part), targets[:, :, part])
    flat = targets.flatten(2)
    assert torch.allclose(moments.gram, whole @ whole.mT, rtol=1e-12, atol=1e-12)
    assert torch.allclose(moments.cross, whole @ flat.mT, rtol=1e-12, atol=1e-12)
    assert torch.allclose(moments.square, flat.square().sum(2), rtol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_predictions_are_those_of_the_explicit_matrix(name: str) -> None:
    rows, whole, targets = opened(name)
    matrix = torch.randn(len(whole), targets.shape[1], whole.shape[1]).double()
    assert torch.allclose(rows.predicted(matrix).flatten(2), matrix @ whole, rtol=1e-12, atol=1e-12)


def test_rows_that_are_added_after_a_look_count_too() -> None:
    rows, whole, _ = opened("grouped")
    moments = Moments.zeros(len(whole), whole.shape[1] - 1, 1)
    moments.add_rows(rows)
    assert torch.allclose(moments.gram, whole @ whole.mT)
    moments.add_rows(rows)
    assert torch.allclose(moments.gram, 2 * whole @ whole.mT)
    assert torch.equal(moments.gram, moments.gram.mT)


def test_half_precision_is_summed_in_single() -> None:
    rows, whole, _ = opened("linear_tokens", torch.bfloat16)
    moments = Moments.zeros(1, whole.shape[1] - 1, 1)
    moments.add_rows(rows)
    exact = whole.double() @ whole.double().mT
    assert torch.allclose(moments.gram, exact, rtol=1e-6, atol=1e-6)
