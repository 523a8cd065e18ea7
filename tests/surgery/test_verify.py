"""Verification has to notice what is wrong; each test here makes something wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import secateur
from secateur.core.errors import InputError, VerificationError
from secateur.core.plan import Plan
from secateur.cut.analysis import analyse
from secateur.cut.prune import plan_of
from secateur.graph.labels import Labels
from secateur.graph.ops import OPERATORS, Operator
from secateur.surgery import prune_graph, prune_module, verify
from secateur.surgery.lifted import Unlike
from zoo import ZOO, Lambda, conv, settle


def cut(model: nn.Module, inputs: Any) -> tuple[Any, np.ndarray, Plan]:
    groups = analyse(model, inputs).groups
    keep = np.arange(groups.units) % 2 == 0
    label_keep = groups.label_keep(keep)
    plan = {n: {d: np.flatnonzero(m).tolist() for d, m in groups.masks(labels, label_keep).items()}
            for n, labels in groups.flow.tensors.items()}  # fmt: skip
    return groups, label_keep, plan  # type: ignore[return-value]


@pytest.mark.parametrize("name", ["plain", "residual", "channel_shuffle", "group_norm"])
def test_a_single_wrong_weight_is_noticed(name: str) -> None:
    model, inputs = ZOO[name]()
    groups, label_keep, plan = cut(settle(model), inputs)
    pruned = prune_graph(groups, label_keep, plan)  # type: ignore[arg-type]
    assert verify(pruned, groups, label_keep, plan).max_relative_error <= 1e-5  # type: ignore[arg-type]
    with torch.no_grad():
        max(pruned.parameters(), key=lambda p: p.ndim).flatten()[3] += 0.05
    with pytest.raises(VerificationError, match="not the part that the plan keeps"):
        verify(pruned, groups, label_keep, plan)  # type: ignore[arg-type]


def test_wrongly_cut_inputs_are_noticed() -> None:
    model, inputs = ZOO["plain"]()
    groups, label_keep, plan = cut(settle(model), inputs)
    plan["2.0.weight"][1] = plan["2.0.weight"][1][::-1]  # type: ignore[index]
    with pytest.raises(VerificationError):
        verify(prune_module(model, plan), groups, label_keep, plan)  # type: ignore[arg-type]


def test_a_head_that_starts_at_zero_hides_nothing() -> None:
    model, inputs = ZOO["plain"]()
    settle(model)
    nn.init.zeros_(model[4].weight)  # type: ignore[index, arg-type]
    groups, label_keep, plan = cut(model, inputs)
    pruned = prune_module(model, plan)  # type: ignore[arg-type]
    with torch.no_grad():
        pruned[0][0].weight[0] *= 1.5  # type: ignore[index]
    assert torch.equal(pruned(inputs), model(inputs))  # outputs alone cannot tell
    with pytest.raises(VerificationError):
        verify(pruned, groups, label_keep, plan)  # type: ignore[arg-type]


def test_constant_inputs_hide_nothing() -> None:
    model, inputs = ZOO["plain"]()
    groups, label_keep, plan = cut(settle(model), torch.zeros_like(inputs))
    pruned = prune_module(model, plan)  # type: ignore[arg-type]
    with torch.no_grad():
        pruned[0][0].weight[0] *= 1.5  # type: ignore[index]
    with pytest.raises(VerificationError):
        verify(pruned, groups, label_keep, plan)  # type: ignore[arg-type]


def test_a_wrong_rule_is_caught_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator whose rule claims to be element-wise but is not: the cut is refused, with its name."""

    def wrong(c: Any) -> Labels:
        return c["self"]  # type: ignore[no-any-return]

    monkeypatch.setitem(OPERATORS._items, "aten.roll", Operator(wrong))
    model = Lambda(lambda m, x: m.b(m.a(x).roll(1, 1)), a=conv(3, 8), b=nn.Conv2d(8, 4, 1))
    with pytest.raises(VerificationError, match=r"first at aten\.roll"):
        secateur.prune(settle(model), torch.randn(2, 3, 6, 6), ratio=0.5)


