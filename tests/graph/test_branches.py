"""Which additions are residual branches, what they are called, and why some are none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.graph.branches import Branch, find_branches
from secateur.graph.trace import trace
from secateur.models import create
from zoo import ZOO, Lambda, conv, image, pooled


def branches(model: nn.Module, x: Any) -> dict[str, Branch]:
    found = find_branches(trace(model, x))
    assert len({b.name for b in found}) == len(found)
    return {b.name: b for b in found}


def test_blocks_of_a_resnet_and_their_padded_shortcuts() -> None:
    found = branches(create("resnet20"), image(2, 3, 32, 32))
    assert list(found) == [f"layer{s}.{b}" for s in (1, 2, 3) for b in (0, 1, 2)]
    assert [n for n, b in found.items() if b.reason] == ["layer2.0", "layer3.0"]
    assert "changes the values (slice, pad)" in found["layer2.0"].reason
    assert found["layer1.0"].layers == ("layer1.0.conv1", "layer1.0.conv2")
    assert found["layer1.0"].parameters[:2] == ("layer1.0.conv1.weight", "layer1.0.bn1.weight")
    assert found["layer1.0"].side == 0


def test_projections_are_named() -> None:
    found = branches(create("resnet20b"), image(2, 3, 32, 32))
    assert "projection (layer2.0.shortcut.0)" in found["layer2.0"].reason


def test_attention_and_mlp_are_branches_and_position_tables_are_not() -> None:
    model, x = ZOO["attention_fused"]()
    found = branches(model, x)
    assert list(found) == ["attention", "mlp"]
    assert found["mlp"].parameters[0] == "norm2.weight"
    assert not any(b.reason for b in found.values())


def test_names_are_the_same_in_a_traced_graph() -> None:
    model, x = ZOO["attention_fused"]()
    graph = trace(model, x).module
    assert list(branches(graph, x)) == ["attention", "mlp"]


def test_every_term_of_a_longer_sum_has_the_skip() -> None:
    net = Lambda(lambda m, x: m.out((h := m.stem(x)) + m.a(h) + m.b(h)),
                 stem=nn.Linear(4, 6), a=nn.Linear(6, 6), b=nn.Linear(6, 6), out=nn.Linear(6, 2))  # fmt: skip
    found = branches(net, torch.randn(2, 4))
    assert {n: b.reason for n, b in found.items()} == {"a": "", "b": ""}
    assert found["b"].skip is found["a"].add


def test_a_residual_block_of_residual_blocks() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        h = m.stem(x)
        inner = m.a(h)
        inner = inner + m.b(inner)
        return m.out(h + inner)

    net = Lambda(run, stem=nn.Linear(4, 6), a=nn.Linear(6, 6), b=nn.Linear(6, 6), out=nn.Linear(6, 2))
    found = branches(net, torch.randn(2, 4))
    assert {n: (b.reason, b.inside) for n, b in found.items()} == {"b": ("", ()), "b#2": ("", ("b",))}


def test_layers_that_are_used_elsewhere_stay() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        h = m.stem(x)
        inner = m.a(h)
        return m.out(torch.cat([h + m.b(inner), inner], 1))

    net = Lambda(run, stem=nn.Linear(4, 6), a=nn.Linear(6, 6), b=nn.Linear(6, 6), out=nn.Linear(12, 2))
    (found,) = branches(net, torch.randn(2, 4)).values()
    assert "used elsewhere" in found.reason


def test_one_module_called_twice_is_two_branches() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        x = x + m.a(x)
        return m.out(x + m.a(x))

    net = Lambda(run, stem=nn.Linear(4, 6), a=nn.Linear(6, 6), out=nn.Linear(6, 2))
    assert list(branches(net, torch.randn(2, 4))) == ["a", "a#2"]


def test_blocks_of_one_module_are_named_by_their_last_layers() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        x = x + m.b(m.a(x))
        return m.out(x + m.d(m.c(x)))

    net = Lambda(run, stem=nn.Linear(4, 6), out=nn.Linear(6, 2), **{n: nn.Linear(6, 6) for n in "abcd"})
    assert list(branches(net, torch.randn(2, 4))) == ["b", "d"]


@pytest.mark.parametrize(
    "run",
    [
        lambda m, x: m.out(pooled(m.a(x) + 1)),
        lambda m, x: m.out(pooled(m.a(x) + m.a(x).mean((2, 3), keepdim=True))),
        lambda m, x: m.out(pooled(torch.relu(h := m.a(x)) + h.sigmoid())),
        lambda m, x: m.out(pooled(m.a(x)) + m.out.weight.sum(0)),
        lambda m, x: m.out(pooled(m.a(x) + 0.5 * m.out.weight[0, 0].expand(x.shape[0], 8, 6, 6))),
    ],
)
def test_other_additions_are_no_branches(run: Any) -> None:
    assert not branches(Lambda(run, a=conv(3, 8), out=nn.Linear(8, 8)), image(2, 3, 6, 6))


def test_a_scaled_sum_has_no_identity() -> None:
    net = Lambda(lambda m, x: m.out(torch.add(h := m.a(x), m.b(h), alpha=2)),
                 a=nn.Linear(4, 6), b=nn.Linear(6, 6), out=nn.Linear(6, 2))  # fmt: skip
    assert not branches(net, torch.randn(2, 4))


class Rounded(nn.Linear):
    """A layer that works with a changed weight."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, (self.weight * 8).round() / 8, self.bias)


def test_layers_whose_weights_are_computed_first_are_found() -> None:
    torch.manual_seed(0)
    parts = {"a": Rounded(6, 6), "b": Rounded(6, 6), "c": nn.Linear(6, 2)}
    model = Lambda(lambda m, x: m.c((y := x + torch.tanh(m.a(x))) + torch.tanh(m.b(y))), **parts)
    found = branches(model, torch.randn(3, 6))
    assert list(found) == ["a", "b"]
    assert set(found["a"].parameters) == {"a.weight", "a.bias"}


def test_a_table_that_several_blocks_use_is_of_none() -> None:
    torch.manual_seed(0)
    model = Lambda(lambda m, x: m.c((y := x + m.a(x) @ (t := m.table * 2)) + m.b(y) @ t),
                   a=nn.Linear(6, 6), b=nn.Linear(6, 6), c=nn.Linear(6, 2))  # fmt: skip
    model.register_parameter("table", nn.Parameter(torch.randn(6, 6)))
    assert {name: b.parameters for name, b in branches(model, torch.randn(3, 6)).items()} == {
        "a": ("a.weight", "a.bias"), "b": ("b.weight", "b.bias")}  # fmt: skip


def test_constants_that_are_used_on_the_way_are_no_parameters() -> None:
    torch.manual_seed(0)
    parts = {"a": nn.Linear(6, 6), "b": nn.Linear(6, 6), "c": nn.Linear(6, 2)}
    model = Lambda(lambda m, x: m.c((y := x + m.a(x) * (torch.tensor(2.0) * 3)) + m.b(y) * (m.scale * 2)), **parts)
    model.register_buffer("scale", torch.tensor(0.5))
    assert {name: b.parameters for name, b in branches(model, torch.randn(3, 6)).items()} == {
        "a": ("a.weight", "a.bias"), "b": ("b.weight", "b.bias")}  # fmt: skip
