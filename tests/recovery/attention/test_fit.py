"""Attention after a cut of its head size: the dense network's attention comes back where it can."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import secateur
from secateur.core.errors import InputError
from secateur.recovery import api
from secateur.recovery.attention import LogitFit


class Attention(nn.Module):
    """Queries of 4 heads over keys of ``shared`` times fewer; the values stay whole under a cut of queries and keys."""

    def __init__(self, kind: str = "fused", shared: int = 1, bias: bool = True, rank: int = 8) -> None:
        super().__init__()
        self.kind, self.shared = kind, shared
        self.q, self.k = nn.Linear(12, 32, bias=bias), nn.Linear(12, 32 // shared, bias=bias)
        self.v, self.out = nn.Linear(12, 20 // shared), nn.Linear(20, 12)
        self.double()
        with torch.no_grad():  # keys of few dimensions: the logits have no more
            for head in self.k.weight.view(4 // shared, 8, 12):
                u, s, v = torch.linalg.svd(head)
                head.copy_((u[:, :rank] * s[:rank]) @ v[:rank])

    def heads(self, x: Tensor, layer: nn.Linear, count: int) -> Tensor:
        return layer(x).unflatten(-1, (count, -1)).transpose(1, 2)

    def forward(self, x: Tensor, memory: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        given = x if memory is None else memory
        q, k, v = self.heads(x, self.q, 4), *(self.heads(given, m, 4 // self.shared) for m in (self.k, self.v))
        k, v = (t.repeat_interleave(self.shared, 1) for t in (k, v))
        if mask is not None:
            mask = mask[:, None, None, :]
        if self.kind == "fused":
            seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        elif self.kind == "causal":
            seen = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3)
        else:
            logits = q @ k.transpose(-1, -2) / 8**0.5
            if mask is not None:
                logits = logits.masked_fill(~mask, -1e9)
            seen = logits.softmax(-1) @ v
        return self.out(seen.transpose(1, 2).flatten(2))


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[LogitFit]:
    """The stops at which logits were fitted."""
    found: list[LogitFit] = []
    whole = api.logit_fits

    def watched(*given: Any) -> Any:
        made = whole(*given)
        found.extend(made[0])
        return made

    monkeypatch.setattr(api, "logit_fits", watched)
    return found


def cut(net: nn.Module, x: Any, **options: Any) -> secateur.Pruned:
    return secateur.prune(net, x, ratio=0.5, granularity="within", only=["q", "k"], **options)


def away(one: nn.Module, other: nn.Module, *x: Any) -> float:
    with torch.no_grad():
        return float((one(*x) - other(*x)).abs().max() / other(*x).abs().max())


@pytest.mark.parametrize("kind", ["fused", "causal", "spelled"])
@pytest.mark.parametrize("shared", [1, 2, 4])
@pytest.mark.parametrize("backend", ["module", "graph"])
def test_logits_of_few_dimensions_come_back_exactly(kind: str, shared: int, backend: str) -> None:
    torch.manual_seed(0)
    net = Attention(kind, shared, rank=4).eval()
    x = torch.randn(40, 6, 12).double()
    pruned = cut(net, x[:2], backend=backend)
    assert away(pruned.model, net, x) > 1e-3
    fixed = secateur.recover(pruned, x)
    assert away(fixed.model, net, torch.randn(9, 6, 12).double()) < 1e-8


@pytest.mark.parametrize("bias", [True, False])
def test_it_is_nearer_than_a_fit_of_the_layers(
    bias: bool, fits: list[LogitFit], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    net = Attention(bias=bias).eval()
    x, other = torch.randn(200, 6, 12).double(), torch.randn(50, 6, 12).double()
    pruned = cut(net, x[:2])
    fixed = secateur.recover(pruned, x)
    (fit,) = fits
    assert fit.after < fit.before / 3
    monkeypatch.setattr(api, "logit_fits", lambda pair, found, options: ([], found, []))
    layers = secateur.recover(pruned, x)
    assert away(fixed.model, net, other) < away(layers.model, net, other) < away(pruned.model, net, other)


def test_two_inputs() -> None:
    torch.manual_seed(0)
    net = Attention(rank=4).eval()
    x, memory = torch.randn(40, 5, 12).double(), torch.randn(40, 7, 12).double()
    pruned = cut(net, (x[:2], memory[:2]))
    fixed = secateur.recover(pruned, (x, memory))
    assert away(fixed.model, net, x, memory) < 1e-8 < away(pruned.model, net, x, memory)


@pytest.mark.parametrize("kind", ["fused", "spelled"])
def test_padding_does_not_count(kind: str) -> None:
    torch.manual_seed(0)
    net = Attention(kind).eval()
    x, mask = torch.randn(60, 6, 12).double(), torch.arange(6)[None] < torch.randint(2, 7, (60, 1))
    pruned = cut(net, {"x": x[:2], "mask": mask[:2]})
    found = []
    for filler in (0.0, 30.0):
        given = torch.where(mask[..., None], x, filler * torch.randn_like(x))
        fixed = secateur.recover(pruned, {"x": given, "mask": mask})
        q, k = (m.weight.detach().unflatten(0, (4, -1)) for m in (fixed.model.q, fixed.model.k))
        found.append(q.mT @ k)
    assert torch.allclose(*found, atol=1e-6)


def test_errors_of_earlier_layers_are_made_good(fits: list[LogitFit]) -> None:
    torch.manual_seed(0)
    first, second = Attention(), Attention(rank=4)
    net = nn.Sequential(first, nn.LayerNorm(12), second).double().eval()
    x = torch.randn(200, 6, 12).double()
    pruned = secateur.prune(net, x[:2], ratio=0.5, granularity="within", only=["*.q", "*.k"])
    fixed = secateur.recover(pruned, x)
    assert [fit.after < fit.before for fit in fits] == [True, True]
    assert away(fixed.model, net, x) < away(pruned.model, net, x) / 2


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_multihead_attention(need_weights: bool, batch_first: bool, fits: list[LogitFit]) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention, self.out = nn.MultiheadAttention(16, 2, batch_first=batch_first), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = x if batch_first else x.transpose(0, 1)
            x = self.attention(x, x, x, need_weights=need_weights)[0]
            return self.out(x if batch_first else x.transpose(0, 1))

    torch.manual_seed(0)
    net, x = Net().eval(), torch.randn(96, 6, 16)
    pruned = secateur.prune(net, x[:2], ratio=0.5, granularity="within", only="attention.*")
    fixed = secateur.recover(pruned, x)
    (fit,) = fits
    assert fit.after < fit.before / 2
    assert fixed.model is not pruned.model


def test_a_factor_that_was_folded_into_the_queries() -> None:
    class Net(Attention):
        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            q, k, v = (self.heads(x, m, 4) for m in (self.q, self.k, self.v))
            seen = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1) @ v
            return self.out(seen.transpose(1, 2).flatten(2))

    torch.manual_seed(0)
    net, x = Net(rank=4).eval(), torch.randn(40, 6, 12).double()
    pruned = cut(net, x[:2], backend="module")
    assert pruned.plan.scaled
    assert away(secateur.recover(pruned, x).model, net, x) < 1e-8


def test_half_precision(fits: list[LogitFit]) -> None:
    torch.manual_seed(0)
    net, x = Attention(shared=2).bfloat16().eval(), torch.randn(60, 6, 12).bfloat16()
    pruned = cut(net, x[:2], backend="module")
    fixed = secateur.recover(pruned, x)
    (fit,) = fits
    assert fit.after < fit.before / 2
    assert fixed.model.q.weight.dtype == torch.bfloat16
    assert away(fixed.model, net, x) < away(pruned.model, net, x)


def test_queries_that_are_normalised_stay_and_it_is_said() -> None:
    class Net(Attention):
        def heads(self, x: Tensor, layer: nn.Linear, count: int) -> Tensor:
            found = super().heads(x, layer, count)
            return found if layer is self.v else F.normalize(found, dim=-1)

    torch.manual_seed(0)
    net, x = Net().eval(), torch.randn(40, 6, 12).double()
    fixed = secateur.recover(cut(net, x[:2]), x)
    assert any("queries and keys stay as they were cut: they are not linear" in note for note in fixed.notes)


def test_rotated_queries_and_keys(fits: list[LogitFit]) -> None:
    class Net(Attention):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("speeds", 0.5 ** torch.arange(4.0))

        def heads(self, x: Tensor, layer: nn.Linear, count: int) -> Tensor:
            found = super().heads(x, layer, count)
            if layer is self.v:
                return found
            angles = torch.arange(x.shape[1])[:, None] * torch.cat([self.speeds, self.speeds])
            first, second = found.chunk(2, -1)
            return found * angles.cos() + torch.cat([-second, first], -1) * angles.sin()

    torch.manual_seed(0)
    net, x = Net().eval(), torch.randn(200, 6, 12).double()
    pruned = cut(net, x[:2])
    fixed = secateur.recover(pruned, x)
    (fit,) = fits
    assert fit.after < fit.before
    assert away(fixed.model, net, x) < away(pruned.model, net, x)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_none(bad: float) -> None:
    net, x = Attention().eval(), torch.randn(20, 6, 12).double()
    pruned = cut(net, x[:2])
    x[3, 2, 1] = bad
    with pytest.raises(InputError, match="NaN or infinite"):
        secateur.recover(pruned, x)


@pytest.mark.parametrize("shared", [1, 2])
def test_whole_heads_go_and_the_output_is_refitted(shared: int, fits: list[LogitFit]) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = Attention(shared=shared)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.attention(x)

    torch.manual_seed(0)
    net, x = Block().eval(), torch.randn(200, 6, 12).double()
    pruned = secateur.prune(net, x[:2], ratio=0.5, granularity="whole", only=["*.q", "*.k", "*.v"])
    fixed = secateur.recover(pruned, x, ridge=0.0)
    assert not fits
    with torch.no_grad():  # the best output layer on what is left, by an independent solver
        attention, given = fixed.model.attention, []
        attention.out.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
        got = fixed.model(x)
        columns = torch.cat([given[0].flatten(0, 1), torch.ones(given[0].flatten(0, 1).shape[0], 1).double()], 1)
        target = (net(x) - x).flatten(0, 1)
        best = columns @ torch.linalg.lstsq(columns, target).solution
    assert torch.allclose((got - x).flatten(0, 1), best, atol=1e-6)