def test_rounding_alone_is_looked_at_in_double_precision() -> None:
    class Deep(nn.Module):
        """Large numbers that cancel: single precision leaves a relative difference above the tolerance."""

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(64, 512), nn.Linear(512, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.b(torch.relu(self.a(x))) + 3e5
            return y - y.mean(1, keepdim=True)

    pruned = secateur.prune(settle(Deep()), torch.randn(4, 64), ratio=0.5)
    assert pruned.verification is not None
    assert pruned.verification.max_relative_error <= 1e-5


def test_verification_can_be_switched_off_and_says_so() -> None:
    model, inputs = ZOO["plain"]()
    pruned = secateur.prune(settle(model), inputs, ratio=0.5, verify=False)
    assert pruned.verification is None
    assert "not verified" in repr(pruned)


def test_tied_constant_weights_are_compared_too() -> None:
    model, inputs = ZOO["tied_weights"]()
    nn.init.ones_(model.get_parameter("b.weight"))
    for backend in ("module", "graph"):
        pruned = secateur.prune(model, inputs, ratio=0.5, backend=backend)
        assert pruned.verification is not None
        assert pruned.verification.max_relative_error <= 1e-5


def test_a_network_that_squeezes_its_batch_of_one_is_verified_on_two() -> None:
    model = Lambda(lambda m, x: m.fc(m.a(x).mean((2, 3), keepdim=True).squeeze()), a=conv(3, 8), fc=nn.Linear(8, 4))
    pruned = secateur.prune(settle(model), torch.randn(2, 3, 6, 6), ratio=0.5)
    assert pruned.backend == "module"
    assert pruned.verification is not None
    assert pruned.verification.proven


# ------------------------------------------------------------------------------------------------- what hides mistakes


class Heads(nn.Module):
    """Attention as transformers writes it: whatever width is left is split into heads of the size in an attribute."""

    def __init__(self, std: float) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(64, 64) for _ in range(4))
        self.size = 16
        for p in self.parameters():
            nn.init.normal_(p, 0, std)

    def forward(self, x: Tensor) -> Tensor:
        def heads(t: Tensor) -> Tensor:
            return t.view(*x.shape[:-1], -1, self.size).transpose(1, 2)

        y = F.scaled_dot_product_attention(heads(self.q(x)), heads(self.k(x)), heads(self.v(x)), scale=0.25)
        return x + self.o(y.transpose(1, 2).reshape(*x.shape[:-1], -1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("std", [0.005, 0.02, 0.2])
def test_regrouped_heads_are_noticed_however_small_the_weights(std: float) -> None:
    model, x = Heads(std).eval(), torch.randn(1, 8, 64)
    groups = analyse(model, x, granularity="within").groups
    label_keep = groups.label_keep(np.arange(groups.units) % 2 == 0)
    keep = plan_of(groups, label_keep, {}).keep
    with pytest.raises(VerificationError, match=r"differs|of shape"):  # half of each head stays, and it makes 2 of 4
        verify(prune_module(model, keep), groups, label_keep, keep)
    pruned = secateur.prune(model, x, ratio=0.5, granularity="within")
    assert pruned.backend == "module"
    assert pruned.model.size == 8
    assert pruned.verification is not None
    assert pruned.verification.max_relative_error <= 1e-9


def test_shapes_inside_are_compared() -> None:
    """Two networks with the same outputs: what one splits into heads is not what was cut."""

    class Quiet(Heads):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 0 + x

    model, x = Quiet(0.2).eval(), torch.randn(1, 8, 64)
    groups = analyse(model, x, granularity="within").groups
    label_keep = groups.label_keep(np.arange(groups.units) % 2 == 0)
    keep = plan_of(groups, label_keep, {}).keep
    with pytest.raises(VerificationError, match=r"aten\.\S+ of shape .* where the plan says"):
        verify(prune_module(model, keep), groups, label_keep, keep)


def test_an_output_that_nothing_moves_proves_nothing() -> None:
    class Deaf(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(torch.zeros_like(x)).relu())  # type: ignore[no-any-return]

    pruned = secateur.prune(settle(Deaf()), torch.randn(2, 4), ratio=0.5)
    assert pruned.verification is not None
    assert not pruned.verification.proven
    assert pruned.verification.unproven == ("output 0 of forward",)
    assert any("NOT PROVEN" in note for note in pruned.notes)
    assert "NOT PROVEN" in pruned.headline


def test_an_output_that_no_cut_reaches_needs_no_proof() -> None:
    model = Lambda(lambda m, x: (m.b(m.a(x)), torch.ones(3)), a=nn.Linear(4, 8), b=nn.Linear(8, 2))
    proof = secateur.prune(settle(model), torch.randn(2, 4), ratio=0.5).verification
    assert proof is not None
    assert proof.proven


def test_a_large_constant_hides_nothing() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        return m.b(m.a(x).relu()) + 1e4  # type: ignore[no-any-return]

    model = settle(Lambda(run, a=nn.Linear(4, 8), b=nn.Linear(8, 2)))
    groups, label_keep, plan = cut(model, torch.randn(2, 4))
    pruned = prune_module(model, plan)  # type: ignore[arg-type]
    pruned.function = lambda m, x: m.b(m.a(x).relu()) * (1 + 1e-6) + 1e4 - 1e-2  # type: ignore[assignment]
    with pytest.raises(VerificationError, match="of what the input moves"):
        verify(pruned, groups, label_keep, plan)  # type: ignore[arg-type]


def test_nan_agrees_with_nothing() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        y = m.a(x)
        return m.b(y / (y - y.mean(1, keepdim=True)))  # type: ignore[no-any-return]

    model = Lambda(run, a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(4, 2, 1))
    with pytest.raises(VerificationError, match=r"(NaN|infinity).*min_units=2"):  # one channel is its own mean
        secateur.prune(settle(model), torch.randn(2, 3, 5, 5), ratio=0.8)
    assert secateur.prune(model, torch.randn(2, 3, 5, 5), ratio=0.5).verification


def test_a_network_that_gives_nan_itself_is_told_so() -> None:
    model = Lambda(lambda m, x: m.b(m.a(x)).log(), a=nn.Linear(4, 8), b=nn.Linear(8, 2))
    with pytest.raises(InputError, match=r"itself gives NaN.*example_inputs"):
        secateur.prune(settle(model), torch.randn(2, 4), ratio=0.5)


def test_masks_of_minus_infinity_agree() -> None:
    def run(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        scores = (m.q(x) @ m.k(x).mT).masked_fill(torch.ones(5, 5).triu(1).bool(), float("-inf"))
        return m.o(scores.softmax(-1) @ m.v(x)), scores

    parts = {name: nn.Linear(6, 8) for name in "qkv"}
    proof = secateur.prune(
        settle(Lambda(run, **parts, o=nn.Linear(8, 3))), torch.randn(2, 5, 6), ratio=0.5
    ).verification
    assert proof is not None
    assert proof.proven


# -------------------------------------------------------------------------------------------- random numbers and casts

NOISES: dict[str, Any] = {
    "dropout that is always on": lambda h: F.dropout(h, 0.3),
    "dropout of channels": lambda h: F.dropout2d(h[:, :, None, None], 0.3)[:, :, 0, 0],
    "gumbel": lambda h: F.gumbel_softmax(h),
    "like its input": lambda h: h + torch.rand_like(h) * torch.randn_like(h),
    "one a sample": lambda h: h + 0.1 * torch.randn(h.shape[0], 1),
    "coins": lambda h: h * torch.bernoulli(torch.full_like(h, 0.8)),
    "coins by what was computed": lambda h: torch.bernoulli(h.sigmoid()),
    "in place": lambda h: h * torch.empty_like(h).uniform_(0.5, 1.5),
    "around what was computed": lambda h: torch.normal(h, 0.1),
    "permuted samples": lambda h: h[torch.randperm(4)],
}


def noisy(noise: Any, **more: nn.Module) -> nn.Module:
    parts: dict[str, nn.Module] = {"a": nn.Linear(6, 16), "g": nn.Linear(16, 12), "b": nn.Linear(12, 4), **more}
    return settle(Lambda(lambda m, x: m.b(noise(m.g(m.a(x).relu()))), **parts))


@pytest.mark.parametrize("backend", ["module", "graph"])
@pytest.mark.parametrize("noise", NOISES)
def test_both_networks_draw_the_same_numbers(noise: str, backend: str) -> None:
    pruned = secateur.prune(noisy(NOISES[noise]), torch.randn(4, 6), ratio=0.5, backend=backend)
    assert pruned.verification is not None
    assert pruned.verification.max_relative_error <= 1e-9
    assert pruned.after.params < pruned.before.params


def test_a_wrong_probability_is_noticed() -> None:
    model, x = noisy(NOISES["coins by what was computed"]), torch.randn(4, 6)
    groups, label_keep, plan = cut(model, x)
    pruned = prune_module(model, plan)  # type: ignore[arg-type]
    pruned.function = lambda m, x: m.b(torch.bernoulli(m.g(m.a(x).relu()).sigmoid() * 0.7))  # type: ignore[assignment]
    with pytest.raises(VerificationError):
        verify(pruned, groups, label_keep, plan)  # type: ignore[arg-type]


def test_other_draws_are_noticed() -> None:
    model, x = noisy(NOISES["one a sample"]), torch.randn(4, 6)
    groups, label_keep, plan = cut(model, x)
    pruned = prune_module(model, plan)  # type: ignore[arg-type]
    pruned.function = lambda m, x: m.b(m.g(m.a(x).relu()) + torch.rand(4, 1))  # type: ignore[assignment]
    with pytest.raises(Unlike, match=r"draws aten\.rand of shape \(4, 1\) where aten\.randn of \(4, 1\) is due"):
        verify(pruned, groups, label_keep, plan)  # type: ignore[arg-type]


def test_numbers_that_python_draws_are_no_part_of_a_graph() -> None:
    model = noisy(lambda h: h * float(np.random.rand()))
    with pytest.raises(VerificationError, match="traced graph differs from the network itself"):
        secateur.prune(model, torch.randn(4, 6), ratio=0.5)


def rms_norm(h: Tensor) -> Tensor:
    """As language models write it: in single precision, whatever comes in."""
    wide = h.to(torch.float32)
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)).to(h.dtype)


def autocast(h: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return torch.relu(h @ torch.eye(12)[:, :12].to(h.dtype)).float() if h.shape[-1] == 12 else torch.relu(h).float()


CASTS: dict[str, Any] = {
    "RMSNorm": rms_norm,
    "half": lambda h: h.half().float(),
    "type_as": lambda h: (h.bfloat16() * 2).type_as(h),
    "softmax in single precision": lambda h: torch.softmax(h, -1, dtype=torch.float32).to(h.dtype),
    "made in single precision": lambda h: h * torch.ones(h.shape[0], 1, dtype=torch.float32),
    "a constant": lambda h: h * torch.tensor([0.3]),
    "autocast": autocast,
}


@pytest.mark.parametrize("cast", CASTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_casts_are_lifted(cast: str, dtype: torch.dtype) -> None:
    if dtype is torch.bfloat16 and cast in ("made in single precision", "autocast", "a constant", "half"):
        pytest.skip("the dense network itself does not run so")
    pruned = secateur.prune(noisy(CASTS[cast]).to(dtype), torch.randn(4, 6).to(dtype), ratio=0.5)
    assert pruned.verification is not None
    assert pruned.verification.max_relative_error <= 1e-9
    assert pruned.model.get_parameter("a.weight").dtype == dtype


def test_dead_branches_and_tiny_scales_hide_nothing() -> None:
    """A LayerScale of 1e-6, a last batch norm of zero: a mistake behind them is seen with sharpened weights."""

    def run(m: Any, x: Tensor) -> Tensor:
        y = m.stem(x)
        return m.head((y + m.scale(m.b(m.a(y))[..., None, None])[..., 0, 0]).relu())  # type: ignore[no-any-return]

    model = Lambda(run, stem=nn.Linear(6, 12), a=nn.Linear(12, 16), b=nn.Linear(16, 12), scale=nn.BatchNorm2d(12),
                   head=nn.Linear(12, 3)).eval()  # fmt: skip
    nn.init.zeros_(model.get_parameter("scale.weight"))
    groups, label_keep, plan = cut(model, torch.randn(2, 6))
    pruned = prune_module(model, plan)  # type: ignore[arg-type]
    pruned.function = lambda m, x: (
        run(m, x * 1.0)
        if False
        else m.head(  # the branch without its first layer's bias
            (m.stem(x) + m.scale(m.b(F.linear(m.stem(x), m.a.weight))[..., None, None])[..., 0, 0]).relu()
        )
    )  # type: ignore[assignment]
    assert torch.equal(pruned(torch.ones(2, 6)), prune_module(model, plan)(torch.ones(2, 6)))  # type: ignore[arg-type]
    with pytest.raises(VerificationError, match="sharpened"):
        verify(pruned, groups, label_keep, plan)  # type: ignore[arg-type]


def test_a_graph_that_is_not_the_network_is_noticed() -> None:
    """A batch of one is traced as two; a network that asks for its size is another one then."""

    def run(m: Any, x: Tensor) -> Tensor:
        y = m.a(x)
        return m.b(y if x.shape[0] > 1 else -y)  # type: ignore[no-any-return]

    model = settle(Lambda(run, a=nn.Linear(4, 8), b=nn.Linear(8, 2)))
    with pytest.raises(VerificationError, match="traced graph differs"):
        secateur.prune(model, torch.randn(1, 4), ratio=0.5, backend="graph")
    assert secateur.prune(model, torch.randn(2, 4), ratio=0.5, backend="graph").verification


def test_statistics_of_the_batch_need_a_batch() -> None:
    """A batch norm that takes the batch's own statistics in eval mode too cannot run on one sample."""
    model = settle(
        Lambda(lambda m, x: m.b(m.norm(m.a(x)).relu()), a=nn.Linear(4, 8),
               norm=nn.BatchNorm1d(8, track_running_stats=False), b=nn.Linear(8, 2))
    )  # fmt: skip
    proof = secateur.prune(model, torch.randn(4, 4), ratio=0.5).verification
    assert proof is not None
    assert proof.proven


def chaotic() -> nn.Sequential:
    """Deep, narrow, without residual connections, clipped: with sharpened weights, each block makes rounding larger."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(30):
        layers += [nn.Linear(16, 96, bias=False), nn.BatchNorm1d(96), nn.ReLU6()]
        layers += [nn.Linear(96, 16, bias=False), nn.BatchNorm1d(16)]
    model = nn.Sequential(*layers, nn.Linear(16, 5))
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.1)
        elif isinstance(layer, nn.BatchNorm1d):
            layer.momentum = None
            nn.init.normal_(layer.bias)
            nn.init.uniform_(layer.weight, 0.2, 2)
    with torch.no_grad():
        model.train()(torch.randn(512, 16))
    return model.eval()


@pytest.mark.parametrize("backend", ["module", "graph"])
def test_what_a_network_makes_of_rounding_is_no_mistake(backend: str) -> None:
    found = secateur.prune(chaotic(), torch.randn(8, 16), ratio=0.5, backend=backend).verification
    assert found.proven
    assert found.max_relative_error <= found.tolerance


def test_a_mistake_in_such_a_network_is_noticed() -> None:
    model, x = chaotic(), torch.randn(8, 16)
    groups, label_keep, plan = cut(model, x)
    plan["23.weight"][1] = plan["23.weight"][1][::-1]  # type: ignore[index]
    with pytest.raises(VerificationError):
        verify(prune_module(model, plan), groups, label_keep, plan)  # type: ignore[arg-type]
