"""Operators between two layers, over the pruned dimension and over another one: cut and exact, or kept by name."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import secateur
from cutting import check, masked
from secateur.core.errors import BudgetError
from secateur.graph.trace import without_recorder
from zoo import Lambda, settle

Run = Callable[[Any, Tensor], Tensor]


def between(run: Run, *, conv: bool = False, **parts: Any) -> tuple[nn.Module, Tensor]:
    """A layer with 12 outputs, the operator, a layer; on (4, 6, 5), or on images (2, 3, 6, 8)."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 6, 8) if conv else torch.randn(4, 6, 5)
    model = Lambda(lambda m, x: m.b(run(m, m.a(x))), a=nn.Conv2d(3, 12, 1) if conv else nn.Linear(5, 12),
                   **{n: p for n, p in parts.items() if isinstance(p, nn.Module)})  # fmt: skip
    for name, tensor in parts.items():
        if isinstance(tensor, nn.Parameter):
            model.register_parameter(name, tensor)
        elif isinstance(tensor, Tensor):
            model.register_buffer(name, tensor)
    with torch.no_grad():
        out = run(model, model.a(x))
    model.b = nn.Conv2d(out.shape[1], 3, 1) if conv and out.ndim == 4 else nn.Linear(out.shape[-1], 3)
    return settle(model), x


ROWS = torch.tensor([0, 0, 1, 2, 1, 2])
SOME = torch.tensor([True, False, False, True, False, False])


def rows(m: Any, h: Tensor) -> Tensor:
    """The numbers of the rows, one for every entry, as a call of scatter has them."""
    return m.i[None, :, None].expand_as(h)


def assigned(h: Tensor, place: Any, value: Any) -> Tensor:
    h = h.clone()
    h[place] = value
    return h


def fourier_operator(m: Any, h: Tensor) -> Tensor:
    """The layer of a Fourier neural operator: some frequencies times a matrix of complex numbers each."""
    found = torch.fft.rfft2(h)
    out = torch.zeros(h.shape[0], m.w.shape[1], *found.shape[2:], dtype=found.dtype)
    out[:, :, :3, :3] = torch.einsum("bixy,ioxy->boxy", found[:, :, :3, :3], torch.view_as_complex(m.w))
    out[:, :, -3:, :3] = torch.einsum("bixy,ioxy->boxy", found[:, :, -3:, :3], torch.view_as_complex(m.w))
    return torch.fft.irfft2(out, s=h.shape[-2:])


def filtered(m: Any, h: Tensor) -> Tensor:
    """The layer of a global filter network: frequencies times a complex number each."""
    found = torch.fft.rfft2(h, norm="ortho") * torch.view_as_complex(m.w)
    return torch.fft.irfft2(found, s=h.shape[2:], norm="ortho")


def new(h: Tensor, rows: int = 3) -> Tensor:
    return h.new_zeros(h.shape[0], rows, h.shape[2])


