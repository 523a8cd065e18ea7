"""Ridges are chosen and systems solved as written out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from secateur.criteria.least_squares import normal
from secateur.criteria.least_squares.normal import Moments, Prior, ridge_solve, solve


def problem(rows: int, columns: int, outputs: int, noise: float) -> tuple[tuple[Moments, Moments], Tensor]:
    """Moments of two halves of noisy data, and weights near the right ones."""
    torch.manual_seed(0)
    weights, folds = torch.randn(columns, outputs).double(), []
    for _ in range(2):
        u = torch.cat([torch.randn(rows, columns), torch.ones(rows, 1)], 1).double()
        t = u[:, :-1] @ weights + noise * torch.randn(rows, outputs)
        folds.append(Moments((u.T @ u)[None], (u.T @ t)[None], t.square().sum(0)[None]))
    prior = torch.cat([weights.T + 0.3 * torch.randn(outputs, columns), torch.zeros(outputs, 1)], 1).double()
    return (folds[0], folds[1]), prior[None]


@pytest.mark.parametrize("intercept", [True, False])
def test_a_ridge_is_that_of_the_formula(intercept: bool) -> None:
    (one, _), prior = problem(50, 6, 3, 1.0)
    found = ridge_solve(one, prior, 0.1, intercept=intercept)
    gram, pull = one.gram[0], 0.1 * one.gram[0].diagonal()[:6].mean()
    penalty = torch.diag(torch.tensor([*[float(pull)] * 6, 0.0 if intercept else 1e12]).double())
    want = torch.linalg.solve(gram + penalty, one.cross[0] + penalty @ prior[0].T).T
    assert torch.allclose(found[0], want, atol=1e-9)


def test_columns_that_are_always_zero_get_no_weight() -> None:
    (one, _), prior = problem(50, 6, 3, 1.0)
    for tensor in (one.gram[:, 2], one.gram[:, :, 2], one.cross[:, 2]):
        tensor.zero_()
    assert torch.isfinite(ridge_solve(one, prior, 0.0)).all()


@pytest.mark.parametrize("rows", [14, 40, 400])
@pytest.mark.parametrize("noise", [0.1, 3.0, 30.0])
def test_random_sums_of_many_outputs_choose_the_ridge_of_all(
    rows: int, noise: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    folds, prior = problem(rows, 24, 400, noise)
    some = solve(folds, [Prior.fixed(prior)]).ridge
    monkeypatch.setattr(normal, "MIXED", 1000)
    assert some == solve(folds, [Prior.fixed(prior)]).ridge
