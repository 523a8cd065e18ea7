"""Graphs hold real layers, found by name and class, hooked, frozen, adapted; they compute what was proven."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.utils import _pytree as pytree

import secateur
from secateur.core.errors import VerificationError
from secateur.core.types import call
from secateur.cut.plans import fitting
from secateur.graph.views import labelled
from secateur.surgery import layers, prune_graph
from zoo import ZOO, Lambda, conv, settle


def layered() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8, momentum=None), nn.ReLU(inplace=True),
        nn.Conv2d(8, 8, 3, groups=8), nn.GroupNorm(2, 8, eps=1e-3), nn.GELU("tanh"), nn.InstanceNorm2d(8),
        nn.PReLU(8), nn.Dropout(0.3), nn.ConvTranspose2d(8, 6, 3, output_padding=1, stride=2), nn.Flatten(2),
        nn.Conv1d(6, 8, 1, padding="same"), nn.BatchNorm1d(8, affine=False), nn.InstanceNorm1d(8, affine=True),
        nn.LeakyReLU(0.3), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.LayerNorm(8), nn.RMSNorm(8),
        nn.Linear(8, 4),
    )  # fmt: skip


def pruned_graph(model: nn.Module, inputs: Any, **how: Any) -> Any:
    return secateur.prune(settle(model), inputs, ratio=0.5, backend="graph", **how)


def test_every_plain_layer_is_there_with_sizes_that_are_true() -> None:
    torch.manual_seed(0)
    model = layered()
    small = pruned_graph(model, torch.randn(2, 3, 12, 12)).model
    for name, layer in model.named_children():
        if layers.is_layer(layer):
            assert type(small.get_submodule(name)) is type(layer), name
    assert _sizes(small) == [(4, (2, 2), (1, 1)), 4, 4, (2, 4, 1e-3), 4, 4, (4, 3), (4,), 4]
    assert list(small.state_dict()) == list(model.state_dict())
    assert small.get_submodule("1").momentum is None
    assert small.get_submodule("5").approximate == "tanh"


def _sizes(small: nn.Module) -> list[Any]:
    at: Any = small.get_submodule
    return [(at("0").out_channels, at("0").stride, at("0").padding), at("3").groups, at("3").in_channels,
            (at("4").num_groups, at("4").num_channels, at("4").eps), at("6").num_features, at("7").num_parameters,
            (at("9").in_channels, at("9").out_channels), at("18").normalized_shape, at("19").in_features]  # fmt: skip


@pytest.mark.parametrize("name", sorted(ZOO))
def test_layers_compute_what_the_operators_did(name: str) -> None:
    """In both modes, with what batch norms remember; and without being told from a graph of operators alone."""
    torch.manual_seed(3)
    model, inputs = ZOO[name]()
    model = settle(model)
    pruned = secateur.prune(model, inputs, ratio=0.5, backend="graph")
    analysis, keep = fitting(labelled(model, inputs)[0], pruned.plan)
    groups = analysis.groups
    plain = prune_graph(groups, groups.label_keep(keep), pruned.plan.keep)
    assert not [m for m in plain.modules() if layers.is_layer(m) and type(m) not in (nn.Dropout, nn.Dropout2d)]
    for training in (False, True):
        results = []
        for network in (pruned.model.train(training), plain.train(training)):
            torch.manual_seed(0)
            results.append(pytree.tree_leaves(call(network, inputs)))
        for one, other in zip(*results, strict=True):
            assert torch.equal(one, other)
    assert set(plain.state_dict()) == set(pruned.model.state_dict())
    assert all(torch.equal(t, plain.state_dict()[n]) for n, t in pruned.model.state_dict().items())


def test_plain_layers_of_the_zoo_are_layers() -> None:
    """The five others are never called: their weights are read, or nothing is."""
    there, made = 0, 0
    for name in sorted(ZOO):
        torch.manual_seed(3)
        model, inputs = ZOO[name]()
        small = secateur.prune(settle(model), inputs, ratio=0.5, backend="graph").model
        kinds = {n: type(m) for n, m in small.named_modules()}
        found = [n for n, m in model.named_modules() if layers.is_layer(m)]
        there, made = there + len(found), made + sum(kinds.get(n) is type(model.get_submodule(n)) for n in found)
    assert (there, made) == (362, 357)


def test_hooks_freezing_and_learning_rates_find_layers() -> None:
    small = pruned_graph(Lambda(lambda m, x: m.b(m.a(x).relu()), a=nn.Linear(4, 8), b=nn.Linear(8, 2)),
                         torch.randn(3, 4)).model  # fmt: skip
    seen: list[Any] = []
    small.a.register_forward_hook(lambda module, given, result: seen.append((module, result.shape)))
    small.b.register_full_backward_hook(lambda module, given, result: seen.append(module))
    small.a.requires_grad_(False)
    small(torch.randn(5, 4)).sum().backward()
    assert seen == [(small.a, (5, 4)), small.b]
    assert small.a.weight.grad is None
    assert small.b.weight.grad is not None
    rates = torch.optim.SGD([{"params": m.parameters(), "lr": r} for m, r in ((small.a, 0.1), (small.b, 0.2))])
    assert [g["params"][0].shape for g in rates.param_groups] == [(4, 4), (2, 4)]


def test_parametrisations_masks_and_quantisation_are_put_on_layers() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 4)
    small = pruned_graph(Lambda(lambda m, x: m.b(m.a(x).relu()), a=nn.Linear(4, 8), b=nn.Linear(8, 2)), x).model
    want = small(x)
    parametrizations.weight_norm(small.a)
    assert torch.allclose(small(x), want, atol=1e-5)
    assert small.a.parametrizations.weight.original0.shape == (4, 1)
    prune.l1_unstructured(small.b, "weight", 0.5)
    assert int((small.b.weight == 0).sum()) == 4
    assert not torch.allclose(small(x), want, atol=1e-5)


def test_layers_are_quantised_by_their_class() -> None:
    ao = pytest.importorskip("torch.ao.quantization")
    x = torch.randn(3, 4)
    small = pruned_graph(Lambda(lambda m, x: m.b(m.a(x).relu()), a=nn.Linear(4, 8), b=nn.Linear(8, 2)), x).model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch moves it to a package of its own
        made = ao.quantize_dynamic(small, {nn.Linear}, dtype=torch.qint8)
    assert [type(made.get_submodule(n)).__module__ for n in "ab"] == [
        "torch.ao.nn.quantized.dynamic.modules.linear"
    ] * 2
    assert torch.allclose(made(x), small(x), atol=0.05)


def test_adapters_find_their_targets() -> None:
    peft = pytest.importorskip("peft")
    x = torch.randn(3, 4)
    small = pruned_graph(Lambda(lambda m, x: m.b(m.a(x).relu()), a=nn.Linear(4, 8), b=nn.Linear(8, 2)), x).model
    want = small(x)
    adapted = peft.get_peft_model(small, peft.LoraConfig(target_modules=["a"], r=2))
    assert torch.allclose(adapted(x), want, atol=1e-5)
    adapted(x).sum().backward()
    trained = [n for n, p in adapted.named_parameters() if p.grad is not None]
    assert len(trained) == 2
    assert all(".a.lora_" in n for n in trained)


def test_a_layer_that_is_called_several_times_is_one() -> None:
    model = Lambda(lambda m, x: m.b(m.c(m.c(m.a(x)).relu())), a=nn.Linear(4, 8), c=nn.Linear(8, 8), b=nn.Linear(8, 2))
    small = pruned_graph(model, torch.randn(3, 4)).model
    calls = [n for n in small.graph.nodes if n.op == "call_module" and n.target == "c"]
    assert len(calls) == 2
    assert isinstance(small.c, nn.Linear)
    assert small.c.in_features == small.c.out_features == 4


def test_a_layer_with_two_names_is_one(tmp_path: Path) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)
            self.again = nn.ModuleList([self.b])

        def forward(self, x: Tensor) -> Tensor:
            return self.c(self.again[0](self.b(self.a(x)).relu()))  # type: ignore[no-any-return]

    x = torch.randn(3, 4)
    pruned = pruned_graph(Twice(), x)
    assert pruned.model.b is pruned.model.get_submodule("again.0")
    assert list(pruned.model.state_dict()) == list(Twice().state_dict())
    pruned.save(tmp_path)
    loaded = secateur.load(tmp_path).model
    assert torch.equal(loaded(x), pruned.model(x))
    assert loaded.b.weight is loaded.get_parameter("again.0.weight")


class Tied(nn.Module):
    """A head with the table's weight, and a product with another layer's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.a, self.head = nn.Embedding(10, 8), nn.Linear(8, 8), nn.Linear(8, 10, bias=False)
        self.head.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(self.table(x))
        return self.head(torch.nn.functional.linear(h, self.a.weight))  # type: ignore[no-any-return]