CUT: dict[str, tuple[Run, dict[str, Any]]] = {
    "scatter_add": (lambda m, h: new(h).scatter_add(1, rows(m, h), h), {"i": ROWS}),
    "scatter_add_": (lambda m, h: new(h).scatter_add_(1, rows(m, h), h), {"i": ROWS}),
    "scatter": (lambda m, h: new(h, 6).scatter(1, rows(m, h), h), {"i": ROWS.argsort()}),
    "scatter of a number": (lambda m, h: h.scatter(1, m.i[None, :, None].expand(h.shape[0], 2, h.shape[2]), 0.5),
                            {"i": ROWS[3:5]}),
    "mean by scatter": (lambda m, h: new(h).scatter_reduce(1, rows(m, h), h, "mean", include_self=False), {"i": ROWS}),
    "maxima by scatter": (lambda m, h: new(h).scatter_reduce_(1, rows(m, h), h, "amax", include_self=False),
                          {"i": ROWS}),
    "index_add": (lambda m, h: new(h).index_add(1, m.i, h), {"i": ROWS}),
    "index_add_": (lambda m, h: new(h).index_add_(1, m.i, h, alpha=0.5), {"i": ROWS}),
    "index_copy": (lambda m, h: new(h, 6).index_copy(1, m.i, h), {"i": ROWS.argsort()}),
    "index_reduce": (lambda m, h: new(h).index_reduce(1, m.i, h, "mean", include_self=False), {"i": ROWS}),
    "index_fill": (lambda m, h: h.index_fill(1, m.i, 0.5), {"i": ROWS[3:5]}),
    "x[:, i] = 0.5": (lambda m, h: assigned(h, (slice(None), m.i), 0.5), {"i": ROWS[3:5]}),
    "x[:, i] = y": (lambda m, h: assigned(h, (slice(None), m.i), h[:, :2] * 2), {"i": ROWS[3:5]}),
    "x[:, mask] = 0.5": (lambda m, h: assigned(h, (slice(None), m.i), 0.5), {"i": SOME}),
    "x[x > 0.5] = 0.25": (lambda m, h: assigned(h, h > 0.5, 0.25), {}),
    "slice_scatter": (lambda m, h: torch.slice_scatter(h, h[:, :2] * 2, 1, 2, 4), {}),
    "select_scatter": (lambda m, h: torch.select_scatter(h, h[:, 0] * 2, 1, 2), {}),
    "masked_scatter by rows": (lambda m, h: h.masked_scatter(m.i[None, :, None].expand_as(h), m.c(m.s)),
                               {"i": SOME, "s": torch.randn(8, 5), "c": nn.Linear(5, 12)}),
    "gather": (lambda m, h: h.gather(1, m.i[None, :, None].expand(h.shape[0], 2, h.shape[2])), {"i": ROWS[3:5]}),
    "gather of fewer samples": (lambda m, h: h.gather(1, m.i[None, :, None].expand(2, 2, h.shape[2])),
                                {"i": ROWS[3:5]}),
    "gather by a score": (lambda m, h: h.gather(1, m.s(h).squeeze(-1).topk(3, 1).indices[..., None].expand(
        -1, -1, h.shape[-1])), {"s": nn.Linear(12, 1)}),
    "samples in a random order": (lambda m, h: h.gather(1, m.s(h).squeeze(-1).argsort(1)[:, :3, None].repeat(
        1, 1, h.shape[-1])), {"s": nn.Linear(12, 1)}),
    "a gate that is spread": (lambda m, h: h * torch.sigmoid(m.s(h)).expand(h.shape), {"s": nn.Linear(12, 1)}),
    "a gate that is repeated": (lambda m, h: h * torch.sigmoid(m.s(h)).repeat(1, 1, h.shape[-1]),
                                {"s": nn.Linear(12, 1)}),
    "a gate of 12": (lambda m, h: h * torch.sigmoid(m.s(h)).repeat(1, 1, 12),
                     {"s": nn.Linear(12, 1)}),
    "take_along_dim": (lambda m, h: torch.take_along_dim(h, m.i[None, :, None], 1), {"i": ROWS[3:5]}),
    "sorted along": (lambda m, h: torch.take_along_dim(h, h.argsort(1), 1), {}),
    "sort": (lambda m, h: h.sort(1)[0], {}),
    "topk": (lambda m, h: h.topk(3, 1)[0], {}),
    "argmax": (lambda m, h: h + h.argmax(1, keepdim=True), {}),
    "cummax": (lambda m, h: h.cummax(1)[0] * h.cummin(1)[1], {}),
    "cummax over": (lambda m, h: h.cummax(-1)[0], {}),
    "quantile": (lambda m, h: h + torch.quantile(h, 0.3, 1, keepdim=True), {}),
    "quantile over": (lambda m, h: h + torch.quantile(h, 0.3, -1, keepdim=True), {}),
    "quantiles": (lambda m, h: torch.quantile(h, m.q, 1), {"q": torch.tensor([0.2, 0.6])}),
    "triangle of attention": (lambda m, h: torch.tril(h @ h.transpose(1, 2)) @ h, {}),
    "fft": (lambda m, h: torch.fft.fft(h, dim=1).real, {}),
    "rfft and back": (lambda m, h: torch.fft.irfft(torch.fft.rfft(h, dim=1) * 2, n=6, dim=1), {}),
    "fftshift": (lambda m, h: torch.fft.fftshift(h, dim=1), {}),
    "complex pairs": (lambda m, h: torch.view_as_real(torch.complex(h, h * 2)).sum(-1), {}),
    "pairs to complex": (lambda m, h: torch.view_as_complex(torch.stack([h, h * 2], -1)).abs(), {}),
    "cdist": (lambda m, h: torch.cdist(h, m.t), {"t": nn.Parameter(torch.randn(7, 12))}),
    "cdist p=1": (lambda m, h: torch.cdist(h, m.t, p=1), {"t": nn.Parameter(torch.randn(7, 12))}),
    "cdist p=inf": (lambda m, h: torch.cdist(h, m.t, p=float("inf")), {"t": nn.Parameter(torch.randn(7, 12))}),
    "pairwise_distance": (lambda m, h: h * F.pairwise_distance(h, h.flip(1), keepdim=True), {}),
    "cosine over": (lambda m, h: h * F.cosine_similarity(h, h.roll(1, 1), -1)[..., None], {}),
    "cosine": (lambda m, h: h * F.cosine_similarity(h, h.flip(0), 1)[:, None], {}),
    "normalize over": (lambda m, h: F.normalize(h, dim=-1), {}),
    "normalize": (lambda m, h: F.normalize(h, dim=1), {}),
    "renorm": (lambda m, h: torch.renorm(h, 2, 1, 1.0), {}),
    "dist": (lambda m, h: h * torch.dist(h, h * 0.3), {}),
    "a mask that is spread": (lambda m, h: (h * m.i[None, :, None].expand(h.size()).to(h.dtype)).sum(1), {"i": SOME}),
    "tensordot": (lambda m, h: torch.tensordot(h, m.t, dims=1), {"t": nn.Parameter(torch.randn(12, 4))}),
    "inner": (lambda m, h: torch.inner(h, m.t), {"t": nn.Parameter(torch.randn(4, 12))}),
    "multi_dot": (lambda m, h: torch.linalg.multi_dot([h[0], m.t, m.t]), {"t": nn.Parameter(torch.randn(12, 12))}),
    "diagonal of weights": (lambda m, h: h @ torch.diag(m.t), {"t": nn.Parameter(torch.randn(12))}),
    "diag_embed": (lambda m, h: (torch.diag_embed(h) @ m.t).sum(2), {"t": nn.Parameter(torch.randn(12, 5))}),
    "diagonal of a product": (lambda m, h: torch.diagonal(h.transpose(1, 2) @ h, dim1=1, dim2=2), {}),
    "block_diag": (lambda m, h: F.linear(h, torch.block_diag(m.t, m.u)), {"t": nn.Parameter(torch.randn(3, 4)),
                                                                         "u": nn.Parameter(torch.randn(4, 8))}),
    "one_hot": (lambda m, h: h * m.e(F.one_hot(m.i, 9).to(h.dtype)), {"i": ROWS, "e": nn.Linear(9, 12)}),
    "bucketize": (lambda m, h: h * torch.bucketize(h, m.t), {"t": torch.linspace(-1, 1, 5)}),
    "diff": (lambda m, h: h.diff(dim=1), {}),
    "trapezoid": (lambda m, h: h + torch.trapezoid(h, dim=1)[:, None], {}),
    "flips": (lambda m, h: h.flipud() + h.fliplr(), {}),
    "hsplit": (lambda m, h: h.hsplit(2)[0], {}),
    "dsplit": (lambda m, h: torch.cat(h.dsplit([5])[::-1], -1), {}),
    "stacks": (lambda m, h: torch.vstack([h[0], h[1]]) + torch.hstack([h[:2], h[2:]]).flatten(0, 1)[:12], {}),
    "dstack": (lambda m, h: torch.dstack([h[0], h[1]]).sum(-1), {}),
    "rot90": (lambda m, h: torch.rot90(h, 1, (0, 1)), {}),
    "repeats by numbers": (lambda m, h: h.repeat_interleave(m.i, 1, output_size=9),
                           {"i": torch.tensor([1, 2, 1, 2, 1, 2])}),
    "segment_reduce": (lambda m, h: torch.segment_reduce(h[0], "mean", lengths=m.i, axis=0),
                       {"i": torch.tensor([2, 1, 3])}),
    "addmv": (lambda m, h: h * torch.addmv(m.t, h[0], m.u)[:, None], {"t": torch.randn(6),
                                                                     "u": nn.Parameter(torch.randn(12))}),
    "special functions": (lambda m, h: torch.sinc(h) + torch.special.i0e(h) + torch.logaddexp2(h, h * 2), {}),
    "clip": (lambda m, h: torch.clip(h, -1, 1), {}),
}  # fmt: skip
"""What acts over another dimension, or over the pruned one in a way that what is removed does not count."""

