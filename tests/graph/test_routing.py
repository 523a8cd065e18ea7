"""Experts that a router chooses by number go with everything that the numbers point at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.core.errors import InputError
from secateur.cut.artifact.checked import grouped_mm

EXPERTS, WIDE, HIDDEN = 8, 8, 16


class Experts(nn.Module):
    """Two chosen experts for every token; ``mix`` computes them."""

    def __init__(self, mix: Callable[[Experts, Tensor, Tensor, Tensor], Tensor], *, soft: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Linear(5, WIDE)
        self.router = nn.Linear(WIDE, EXPERTS)
        self.up = nn.Parameter(torch.randn(EXPERTS, WIDE, HIDDEN))
        self.down = nn.Parameter(torch.randn(EXPERTS, HIDDEN, WIDE))
        self.outer = nn.Linear(WIDE, 3)
        self.experts, self.soft = EXPERTS, soft
        self.mix = mix

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(x)
        scores = self.router(x)
        scores = scores.softmax(-1) if self.soft else scores
        weights, numbers = scores.topk(2, dim=-1)
        return self.outer(self.mix(self, x, weights, numbers))  # type: ignore[no-any-return]


def picked(net: Experts, x: Tensor, weights: Tensor, numbers: Tensor) -> Tensor:
    """Every token takes its experts' weights."""
    up, down = net.up[numbers], net.down[numbers]
    y = torch.einsum("ti,tkih->tkh", x, up).relu()
    return (torch.einsum("tkh,tkhi->tki", y, down) * weights[..., None]).sum(1)