def test_shared_weights_stay_shared() -> None:
    small = pruned_graph(Tied(), torch.randint(0, 10, (2, 5))).model
    assert type(small.table) is nn.Embedding
    assert type(small.head) is nn.Linear
    assert small.head.weight is small.table.weight
    assert (small.table.embedding_dim, small.head.in_features) == (4, 4)
    assert isinstance(small.a, nn.Linear)
    assert sum(1 for n in small.graph.nodes if n.op == "get_attr" and n.target == "a.weight") == 1
    x = torch.randint(0, 10, (2, 5))
    with torch.no_grad():
        small.a.weight.zero_()
        assert torch.equal(small(x), torch.zeros(2, 5, 10))
        assert small.a(small.table(x)).abs().sum() > 0


class Own(nn.Linear):
    """A class of the user's: what it does else, nobody knows."""


def test_what_is_no_plain_layer_stays_an_operator() -> None:
    """Classes of the user's, paddings that are operators of their own, weights that are computed."""
    normed = parametrizations.weight_norm(nn.Conv1d(8, 8, 1))
    padded = nn.Conv1d(3, 8, 3, padding=1, padding_mode="circular")
    model = Lambda(lambda m, x: m.d(m.c(m.b(m.a(x))).mean(-1)), a=padded, b=normed, c=nn.BatchNorm1d(8), d=Own(8, 2))
    pruned = pruned_graph(model, torch.randn(2, 3, 9))
    kinds = {name: type(module) for name, module in pruned.model.named_children()}
    assert kinds["c"] is nn.BatchNorm1d
    assert {kinds[name] for name in "abd"} == {nn.Module}