IMAGES: dict[str, tuple[Run, dict[str, Any]]] = {
    "Fourier neural operator": (fourier_operator, {"w": nn.Parameter(torch.randn(12, 12, 3, 3, 2))}),
    "global filter": (filtered, {"w": nn.Parameter(torch.randn(12, 6, 5, 2))}),
    "affine grid": (lambda m, h: F.grid_sample(h, F.affine_grid(m.t(h.mean((2, 3))).view(-1, 2, 3), h.shape,
                                                               align_corners=False), align_corners=False),
                    {"t": nn.Linear(12, 6)}),
    "places by a layer": (lambda m, h: F.grid_sample(h, torch.tanh(m.o(h)).permute(0, 2, 3, 1), align_corners=False),
                          {"o": nn.Conv2d(12, 2, 1)}),
    "turned images": (lambda m, h: torch.rot90(h, 1, (2, 3)), {}),
}  # fmt: skip


SINGLE = {"one_hot", "Fourier neural operator"}
"""Their code names a type."""


def halved(model: nn.Module, x: Tensor, *, single: bool = False) -> None:
    """Half of the first layer is gone, nothing else holds it, and what is left computes what it did."""
    pruned = check(model, x, single=single)
    assert len(pruned.plan.keep["a.weight"][0]) == 6
    assert pruned.verification.proven
    auto = secateur.prune(model, x, ratio=0.5, criterion="random", seed=3)
    assert auto.after.params < 0.65 * auto.before.params


