"""The outline of a network: layers and joins with what reaches them, against edges written down by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from secateur.graph.flow import flow
from secateur.graph.outline import Part, outline
from secateur.graph.schema import plain_name
from secateur.graph.trace import trace
from zoo import Lambda, conv


def edges(model: nn.Module, x: Tensor) -> list[tuple[str, tuple[int, ...]]]:
    """Every vertex: the operator of a layer or join, or what else it is, and its sources."""
    found = outline(flow(trace(model.eval(), x)))
    return [
        (plain_name(v.node.target).removeprefix("aten.") if v.part in (Part.LAYER, Part.JOIN) else v.part, v.sources)
        for v in found
    ]


def test_a_residual_stream_is_a_chain_of_joins() -> None:
    net = Lambda(lambda m, x: m.c(m.b(m.a(x).relu()) + (y := m.a(x))) + y, a=conv(3, 4), b=conv(4, 4), c=conv(4, 4))
    net.forward = lambda x: _two_blocks(net, x)  # type: ignore[method-assign]
    assert edges(net, torch.randn(1, 3, 6, 6)) == [
        ("input", ()), ("conv2d", (0,)), ("conv2d", (1,)), ("add", (1, 2)), ("conv2d", (3,)), ("add", (3, 4)),
        ("output", (5,)),
    ]  # fmt: skip


def _two_blocks(net: nn.Module, x: Tensor) -> Tensor:
    stream = net.a(x).relu()
    stream = (stream + net.b(stream)).relu()
    return stream + net.c(stream)  # type: ignore[no-any-return]


def test_what_meets_itself_is_no_join() -> None:
    net = Lambda(lambda m, x: (y := m.a(x)) * y.sigmoid() * y.shape[1], a=conv(3, 4))
    assert edges(net, torch.randn(1, 3, 6, 6)) == [("input", ()), ("conv2d", (0,)), ("output", (1,))]


def test_pieces_that_are_put_together_again_are_joined_where_layers_lie_between() -> None:
    def shuffle(m: nn.Module, x: Tensor) -> Tensor:
        left, right = m.a(x).chunk(2, 1)
        return m.c(torch.cat([left, m.b(right)], 1))  # type: ignore[no-any-return]

    net = Lambda(shuffle, a=conv(3, 8), b=conv(4, 4), c=conv(8, 2))
    assert edges(net, torch.randn(1, 3, 6, 6)) == [
        ("input", ()), ("conv2d", (0,)), ("conv2d", (1,)), ("cat", (1, 2)), ("conv2d", (3,)), ("output", (4,)),
    ]  # fmt: skip


def test_recurrent_layers_products_and_several_inputs() -> None:
    lstm = Lambda(lambda m, x: m.out(m.lstm(x)[0]), lstm=nn.LSTM(3, 4, batch_first=True), out=nn.Linear(4, 2))
    assert edges(lstm, torch.randn(2, 5, 3)) == [("input", ()), ("lstm", (0,)), ("linear", (1,)), ("output", (2,))]
    product = Lambda(lambda m, x: m.q(x) @ m.k(x).mT, q=nn.Linear(3, 4), k=nn.Linear(3, 4))
    assert edges(product, torch.randn(2, 5, 3))[1:4] == [("linear", (0,)), ("linear", (0,)), ("matmul", (1, 2))]