def test_layers_keep_their_own_modes() -> None:
    model = settle(nn.Sequential(nn.Conv1d(3, 8, 1), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 2, 1))).train()
    model[1].eval()
    small = secateur.prune(model, torch.randn(2, 3, 9), ratio=0.5, backend="graph").model
    assert small.training
    assert small.get_submodule("0").training
    assert not small.get_submodule("1").training


def test_submodules_that_became_graphs_have_layers_too() -> None:
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.norm, self.b = nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 8)

        def forward(self, x: Tensor) -> Tensor:
            one, two = self.a(x).relu().split([6, 10], -1)
            return self.b(self.norm(torch.cat([two.tanh(), one], -1)))  # type: ignore[no-any-return]

    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 8), Halves(), nn.Linear(8, 3))
    pruned = secateur.prune(settle(model), torch.randn(2, 4), ratio=0.4)
    assert pruned.plan.islands == ("1",)
    island: Any = pruned.model[1]
    assert [type(m) for m in (island.a, island.norm, island.b)] == [nn.Linear, nn.LayerNorm, nn.Linear]
    assert island.a.out_features == island.norm.normalized_shape[0] == island.b.in_features


def test_a_layer_with_another_setting_is_none_and_would_not_be_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = settle(nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2))), torch.randn(3, 4)
    true = layers.settings_of
    monkeypatch.setattr(layers, "settings_of", lambda layer: {**true(layer), **({"eps": 0.1} if "eps" in true(layer)
                                                                                else {})})  # fmt: skip
    small = secateur.prune(model, x, ratio=0.5, backend="graph").model
    assert type(small.get_submodule("1")) is nn.Module
    monkeypatch.setattr(layers, "_plain", lambda value: None)
    with pytest.raises(VerificationError, match="differs from the masked dense one"):
        secateur.prune(model, x, ratio=0.5, backend="graph")


def test_layers_go_into_files_and_come_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 12, 12)
    pruned = pruned_graph(layered(), x)
    pruned.save(tmp_path)
    for network in (secateur.load(tmp_path).model, copy.deepcopy(pruned.model)):
        assert {n: type(m) for n, m in network.named_modules() if layers.is_layer(m)} == {
            n: type(m) for n, m in pruned.model.named_modules() if layers.is_layer(m)}  # fmt: skip
        assert {n: layers.settings_of(m) for n, m in network.named_modules() if layers.is_layer(m)} == {
            n: layers.settings_of(m) for n, m in pruned.model.named_modules() if layers.is_layer(m)}  # fmt: skip
        assert list(network.state_dict()) == list(pruned.model.state_dict())
        same = copy.deepcopy(pruned.model)
        for training in (False, True):
            torch.manual_seed(0)
            want = same.train(training)(x)
            torch.manual_seed(0)
            assert torch.equal(network.train(training)(x), want)


def test_a_graph_with_layers_is_cut_again() -> None:
    first = pruned_graph(nn.Sequential(conv(3, 16), conv(16, 16), nn.Flatten(), nn.Linear(16 * 36, 4)),
                         torch.randn(2, 3, 6, 6))  # fmt: skip
    again = secateur.prune(first, ratio=0.5)
    assert again.verification.proven
    at: Any = again.model.get_submodule
    assert (at("0.0").out_channels, at("1.0").in_channels, at("1.1").num_features) == (4, 4, 4)


def test_branches_that_go_leave_layers() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.b(self.a(x).relu())  # type: ignore[no-any-return]

    model = settle(nn.Sequential(nn.Linear(4, 6), Residual(), Residual(), nn.Linear(6, 2)))
    pruned = secateur.remove_layers(model, torch.randn(3, 4), count=1, backend="graph")
    kinds = [type(m) for m in pruned.model.modules()]
    assert kinds.count(nn.Linear) == 4