@pytest.mark.parametrize("name", CUT)
def test_channels_go(name: str) -> None:
    run, parts = CUT[name]
    if name in ZEROS_COUNT:
        counted(*between(run, **parts))
    else:
        halved(*between(run, **parts), single=name in SINGLE)


ZEROS_COUNT = {"cummax over", "quantile over", "pairwise_distance"}
"""Zeros do not pass: the kept entries alone count, and the proof knows how."""


def counted(model: nn.Module, x: Tensor) -> None:
    """Held to the network's own code on the kept entries."""
    pruned = secateur.prune(model, x, ratio=0.5, criterion="random", seed=3)
    left = list(pruned.plan.keep["a.weight"][0])
    assert len(left) == 6
    small = settle(Lambda(model.function, a=nn.Linear(5, 6), b=nn.Linear(6, 3)))
    small.load_state_dict({"a.weight": model.a.weight[left], "a.bias": model.a.bias[left],
                           "b.weight": model.b.weight[:, left], "b.bias": model.b.bias})  # fmt: skip
    assert torch.allclose(pruned.model(x), small(x), atol=1e-6)


@pytest.mark.parametrize("name", IMAGES)
def test_channels_of_images_go(name: str) -> None:
    run, parts = IMAGES[name]
    halved(*between(run, conv=True, **parts), single=name in SINGLE)


STAY: dict[str, tuple[Run, dict[str, Any], str]] = {
    "scatter": (lambda m, h: torch.zeros_like(h).scatter(-1, m.i, h), {"i": torch.arange(288).reshape(4, 6, 12) % 12},
                "aten.scatter"),
    "index_add": (lambda m, h: h.new_zeros(4, 6, 6).index_add(2, m.i, h), {"i": torch.arange(12) % 6},
                  "aten.index_add"),
    "index_fill": (lambda m, h: h.index_fill(-1, m.i, 0.5), {"i": ROWS[3:5]}, "aten.index_fill"),
    "x[..., i] = 0.5": (lambda m, h: assigned(h, (..., m.i), 0.5), {"i": ROWS[3:5]}, "aten.index_put"),
    "gather": (lambda m, h: h.gather(-1, m.i), {"i": torch.arange(288).reshape(4, 6, 12) % 12}, "aten.gather"),
    "numbers for every channel": (lambda m, h: h.gather(1, m.i), {"i": torch.arange(288).reshape(4, 6, 12) % 6},
                                  "aten.gather"),
    "masked_scatter": (lambda m, h: h.masked_scatter(h > 0, h * 2), {}, "aten.masked_scatter"),
    "take": (lambda m, h: h * h.take(m.i).mean(), {"i": ROWS}, "aten.take"),
    "sort": (lambda m, h: h.sort(-1)[0], {}, "aten.sort"),
    "argmax": (lambda m, h: h + h.argmax(-1, keepdim=True), {}, "aten.argmax"),
    "positions of cummax": (lambda m, h: h * h.cummax(-1)[1], {}, "aten.cummax"),
    "tril": (lambda m, h: torch.tril(h), {}, "aten.tril"),
    "fft": (lambda m, h: torch.fft.fft(h, dim=-1).real, {}, "aten.fft_fft"),
    "FNet": (lambda m, h: torch.fft.fft2(h).real, {}, "aten.fft_fft2"),
    "fftshift": (lambda m, h: torch.fft.fftshift(h, dim=-1), {}, "aten.fft_fftshift"),
    "inverse": (lambda m, h: h @ torch.linalg.inv(m.t), {"t": nn.Parameter(torch.randn(12, 12))}, "aten.linalg_inv"),
    "diff": (lambda m, h: h.diff(dim=-1), {}, "aten.diff"),
    "rot90": (lambda m, h: torch.rot90(h, 1, (1, 2)), {}, "aten.rot90"),
    "reflected ends": (lambda m, h: F.pad(h, (1, 1), mode="reflect"), {}, "aten.pad"),
    "slice_scatter": (lambda m, h: torch.slice_scatter(h, h[..., :2] * 2, 2, 2, 4), {}, "aten.slice_scatter"),
}  # fmt: skip
"""What depends on all channels, or on where they stand."""


