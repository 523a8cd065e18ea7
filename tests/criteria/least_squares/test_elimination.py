"""Elimination in blocks and in place is elimination unit by unit, written out with copies."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.criteria.least_squares import elimination, gather
from secateur.criteria.least_squares.elimination import RIDGE, Fit, eliminate


class Plain:
    """What :class:`Fit` is, without a thought of time or memory."""

    def __init__(self, gram: Tensor, cross: Tensor, columns: list[tuple[int, Tensor]]) -> None:
        system = gram + RIDGE * gram.diagonal()[:-1].mean() * torch.eye(len(gram)).double()
        self.inverse = torch.linalg.inv(system)
        self.weights = self.inverse @ cross
        self.columns = dict(columns)

    def rise(self, unit: int) -> float:
        own = self.columns[unit]
        block, weights = self.inverse[own][:, own], self.weights[own]
        return float(torch.trace(weights.T @ torch.linalg.inv(block) @ weights))

    def remove(self, unit: int) -> None:
        own = self.columns.pop(unit)
        gain = self.inverse[:, own] @ torch.linalg.inv(self.inverse[own][:, own])
        self.weights = self.weights - gain @ self.weights[own]
        self.inverse = self.inverse - gain @ self.inverse[own]


def plainly(fits: list[Plain], units: int) -> tuple[list[int], list[float]]:
    left, order, errors = list(range(units)), [], []
    while len(left) > 1:
        rises = [sum(fit.rise(u) for fit in fits if u in fit.columns) for u in left]
        order.append(left.pop(rises.index(min(rises))))
        errors.append(max(0.0, min(rises)))
        for fit in fits:
            if order[-1] in fit.columns:
                fit.remove(order[-1])
    return order, errors


def problem(units: list[int], block: int, outputs: int, seed: int) -> tuple[Tensor, Tensor, list[tuple[int, Tensor]]]:
    """Correlated, rectified columns; some belong to no unit, and blocks of columns are mixed up."""
    generator = torch.Generator().manual_seed(seed)
    size = len(units) * block + 3
    x = torch.randn(4 * size, size, generator=generator).double()
    x[:, 1:] += 0.5 * x[:, :-1]
    x = torch.cat([x.relu(), torch.ones(len(x), 1)], 1)
    places = torch.randperm(size, generator=generator)[: len(units) * block].reshape(-1, block)
    y = x @ torch.randn(size + 1, outputs, generator=generator).double()
    return x.T @ x, x.T @ y, [(unit, own) for unit, own in zip(units, places, strict=True)]


@pytest.mark.parametrize("pending", [1, 7, 96])
@pytest.mark.parametrize(("block", "outputs"), [(1, 3), (1, 200), (4, 5), (9, 40)])
def test_order_and_rises_are_those_written_out(
    block: int, outputs: int, pending: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(elimination, "PENDING", pending)
    first = problem(list(range(40)), block, outputs, 0)
    second = problem(list(range(0, 40, 3)), 2, 4, 1)  # only some of the units enter the second layer
    want = plainly([Plain(*first), Plain(*second)], 40)
    order, rises = eliminate([Fit.of(*first, 1.0), Fit.of(*second, 1.0)], 40)
    assert order == want[0]
    assert torch.allclose(torch.tensor(rises).double(), torch.tensor(want[1]).double(), rtol=1e-9, atol=0)


def test_nothing_that_was_handed_in_changes() -> None:
    gram, cross, columns = problem(list(range(12)), 2, 3, 0)
    before = gram.clone(), cross.clone()
    eliminate([Fit.of(gram, cross, columns, 1.0)], 12)
    assert torch.equal(gram, before[0])
    assert torch.equal(cross, before[1])


class Shared(nn.Module):
    """Two layers that share their input, of different scales, one of them with more outputs than inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.small, self.large = nn.Linear(5, 12), nn.Linear(12, 4), nn.Linear(12, 30)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.relu(self.into(x))
        return self.small(x), 100 * self.large(x)


def test_layers_that_share_their_input_count_as_they_do_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net, x, seen = Shared().double().eval(), torch.randn(200, 5).double(), []
    real: Any = gather.eliminate

    def told(fits: Any, units: int) -> Any:
        seen.append((len(fits), found := real(fits, units)))
        return found

    monkeypatch.setattr(gather, "eliminate", told)
    secateur.prune(net, x[:2], criterion="reconstruction", data=x, ratio=0.5)
    ((fits, (order, rises)),) = seen
    assert fits == 1
    with torch.no_grad():
        u = torch.cat([torch.relu(net.into(x)), torch.ones(200, 1)], 1)
        targets = [net.small(torch.relu(net.into(x))), net.large(torch.relu(net.into(x)))]
    columns = [(k, torch.tensor([k])) for k in range(12)]
    roots = [float((t - t.mean(0)).square().sum()) ** 0.5 for t in targets]
    want = plainly([Plain(u.T @ u, u.T @ t / r, columns) for t, r in zip(targets, roots, strict=True)], 12)
    assert order == want[0]
    assert torch.allclose(torch.tensor(rises).double(), torch.tensor(want[1]).double(), rtol=1e-6)
