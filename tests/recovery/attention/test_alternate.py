"""Maps fitted in turn: nearer than where they begin, and each side the optimum for the other one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from secateur.recovery.attention import alternate
from secateur.recovery.attention.alternate import Maps, Samples, alternated, divergence


def samples(masked: bool = False, rotated: bool = False) -> Samples:
    torch.manual_seed(0)
    queries, keys = torch.randn(2, 3, 10, 5, 4).double(), torch.randn(2, 10, 5, 4).double()
    bias = torch.zeros(2, 3, 10, 5, 5).double()
    if masked:
        bias += torch.full((5, 5), -1e30).triu(1)
    angle = torch.arange(5).double()
    turn = torch.stack([torch.stack([angle.cos(), -angle.sin()], -1), torch.stack([angle.sin(), angle.cos()], -1)], -2)
    mix = turn[None] if rotated else None
    target = torch.einsum("grnld,gnsd->grnls", queries, keys)
    return Samples(queries, keys, target, bias, torch.ones(2, 3, 10, 5, dtype=torch.bool), 0.7, mix, mix)


def objective(one: Samples, query: Tensor, key: Tensor) -> Tensor:
    """Weighted variance of the logits' errors, written out row by row."""
    q, k = torch.einsum("gred,grnld->grnle", query, one.queries), torch.einsum("ged,gnsd->gnse", key, one.keys)
    if one.mix_query is not None:
        q, k = (torch.einsum("lfe,...le->...lf", one.mix_query[0], v) for v in (q, k))
    error = 0.7 * torch.einsum("grnle,gnse->grnls", q, k) - one.target
    weight = one.weights()
    mean = (weight * error).sum(-1, keepdim=True)
    return (weight * (error - mean) ** 2).sum()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("rotated", [False, True])
def test_each_side_is_the_optimum_given_the_other(masked: bool, rotated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    one = samples(masked, rotated)
    kept = torch.eye(4)[:2].double()
    start = Maps(kept.expand(2, 3, -1, -1).clone(), kept.expand(2, -1, -1).clone())
    moments = (
        torch.einsum("grnld,grnle->gde", one.queries, one.queries),
        torch.einsum("gnsd,gnse->gde", one.keys, one.keys),
    )
    few = alternated([one], start, *moments)
    assert objective(one, few.query, few.key) < 0.8 * objective(one, start.query, start.key)
    monkeypatch.setattr(alternate, "STEPS", 60)
    parts = [one.part(slice(0, 4)), one.part(slice(4, 10))]
    weighted = [part.weights() for part in parts]
    for fitted, place in ((alternate._fitted_queries, 0), (alternate._fitted_keys, 1)):
        before, after = slopes(one, start)[place], slopes(one, fitted(parts, weighted, start, *moments))[place]
        assert after < 1e-6 * before


def slopes(one: Samples, maps: Maps) -> list[float]:
    """Length of the objective's derivative by the maps of queries and of keys."""
    query, key = maps.query.clone().requires_grad_(), maps.key.clone().requires_grad_()
    return [float(g.norm()) for g in torch.autograd.grad(objective(one, query, key), (query, key))]


def test_rows_weigh_one_and_masked_entries_nothing() -> None:
    one = samples(masked=True)
    weight = one.weights()
    assert torch.allclose(weight.sum(-1), torch.ones(2, 3, 10, 5).double())
    assert not weight[..., 0, 1:].any()


def test_divergence_is_that_of_kullback_and_leibler() -> None:
    one = samples(masked=True)
    got = one.target * 0.5
    want = torch.nn.functional.kl_div(
        (got + one.bias).log_softmax(-1), (one.target + one.bias).softmax(-1), reduction="none"
    ).sum((1, 2, 3, 4)) / (3 * 10 * 5)
    assert torch.allclose(divergence([one], lambda _: got), want)
    assert not divergence([one], lambda _: one.target + 3).abs().max() > 1e-12  # a constant per query