@pytest.mark.parametrize("name", STAY)
def test_channels_stay_and_the_operator_is_named(name: str) -> None:
    run, parts, operator = STAY[name]
    model, x = between(run, **parts)
    with pytest.raises(BudgetError, match=operator.replace(".", r"\.")):
        secateur.prune(model, x, ratio=0.5)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("offsets", [True, False])
def test_bags_of_every_kind_lose_their_width(mode: str, offsets: bool) -> None:
    def run(m: Any, h: Tensor) -> Tensor:
        return h.mean(1) * (m.e(m.i, m.o) if offsets else m.e(m.i.view(4, 3)))

    torch.manual_seed(0)
    model, x = between(run, e=nn.EmbeddingBag(9, 12, mode=mode), i=torch.randint(0, 9, (12,)),
                       o=torch.tensor([0, 2, 5, 5]))  # fmt: skip
    halved(model, x)


def test_factors_of_a_kronecker_product_lose_rows_and_columns() -> None:
    model, x = between(lambda m, h: F.linear(h, torch.kron(m.t, m.u)), t=nn.Parameter(torch.randn(3, 4)),
                       u=nn.Parameter(torch.randn(4, 3)))  # fmt: skip
    keep = check(model, x).plan.keep
    assert len(keep["a.weight"][0]) == len(keep["t"][1]) * len(keep["u"][1]) < 12


def test_complex_weights_are_cut() -> None:
    def run(m: Any, h: Tensor) -> Tensor:
        found = torch.fft.rfft2(h)
        return torch.fft.irfft2(torch.einsum("bixy,ioxy->boxy", found, m.w), s=h.shape[2:])

    torch.manual_seed(0)
    model, x = between(run, conv=True, w=nn.Parameter(torch.randn(12, 12, 6, 5, dtype=torch.cfloat)))
    pruned = secateur.prune(model, x, ratio=0.5)
    assert pruned.model.w.shape == (6, 6, 6, 5)
    assert pruned.verification.proven
    one, two = (list(pruned.plan.keep["w"][d]) for d in (0, 1))
    assert torch.equal(pruned.model.w, model.w[one][:, two])


def test_bags_with_weights_and_short_rows() -> None:
    def run(m: Any, h: Tensor) -> Tensor:
        return h.mean(1) * m.e(m.i, per_sample_weights=m.s(h).squeeze(-1)[:, :3])

    bag, numbers = nn.EmbeddingBag(9, 12, mode="sum"), torch.randint(0, 9, (4, 3))
    halved(*between(run, e=bag, i=numbers, s=nn.Linear(12, 1)))
    model, x = between(lambda m, h: h * m.e(m.i), e=nn.Embedding(9, 12, max_norm=1.0), i=ROWS)
    before = model.e.weight.detach().clone()
    pruned = secateur.prune(model, x, ratio=0.5, criterion="random")
    assert len(pruned.plan.keep["e.weight"][1]) == 6
    assert torch.equal(model.e.weight, before)  # rows are made shorter when they are picked, not by us


# ------------------------------------------------------------------------------------- sizes that the data decide


@pytest.mark.parametrize("pick", [
    lambda x: x[:, 0] > 0, lambda x: torch.where(x[:, 0] > 0), lambda x: (x[:, 0] > 0).nonzero().squeeze(1),
    lambda x: (x[:, 0] > 0).nonzero(as_tuple=True)[0],
])  # fmt: skip
def test_rows_that_a_mask_picks_hand_their_channels_on(pick: Callable[[Tensor], Any]) -> None:
    model = Lambda(lambda m, x: m.b(torch.relu(m.a(x))[pick(x)]), a=nn.Linear(5, 12), b=nn.Linear(12, 3))
    torch.manual_seed(0)
    x = torch.randn(24, 5)
    pruned = check(settle(model), x)
    assert len(pruned.plan.keep["a.weight"][0]) == 6
    assert not pruned.unsupported
    assert not any("torch.export" in note for note in pruned.notes)
    other = torch.randn(31, 5)
    again = secateur.prune(model, x, ratio=0.5, criterion="random", seed=3)
    assert torch.allclose(again.model(other).double(), masked(model, again, other), atol=1e-6)


