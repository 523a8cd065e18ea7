"""Rules of single operators: what they let go, what they pin by name, and that what comes out is right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import secateur
from cutting import check, masked
from secateur.core.errors import SecateurError
from secateur.graph.ops.pieces import _runs
from zoo import Lambda, settle


def small(
    run: Callable[..., Tensor], widths: tuple[int, int] = (12, 12), seed: int = 0, **parts: Any
) -> tuple[nn.Module, Tensor]:
    """Linear, the operator, linear; parts that are tensors become buffers."""
    torch.manual_seed(seed)
    modules = {n: p for n, p in parts.items() if isinstance(p, nn.Module)}
    model = Lambda(lambda m, x: m.b(run(m, m.a(x))), a=nn.Linear(5, widths[0]), b=nn.Linear(widths[1], 3), **modules)
    for name, tensor in parts.items():
        if isinstance(tensor, nn.Parameter):
            model.register_parameter(name, tensor)
        elif isinstance(tensor, Tensor):
            model.register_buffer(name, tensor)
    return settle(model), torch.randn(4, 5)


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("dim", [0, 1, None])
def test_weight_norm_counts_the_kept_entries(old: bool, dim: int | None) -> None:
    norm = nn.utils.weight_norm if old else nn.utils.parametrizations.weight_norm
    model, x = small(lambda m, h: m.c(torch.tanh(h)), c=norm(nn.Linear(12, 12), dim=dim))
    pruned = secateur.prune(model, x, ratio=0.5, criterion="random")
    scale, direction = ("weight_g", "weight_v") if old else [f"parametrizations.weight.original{k}" for k in "01"]
    state, kept = model.state_dict(), pruned.plan.keep[f"c.{direction}"]
    v = state[f"c.{direction}"][list(kept[0])][:, list(kept[1])]
    g = state[f"c.{scale}"]
    g = g if dim is None else g.index_select(dim, torch.tensor(kept[dim]))
    size = v.norm() if dim is None else v.norm(dim=1 - dim, keepdim=True)
    a, b = pruned.model.a, pruned.model.b
    with torch.no_grad():
        hidden = F.linear(torch.tanh(a(x)), g * v / size, state["c.bias"][list(kept[0])])
        assert torch.allclose(pruned.model(x), b(hidden), atol=1e-6)


@pytest.mark.parametrize("groups", [1, 4])
def test_weight_norm_over_the_positions_of_a_kernel(groups: int) -> None:
    norm = nn.utils.parametrizations.weight_norm
    model = nn.Sequential(nn.Conv1d(4, 16, 3), norm(nn.Conv1d(16, 16, 4, groups=groups), dim=2), nn.GELU(),
                          nn.Conv1d(16, 4, 1))  # fmt: skip
    check(settle(model), torch.randn(2, 4, 20))


@pytest.mark.parametrize("norm", [nn.utils.spectral_norm, nn.utils.parametrizations.spectral_norm])
def test_spectral_norm_is_that_of_the_masked_weight(norm: Callable[..., nn.Module]) -> None:
    layer = norm(nn.Linear(12, 12))
    layer.train()(torch.randn(4, 12))
    model, x = small(lambda m, h: m.c(F.relu(h)), c=layer)
    pruned = check(model, x)
    assert not pruned.unsupported
    assert any(name.startswith("c.") and "0" in map(str, dims) for name, dims in pruned.plan.keep.items())


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_cells_lose_inputs_and_hidden_units(cell: Callable[..., nn.Module]) -> None:
    def run(m: Any, h: Tensor) -> Tensor:
        out = m.c(F.relu(h))
        return out[0] if isinstance(out, tuple) else out

    model, x = small(run, c=cell(12, 12))
    pruned = secateur.prune(model, x, ratio=0.5, criterion="random")
    assert set(pruned.plan.keep["c.weight_ih"]) == {0, 1}
    assert set(pruned.plan.keep["c.weight_hh"]) == {0, 1}
    assert not pruned.unsupported
    want = masked(model, pruned, x)
    assert torch.allclose(pruned.model(x).double(), want, atol=1e-6)


def test_bilinear_layers_lose_both_inputs_and_outputs() -> None:
    model, x = small(lambda m, h: m.c(F.relu(h), torch.tanh(m.d(h))), c=nn.Bilinear(12, 8, 12), d=nn.Linear(12, 8))
    assert set(check(model, x).plan.keep["c.weight"]) == {0, 1, 2}


def test_a_bag_of_embeddings_loses_its_width_and_keeps_its_words() -> None:
    model = Lambda(lambda m, x: m.b(m.bag(x)), bag=nn.EmbeddingBag(9, 12, mode="mean"), b=nn.Linear(12, 3))
    x = torch.randint(0, 9, (4, 3))
    pruned = secateur.prune(settle(model), x, ratio=0.5, criterion="random")
    assert set(pruned.plan.keep["bag.weight"]) == {1}
    left = list(pruned.plan.keep["bag.weight"][1])
    want = F.linear(model.bag.weight[x].mean(1)[:, left], model.b.weight[:, left], model.b.bias)
    assert torch.allclose(pruned.model(x), want, atol=1e-6)


def test_what_lies_at_sampled_places_loses_channels() -> None:
    places = torch.rand(2, 4, 4, 2) * 2 - 1
    model = Lambda(lambda m, x: m.b(F.grid_sample(m.a(x), m.places, align_corners=False)), a=nn.Conv2d(3, 8, 1),
                   b=nn.Conv2d(8, 3, 1))  # fmt: skip
    model.register_buffer("places", places)
    check(settle(model), torch.randn(2, 3, 6, 6))


@pytest.mark.parametrize("shift", [1, -2, 5])
def test_rolled_channels_come_round_as_before(shift: int) -> None:
    check(*small(lambda m, h: torch.roll(h, shift, 1)))


@pytest.mark.parametrize("steps", [(None, None, 2), (1, None, 3), (2, -1, 2)])
def test_strided_slices_stay_slices(steps: tuple[int | None, ...], tmp_path: Path) -> None:
    width = len(range(12)[slice(*steps)])
    model, x = small(lambda m, h: torch.tanh(h[:, slice(*steps)]), (12, width))
    pruned = secateur.prune(model, x, ratio=0.5, criterion="random", backend="graph")
    want = masked(model, pruned, x)
    assert torch.allclose(pruned.model(x).double(), want, atol=1e-6)
    assert not [n for n, _ in pruned.model.named_buffers()]  # no index that an artifact would have to hold
    assert torch.equal(secateur.load(pruned.save(tmp_path, graph=True))(x), pruned.model(x))
    again = secateur.prune(pruned.model, x, ratio=0.4, criterion="random")
    assert torch.allclose(again.model(x).double(), masked(model, again, x), atol=1e-6)


def test_places_as_ranges() -> None:
    assert _runs([]) == []
    assert _runs([3]) == [range(3, 4)]
    assert [list(r) for r in _runs([0, 1, 2, 5, 7, 9, 10])] == [[0, 1, 2], [5, 7, 9], [10]]


def test_extrema_along_channels_count_what_is_kept() -> None:
    model, x = small(lambda m, h: h + h.max(1, keepdim=True).values + h.median(1, keepdim=True)[0])
    pruned = secateur.prune(model, x, ratio=0.5, criterion="random")
    left = list(pruned.plan.keep["a.weight"][0])
    hidden = model.a(x)[:, left]
    hidden = hidden + hidden.max(1, keepdim=True).values + hidden.median(1, keepdim=True)[0]
    assert torch.allclose(pruned.model(x), F.linear(hidden, model.b.weight[:, left], model.b.bias), atol=1e-5)
    assert not pruned.unsupported


def test_a_position_of_an_extremum_that_is_used_pins_by_name() -> None:
    model, x = small(lambda m, h: m.c(F.relu(h)) + m.c(F.relu(h)).max(1, keepdim=True).indices, c=nn.Linear(12, 12))
    pruned = secateur.prune(model, x, ratio=0.5)
    assert {u.operator for u in pruned.unsupported} == {"aten.max.dim"}
    assert "c.weight" in pruned.plan.keep
    assert set(pruned.plan.keep["c.weight"]) == {1}


def test_running_products_count_what_is_kept() -> None:
    model, x = small(lambda m, h: torch.cumprod(torch.sigmoid(h), 1))
    pruned = secateur.prune(model, x, ratio=0.5, criterion="random")
    left = list(pruned.plan.keep["a.weight"][0])
    hidden = torch.cumprod(torch.sigmoid(model.a(x)[:, left]), 1)
    assert torch.allclose(pruned.model(x), F.linear(hidden, model.b.weight[:, left], model.b.bias), atol=1e-6)


def test_key_heads_go_with_the_query_heads_that_share_them() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        q, k, v = (p(x).view(2, 5, -1, 3).transpose(1, 2) for p in (m.q, m.k, m.v))
        return m.o(F.scaled_dot_product_attention(q, k, v, enable_gqa=True).transpose(1, 2).flatten(2))

    model = Lambda(run, q=nn.Linear(6, 18), k=nn.Linear(6, 9), v=nn.Linear(6, 9), o=nn.Linear(18, 6))
    pruned = secateur.prune(settle(model), torch.randn(2, 5, 6), ratio=0.4, granularity="whole", backend="graph")
    heads = {i // 3 for i in pruned.plan.keep["k.weight"][0]}
    assert len(heads) == 2
    assert {i // 6 for i in pruned.plan.keep["q.weight"][0]} == heads
    x = torch.randn(2, 5, 6)
    assert torch.allclose(pruned.model(x).double(), masked(model, pruned, x), atol=1e-6)


def test_weights_of_every_sample_can_be_cut() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        n = x.shape[0]
        k = m.w[None] * m.style(x.mean((2, 3))).view(n, 1, 8, 1, 1)
        k = k * torch.rsqrt(k.pow(2).sum((2, 3, 4), keepdim=True) + 1e-8)
        y = F.conv2d(m.a(x).reshape(1, -1, 6, 6), k.reshape(-1, 8, 3, 3), padding=1, groups=n)
        return m.b(y.reshape(n, -1, 6, 6))

    model = Lambda(run, a=nn.Conv2d(3, 8, 1), b=nn.Conv2d(8, 3, 1), style=nn.Linear(3, 8))
    model.w = nn.Parameter(torch.randn(8, 8, 3, 3) * 0.3)
    x = torch.randn(2, 3, 6, 6)
    pruned = secateur.prune(settle(model), x, ratio=0.5, criterion="random")
    assert set(pruned.plan.keep["w"]) == {0, 1}
    for batch in (2, 3):
        other = torch.randn(batch, 3, 6, 6)
        assert torch.allclose(pruned.model(other).double(), masked(model, pruned, other), atol=1e-5)


def test_a_count_that_depends_on_the_channels_pins_by_name() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        h = m.b(m.a(x).relu())
        return m.c(h) + h[h > 0].sum()

    x = torch.randn(4, 5)
    model = settle(Lambda(run, a=nn.Linear(5, 12), b=nn.Linear(12, 8), c=nn.Linear(8, 3)))
    pruned = secateur.prune(model, x, ratio=0.5)
    assert set(pruned.plan.keep) == {"a.weight", "a.bias", "b.weight"}
    assert {(u.operator, u.reason) for u in pruned.unsupported} == {
        ("aten.index.Tensor", "how many entries there are depends on their values")
    }
    assert torch.allclose(pruned.model(x).double(), masked(model, pruned, x), atol=1e-6)


@pytest.mark.parametrize("way", ["index_select", "index", "gather"])
def test_what_unknown_numbers_point_at_stays_and_is_reported(way: str) -> None:
    def run(m: Any, h: Tensor) -> Tensor:
        h, order = m.c(F.relu(h)), m.order * 1  # computed: nobody knows the numbers
        if way == "index_select":
            return h.index_select(1, order)
        return h[:, order] if way == "index" else h.gather(1, order.expand(h.shape[0], -1))

    model, x = small(run, (12, 4), c=nn.Linear(12, 12), order=torch.tensor([3, 1, 1, 8]))
    pruned = secateur.prune(model, x, ratio=0.5)
    assert {u.operator.split(".")[1] for u in pruned.unsupported} == {way}
    assert set(pruned.plan.keep["c.weight"]) == {1}
    assert torch.allclose(pruned.model(x).double(), masked(model, pruned, x), atol=1e-6)


class Numbered(nn.Module):
    """Channels picked by a buffer of numbers, as a shuffle or a selection writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1)
        self.register_buffer("order", torch.tensor([3, 1, 7, -3, 0, 3]))

    def forward(self, x: Tensor) -> Tensor:
        return self.c(F.relu(self.a(x)[:, self.order] * self.b(x)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("backend", ["module", "graph"])
def test_known_numbers_are_rewritten_and_saved(backend: str, tmp_path: Any) -> None:
    model, x = settle(Numbered()), torch.randn(2, 3, 4, 4)
    pruned = secateur.prune(model, x, ratio=0.5, criterion="random", seed=2, backend=backend)
    assert not pruned.unsupported
    assert "order" not in pruned.plan.keep
    assert len(pruned.plan.indices["order"]) == len(pruned.plan.keep["b.weight"][0])
    kept_a, kept_b = pruned.plan.keep["a.weight"][0], pruned.plan.keep["b.weight"][0]
    order = [i % 8 for i in model.order.tolist()]  # type: ignore[operator, union-attr]
    assert [kept_a[i] for i in pruned.plan.indices["order"]] == [order[k] for k in kept_b]
    mask = torch.zeros(6)
    mask[list(kept_b)] = 1
    hidden = F.relu(model.a(x)[:, order] * model.b(x)) * mask[:, None, None]  # type: ignore[operator]
    assert torch.allclose(pruned.model(x), model.c(hidden), atol=1e-6)  # type: ignore[operator]
    pruned.save(tmp_path, graph=True)
    for loaded in (secateur.load(tmp_path).model, secateur.load(tmp_path, model=Numbered()).model):
        assert torch.allclose(loaded(x), pruned.model(x), atol=1e-6)
    again = secateur.prune(pruned.model, x, ratio=0.3, criterion="random", seed=1, backend=backend)
    assert torch.allclose(secateur.apply(model, again.plan, x).model(x), again.model(x), atol=1e-6)


def test_windows_over_channels_are_reported() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.LocalResponseNorm(3), nn.Conv2d(8, 3, 1))
    with pytest.raises(SecateurError, match="local_response_norm"):
        secateur.prune(model, torch.randn(2, 3, 5, 5), ratio=0.5)


@pytest.mark.parametrize(
    "draw",
    [
        lambda h: torch.empty_like(h).exponential_(),
        lambda h: torch.empty_like(h).uniform_(),
        lambda h: torch.empty_like(h).normal_(),
        lambda h: torch.empty_like(h).cauchy_(),
        lambda h: torch.empty_like(h).log_normal_(),
        lambda h: torch.empty_like(h).geometric_(0.5),
        lambda h: torch.empty_like(h).bernoulli_(0.5),
        lambda h: torch.randn(h.shape[0], 1),
        lambda h: torch.rand(h.shape),
        lambda h: torch.normal(0.0, 1.0, h.shape),
        lambda h: torch.bernoulli(torch.full_like(h, 0.5)),
        lambda h: F.dropout(torch.ones_like(h), 0.3),
        lambda h: torch.native_dropout(torch.ones_like(h), 0.3, True)[0],
    ],
)
def test_random_numbers_let_channels_go(draw: Callable[[Tensor], Tensor]) -> None:
    """Two networks draw different numbers, so that only sizes and labels are looked at here."""
    model, x = small(lambda m, h: torch.tanh(h) * draw(h))
    for backend in ("module", "graph"):
        pruned = secateur.prune(model, x, ratio=0.5, backend=backend, verify=False)
        assert not pruned.unsupported
        assert len(pruned.plan.keep["a.weight"][0]) == 6
        assert pruned.model(x).shape == (4, 3)
