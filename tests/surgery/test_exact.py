"""Every network of the zoo, cut by both back ends, against references written without Secateur's graph."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import secateur
from secateur.core.errors import BudgetError, SecateurError
from secateur.core.types import call
from zoo import ZOO, Lambda, conv, settle

MODULE_FAILS = {
    "zero_padded_shortcut", "uneven_split", "slices", "unflatten_and_expand",
}  # fmt: skip


def network(name: str) -> tuple[nn.Module, Any]:
    torch.manual_seed(3)
    model, inputs = ZOO[name]()
    return settle(model), inputs


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("name", sorted(ZOO))
def test_graph_backend_is_exact_and_smaller(name: str, ratio: float) -> None:
    model, inputs = network(name)
    pruned = secateur.prune(model, inputs, ratio=ratio, backend="graph")
    assert pruned.verification is not None
    assert pruned.verification.max_relative_error <= 1e-5
    assert pruned.after.params < pruned.before.params
    assert pruned.after.params == sum(p.numel() for p in pruned.model.parameters())
    shapes = [[t.shape for t in pytree.tree_leaves(call(m, inputs))] for m in (model, pruned.model)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("name", sorted(ZOO))
def test_auto_takes_the_module_where_its_code_allows(name: str) -> None:
    model, inputs = network(name)
    pruned = secateur.prune(model, inputs, ratio=0.5)
    assert pruned.backend == ("graph" if name in MODULE_FAILS else "module")
    if pruned.backend == "module":
        assert type(pruned.model) is type(model)
        same = secateur.apply(model, pruned.plan, inputs, backend="graph").model
        with torch.no_grad():
            ours, theirs = (pytree.tree_leaves(call(m.eval(), inputs)) for m in (pruned.model, same))
        for a, b in zip(ours, theirs, strict=True):
            assert torch.allclose(a, b, atol=1e-5 * float(b.abs().max()))


@pytest.mark.parametrize("name", sorted(MODULE_FAILS))
def test_module_backend_refuses_rather_than_be_wrong(name: str) -> None:
    model, inputs = network(name)
    with pytest.raises(SecateurError, match="graph"):
        secateur.prune(model, inputs, ratio=0.5, backend="module")


def test_what_pins_everything_is_named() -> None:
    model = Lambda(lambda m, x: m.b(torch.special.zeta(m.a(x) + 2, 1)), a=conv(3, 8), b=nn.Conv2d(8, 4, 1))
    with pytest.raises(BudgetError, match=r"aten\.special_zeta"):
        secateur.prune(settle(model), torch.randn(2, 3, 6, 6), ratio=0.5)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}, {"bias": False}])
@pytest.mark.parametrize("backend", ["module", "graph"])
def test_recurrent_layers_lose_inputs_and_hidden_units(
    kind: type[nn.RNNBase], options: dict[str, Any], backend: str
) -> None:
    model = Lambda(
        lambda m, x: m.fc(m.rnn(torch.relu(m.a(x)).transpose(1, 2))[0][:, -1]),
        a=nn.Conv1d(2, 12, 3), rnn=kind(12, 6, batch_first=True, **options),
        fc=nn.Linear(12 if options.get("bidirectional") else 6, 3),
    )  # fmt: skip
    x = torch.randn(2, 2, 10)
    pruned = secateur.prune(settle(model), x, ratio=0.5, backend=backend)
    assert pruned.backend == backend
    assert not pruned.unsupported
    assert pruned.model.get_parameter("rnn.weight_hh_l0").shape[1] == 3
    assert pruned.model.get_parameter("rnn.weight_ih_l0").shape[1] == 6
    if backend == "module":
        rnn = pruned.model.get_submodule("rnn")
        assert (rnn.input_size, rnn.hidden_size) == (6, 3)
        assert pruned.model(torch.randn(5, 2, 30)).shape == (5, 3)
    # Counted by hand: positions times the entries of every weight that is left.
    left = sum(p.numel() for n, p in pruned.model.named_parameters() if "rnn.weight" in n)
    conv, linear = 6 * 2 * 3 * 8, pruned.model.get_parameter("fc.weight").numel()
    assert pruned.after.macs == 8 * left + conv + linear


def test_recurrent_cells_in_a_loop_and_states_that_are_handed_on_lose_hidden_units() -> None:
    def forward(m: Any, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        z, state = m.decoder(y, m.encoder(x)[1])[0], None
        for step in range(3):
            state = m.cell(z[:, step], state)
        return m.fc(z), m.out(state[0])  # type: ignore[index]

    model = Lambda(
        forward, encoder=nn.GRU(8, 16, batch_first=True), decoder=nn.GRU(8, 16, batch_first=True),
        cell=nn.LSTMCell(16, 10), fc=nn.Linear(16, 3), out=nn.Linear(10, 2),
    )  # fmt: skip
    pruned = secateur.prune(settle(model), (torch.randn(2, 5, 8), torch.randn(2, 4, 8)), ratio=0.5)
    assert pruned.backend == "module"
    sizes = [pruned.model.get_submodule(name).hidden_size for name in ("encoder", "decoder", "cell")]
    assert sizes == [8, 8, 5]


def test_a_state_that_is_an_input_keeps_the_hidden_units() -> None:
    model = Lambda(lambda m, x, h: m.fc(m.rnn(x, h)[0]), rnn=nn.GRU(8, 16, batch_first=True), fc=nn.Linear(16, 3))
    with pytest.raises(BudgetError, match="no free group"):
        secateur.prune(settle(model), (torch.randn(2, 5, 8), torch.randn(1, 2, 16)), ratio=0.5)


def test_unsupported_counts_what_it_keeps_from_being_pruned() -> None:
    model, inputs = network("operator_without_rule")
    (entry,) = secateur.prune(model, inputs, ratio=0.5).unsupported
    assert (entry.operator, entry.reason) == ("aten.special_zeta.other_scalar", "no rule for this operator")
    held = [n for n, _ in model.named_parameters() if n.startswith("b.")]  # c still loses its own outputs
    assert entry.pinned_params == sum(model.get_parameter(n).numel() for n in held)


KNOWN_TO_PIN = {"operator_without_rule", "nearest_of_a_codebook"}
"""Nobody wrote a rule for the one; how many vectors the other has is what the numbers of the nearest count in."""


@pytest.mark.parametrize("name", sorted({*ZOO} - KNOWN_TO_PIN))
def test_every_other_construction_has_rules(name: str) -> None:
    assert not secateur.analyse(*network(name)).unsupported


def masked_by_hand(model: nn.Sequential, keep: dict[str, list[int]]) -> nn.Sequential:
    """An independent reference: zero the removed channels after every activation, with plain hooks."""
    masked = copy.deepcopy(model)
    for name, kept in keep.items():
        mask = torch.zeros(masked.get_submodule(name)[0].out_channels)
        mask[kept] = 1
        masked.get_submodule(name).register_forward_hook(lambda m, i, out, mask=mask: out * mask[None, :, None, None])
    return masked


def test_against_hooks_on_a_plain_network() -> None:
    model, inputs = network("plain")
    pruned = secateur.prune(model, inputs, ratio=0.5)
    keep = {n: list(pruned.plan.keep[f"{n}.0.weight"][0]) for n in ("0", "2")}
    reference = masked_by_hand(model, keep)  # type: ignore[arg-type]
    assert torch.allclose(pruned.model(inputs), reference(inputs), atol=1e-6)
    assert not torch.allclose(pruned.model(inputs), model(inputs), atol=1e-3)


def test_flattened_channels_lose_all_their_positions() -> None:
    model, inputs = network("plain")
    plan = secateur.prune(model, inputs, ratio=0.5).plan
    channels = plan.keep["2.0.weight"][0]
    assert plan.keep["4.weight"][1] == tuple(c * 16 + p for c in channels for p in range(16))


def test_zero_padded_shortcut_keeps_the_padding_that_is_left() -> None:
    model, inputs = network("zero_padded_shortcut")
    plan = secateur.prune(model, inputs, ratio=0.5).plan
    stem, last = set(plan.keep["stem.0.weight"][0]), plan.keep["b.weight"][0]
    assert {c - 4 for c in last if 4 <= c < 12} == stem


def test_depthwise_multiplier_goes_with_its_input_channel() -> None:
    model, inputs = network("depthwise_multiplier")
    pruned = secateur.prune(model, inputs, ratio=0.5)
    channels = pruned.plan.keep["0.0.weight"][0]
    assert pruned.plan.keep["1.weight"][0] == tuple(2 * c + k for c in channels for k in (0, 1))
    assert pruned.model[1].groups == len(channels)  # type: ignore[index]


def test_tied_weights_stay_tied_and_are_counted_once() -> None:
    model, inputs = network("tied_weights")
    for backend in ("module", "graph"):
        pruned = secateur.prune(model, inputs, ratio=0.5, backend=backend)
        assert pruned.model.get_parameter("b.weight") is pruned.model.get_parameter("c.weight")
        assert pruned.plan.keep["b.weight"] == pruned.plan.keep["c.weight"]


@pytest.mark.parametrize("name", sorted(n for n in ZOO if n.startswith("attention")))
@pytest.mark.parametrize("granularity", ["whole", "within"])
def test_heads_and_head_size_go_on_their_own(name: str, granularity: str) -> None:
    """Of 4 heads of size 6 in width 24, half of the heads or half of each head goes, whatever the spelling."""
    model, inputs = network(name)
    packed = "attention.in_proj_weight" if name == "attention_packed" else "attention.qkv.weight"
    tables = [n for n in ("attention.bias", "attention.table") if n in model.state_dict()]  # they have one entry a head
    pruned = secateur.prune(model, inputs, ratio=0.5, only=[packed, *tables], granularity=granularity)
    kept = np.zeros(72, dtype=bool)
    kept[list(pruned.plan.keep[packed][0])] = True
    per_head = kept.reshape(3, 4, 6).sum(2)
    if granularity == "whole":
        assert all(sorted(row) == [0, 0, 6, 6] for row in per_head.tolist())
    else:
        assert (per_head == 3).all()
    assert 1 not in pruned.plan.keep[packed]
    assert len(pruned.plan.keep["attention.out_proj.weight" if "packed" in name else "attention.out.weight"][1]) == 12


def test_frozen_layers_stay_frozen() -> None:
    model, inputs = network("frozen_layers")
    for backend in ("module", "graph"):
        pruned = secateur.prune(model, inputs, ratio=0.5, backend=backend).model
        assert not pruned.get_parameter("0.0.weight").requires_grad
        assert pruned.get_parameter("1.0.weight").requires_grad


@pytest.mark.parametrize("name", ["residual", "zero_padded_shortcut", "unet", "group_norm"])
def test_pruned_networks_train_and_follow_the_mode(name: str) -> None:
    model, inputs = network(name)
    pruned = secateur.prune(model, inputs, ratio=0.5, backend="graph").model
    statistics = {n: b.clone() for n, b in pruned.named_buffers() if "running_mean" in n}
    pruned.train()
    sum(t.square().sum() for t in pytree.tree_leaves(call(pruned, inputs))).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in pruned.parameters() if p.ndim > 1)
    moved = [n for n, b in pruned.named_buffers() if n in statistics and not torch.equal(b, statistics[n])]
    assert moved == list(statistics)
    pruned.eval()
    assert torch.equal(call(pruned, inputs), call(pruned, inputs))


def test_dropout_of_the_graph_follows_the_mode() -> None:
    model = settle(nn.Sequential(nn.Linear(8, 64), nn.Dropout(0.5), nn.Linear(64, 4)))
    x = torch.randn(4, 8)
    pruned = secateur.prune(model, x, ratio=0.5, backend="graph").model
    assert torch.equal(pruned.eval()(x), pruned(x))
    assert not torch.equal(pruned.train()(x), pruned(x))


def test_batch_size_stays_free() -> None:
    for name in ("plain", "channel_shuffle", "zero_padded_shortcut", "unet"):
        model, inputs = network(name)
        pruned = secateur.prune(model, inputs, ratio=0.5, backend="graph").model
        assert pruned(inputs.repeat(5, 1, 1, 1)[:7]).shape[0] == 7
        assert pruned(inputs[:1]).shape[0] == 1


def test_pruning_twice_equals_the_composed_plan() -> None:
    for name in ("residual", "zero_padded_shortcut", "dense_concatenation"):
        model, inputs = network(name)
        first = secateur.prune(model, inputs, ratio=0.25)
        second = secateur.prune(first.model, inputs, ratio=0.4)
        again = secateur.apply(model, second.plan, inputs)
        assert torch.allclose(again.model(inputs), second.model(inputs), atol=1e-6)
        assert again.after == second.after


def state_of(model: nn.Module) -> list[Tensor]:
    return [t.clone() for t in model.state_dict().values()]


@pytest.mark.parametrize("backend", ["module", "graph"])
def test_the_input_model_is_left_untouched(backend: str) -> None:
    model, inputs = network("residual")
    model.train()
    model.fc.eval()  # type: ignore[operator, union-attr]
    modes = [m.training for m in model.modules()]
    model.stem.register_forward_hook(lambda *a: None)  # type: ignore[operator, union-attr]
    hooks = [len(m._forward_hooks) for m in model.modules()]
    weights, attributes, before = state_of(model), set(vars(model)), torch.get_rng_state()
    ids = [id(p) for p in model.parameters()]
    secateur.prune(model, inputs, ratio=0.5, backend=backend, criterion="random")
    assert torch.equal(before, torch.get_rng_state())
    assert [m.training for m in model.modules()] == modes
    assert [len(m._forward_hooks) for m in model.modules()] == hooks
    assert all(torch.equal(a, b) for a, b in zip(weights, state_of(model), strict=True))
    assert ids == [id(p) for p in model.parameters()]
    assert set(vars(model)) == attributes
    assert all(p.grad is None for p in model.parameters())