def test_sizes_that_the_data_decide_are_followed_by_the_recorder() -> None:
    """Edges without loops, then loops for every node, as graph networks make them; another graph has others."""

    def run(m: Any, x: Tensor, edges: Tensor) -> Tensor:
        h = m.a(x)
        edges = edges[:, edges[0] != edges[1]]
        loops = torch.arange(h.shape[0]).repeat(2, 1)
        edges = torch.cat([edges, loops], 1)
        weight = torch.ones(edges.shape[1]).view(-1, 1)
        out = h.new_zeros(h.shape).index_add_(0, edges[1], weight * h[edges[0]])
        return m.b(out.relu())

    model = settle(Lambda(run, a=nn.Linear(5, 12), b=nn.Linear(12, 3)))
    torch.manual_seed(0)
    x, edges = torch.randn(10, 5), torch.randint(0, 10, (2, 30))
    pruned = secateur.prune(model, (x, edges), ratio=0.5, criterion="random", seed=3)
    assert len(pruned.plan.keep["a.weight"][0]) == 6
    assert not pruned.notes  # recorded, not exported
    assert not pruned.lost
    x, edges = torch.randn(14, 5), torch.randint(0, 14, (2, 50))
    assert torch.allclose(pruned.model(x, edges).double(), masked(model, pruned, x, edges), atol=1e-6)


def test_a_number_that_python_computes_of_such_a_size_is_not_believed() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        h = m.a(x)[x[:, 0] > 0]
        return m.b(h / (h.shape[0] + 1)).sum(0)

    torch.manual_seed(0)
    model, x = settle(Lambda(run, a=nn.Linear(5, 12), b=nn.Linear(12, 3))), torch.randn(24, 5)
    pruned = secateur.prune(model, x, ratio=0.5, criterion="random")
    assert len(pruned.plan.keep["a.weight"][0]) == 6
    other = torch.randn(31, 5)
    assert torch.allclose(pruned.model(other).double(), masked(model, pruned, other), atol=1e-6)


# ------------------------------------------------------------------------------------------------ the user's lines


def sorted_features(h: Tensor) -> Tensor:
    return h.sort(-1)[0]  # of this line


def line(function: Callable[..., Any], code: str) -> str:
    """How the first line of a function's body is quoted."""
    return f"{Path(function.__code__.co_filename).name}:{function.__code__.co_firstlineno + 1}, {code!r}"


@pytest.mark.parametrize(
    ("way", "where"),
    [(contextlib.nullcontext, line(sorted_features, "return h.sort(-1)[0]  # of this line")),
     (without_recorder, line(Lambda.forward, "return self.function(self, *inputs)"))],  # export knows of modules alone
)  # fmt: skip
def test_what_stays_is_told_by_the_line_of_the_users_code(way: Callable[[], Any], where: str) -> None:
    model, x = between(lambda m, h: m.c(torch.relu(h)) + sorted_features(m.d(h)), c=nn.Linear(12, 12),
                       d=nn.Linear(12, 12))  # fmt: skip
    with way():
        pruned = secateur.prune(model, x, ratio=0.5)
        explained = str(secateur.analyse(model, x).explain("d"))
    assert {u.line for u in pruned.unsupported} == {where}
    assert f"(which entry comes where depends on all of them), at {where}" in str(pruned)
    assert where in explained


def test_layers_that_no_code_of_the_users_calls_are_told_by_module_alone() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.LocalResponseNorm(3), nn.Conv2d(8, 3, 1))
    (kept,) = secateur.analyse(model, torch.randn(2, 3, 5, 5)).unsupported
    assert (kept.module, kept.line) == ("1", "")


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32])
def test_a_view_as_another_type_keeps_its_channels(dtype: torch.dtype) -> None:
    model, x = between(lambda m, h: h * (h.detach().contiguous().view(dtype).float().mean(-1, keepdim=True) * 0 + 1))
    with pytest.raises(BudgetError, match=r"aten\.view"):
        secateur.prune(model, x, ratio=0.5)