def counted(net: Experts, x: Tensor, weights: Tensor, numbers: Tensor) -> Tensor:
    """Tokens are sorted by expert, as transformers does."""
    flat, order = torch.sort(numbers.reshape(-1))
    ends = torch.cumsum(torch.histc(flat.float(), net.experts, 0, net.experts - 1), 0, dtype=torch.int32)
    rows = x[order // 2]
    y = torch._grouped_mm(rows, net.up, offs=ends).relu()
    y = torch._grouped_mm(y, net.down, offs=ends) * weights.reshape(-1)[order, None]
    back = torch.empty_like(order)
    back[order] = torch.arange(len(order))
    return y[back].view(len(x), 2, -1).sum(1)


def one_hot(net: Experts, x: Tensor, weights: Tensor, numbers: Tensor) -> Tensor:
    """All experts see all tokens."""
    share = (nn.functional.one_hot(numbers, net.experts).to(x.dtype) * weights[..., None]).sum(1)
    y = torch.einsum("ti,eih->teh", x, net.up).relu()
    return torch.einsum("teh,ehi,te->ti", y, net.down, share)


def gathered(net: Experts, x: Tensor, weights: Tensor, numbers: Tensor) -> Tensor:
    """The weights of the choice are other scores than those that it is made by."""
    return picked(net, x, net.router(x).sigmoid().gather(1, numbers), numbers)


@pytest.mark.parametrize("soft", [True, False])
@pytest.mark.parametrize("mix", [picked, counted, one_hot, gathered])
def test_half_of_the_experts_go(mix: Callable[..., Tensor], soft: bool) -> None:
    net, x = Experts(mix, soft=soft), torch.randn(7, 5)
    pruned = secateur.prune(net, x, ratio=0.5)
    assert pruned.backend == "module"
    assert pruned.verification is not None
    assert pruned.verification.proven
    small = pruned.model
    assert small.router.out_features == 4
    assert small.up.shape == (4, 4, 8)
    assert small.down.shape == (4, 8, 4)
    assert small(torch.randn(11, 5)).shape == (11, 3)


def test_the_experts_that_stay_are_the_dense_ones() -> None:
    """By hand: the dense network, in which the experts that go score less than any other."""
    net, x = Experts(picked), torch.randn(9, 5).double()
    pruned = secateur.prune(net, x.float(), ratio=0.5, groups=["up[0]"])
    kept = list(pruned.plan.keep["router.weight"][0])
    assert list(pruned.plan.keep["up"][0]) == kept
    dense = net.double()
    with torch.no_grad():
        gone = [e for e in range(EXPERTS) if e not in kept]
        dense.router.bias[gone] = -1e9
        dense.router.weight[gone] = 0
    assert torch.allclose(pruned.model.double()(x), dense(x), atol=1e-12)


def test_as_many_experts_stay_as_are_chosen() -> None:
    pruned = secateur.prune(Experts(picked), torch.randn(7, 5), ratio=0.99)
    assert pruned.model.router.out_features == 2


def test_widths_are_those_that_the_kernel_takes() -> None:
    pruned = secateur.prune(Experts(counted), torch.randn(7, 5), ratio=0.4)
    assert pruned.model.up.shape == (5, 4, 8)
    assert pruned.backend == "module"


def test_a_deviation_keeps_two_entries() -> None:
    class Spread(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            return self.b(y / (1 + y.std(1, keepdim=True)))  # type: ignore[no-any-return]

    pruned = secateur.prune(Spread(), torch.randn(3, 4), ratio=0.99)
    assert pruned.model.a.out_features == 2


def told(net: Experts, x: Tensor, weights: Tensor, numbers: Tensor) -> Tensor:
    """A number is used as a number."""
    return picked(net, x, weights, numbers) * numbers.sum(1, keepdim=True)


def other_table(net: Experts, x: Tensor, weights: Tensor, numbers: Tensor) -> Tensor:
    """Numbers pick from something else of the same size, which is of a fixed meaning."""
    return picked(net, x, weights, numbers) * torch.arange(8.0)[numbers].sum(1, keepdim=True)


def wider(net: Experts, x: Tensor, weights: Tensor, numbers: Tensor) -> Tensor:
    """There is one place more than experts."""
    share = nn.functional.one_hot(numbers, net.experts + 1).to(x.dtype)[..., :-1].sum(1)
    return torch.einsum("te,eih,ehj,ti->tj", share, net.up, net.down, x)


@pytest.mark.parametrize("mix", [told, other_table, wider])
def test_experts_stay_whose_numbers_are_used_otherwise(mix: Callable[..., Tensor]) -> None:
    net, x = Experts(mix), torch.randn(7, 5)
    pruned = secateur.prune(net, x, ratio=0.5)
    assert pruned.model.router.out_features == EXPERTS
    assert pruned.model.up.shape == (EXPERTS, 4, 8)
    assert pruned.verification is not None
    assert pruned.verification.proven


class Given(nn.Module):
    """The numbers are among the results."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(4, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        values, numbers = self.a(x).topk(2)
        return values, numbers


def test_numbers_that_are_results_keep_their_meaning() -> None:
    with pytest.raises(secateur.SecateurError, match="Nothing can be pruned"):
        secateur.prune(Given(), torch.randn(3, 4), ratio=0.5)


def test_experts_of_a_file_are_kept_within_their_rows(tmp_path: Path) -> None:
    net, x = Experts(counted), torch.randn(7, 5)
    pruned = secateur.prune(net, x, ratio=0.5, backend="graph")
    pruned.save(tmp_path / "small")
    loaded = secateur.load(tmp_path / "small")
    assert torch.allclose(loaded.model(x), pruned.model(x), atol=1e-6)
    rows, weight = torch.ones(3, 4), torch.ones(2, 4, 4)
    for ends in ([1, 9], [3, 1], [-1, 3]):
        with pytest.raises(InputError, match="ends in order"):
            grouped_mm(rows, weight, torch.tensor(ends, dtype=torch.int32))
    with pytest.raises(InputError, match="grouped_mm takes ends of shape"):
        grouped_mm(rows, weight, torch.tensor([3], dtype=torch.int32))


def as_truths(net: Experts, x: Tensor, weights: Tensor, numbers: Tensor) -> Tensor:
    """The first expert is another truth than the others."""
    return picked(net, x, weights, numbers.bool().long())


def test_numbers_that_become_truths_keep_their_experts() -> None:
    pruned = secateur.prune(Experts(as_truths), torch.randn(7, 5), ratio=0.5)
    assert pruned.model.router.out_features == EXPERTS


def test_scores_without_fractions_may_be_equal_so_experts_stay() -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 3)
            self.up = nn.Parameter(torch.randn(8, 3, 2))

        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x)
            numbers = (h * 3).long().topk(2).indices
            return torch.einsum("ti,tkio->to", self.b(h), self.up[numbers])

    pruned = secateur.prune(Whole(), torch.randn(4, 5), ratio=0.5)
    assert pruned.model.a.out_features == 8
    assert any("equal scores" in u.reason for u in pruned.unsupported)
