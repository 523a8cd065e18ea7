"""Where tables of operators disagreed or had gaps: what follows from the operators' own facts now."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import secateur
from secateur.budget.latency.predict import _works
from secateur.criteria.least_squares.layout import transposed
from secateur.criteria.places import activations, zero_makers
from secateur.graph.flow import flow
from secateur.graph.groups import solve
from secateur.graph.ops import facts
from secateur.graph.trace import trace
from secateur.graph.writes import may_alias, written_names
from secateur.sparsity.group_lasso import FAMILIES
from zoo import Lambda, settle


def names(net: nn.Module, x: Tensor, chosen: Callable[..., bool]) -> list[str]:
    """Operators of a traced network, without library and overload."""
    calls = [n for n in trace(net, x).nodes if n.op == "call_function"]
    return [str(n.target).split(".")[1] for n in calls if chosen(n)]


def test_every_activation_is_a_place_of_feature_maps_but_gates_are_not() -> None:
    layers = [nn.Hardtanh(), nn.LogSigmoid(), nn.CELU(), nn.Hardtanh(0, 4), nn.Threshold(0.1, 0.0), nn.Hardsigmoid(),
              nn.Sigmoid()]  # fmt: skip
    net = nn.Sequential(nn.Conv2d(1, 2, 1), *layers, nn.Conv2d(2, 1, 1))
    found = flow(trace(net, torch.randn(1, 1, 4, 4)))
    seen = [str(n.target).split(".")[1] for n in activations(found)]
    assert seen == ["hardtanh", "log_sigmoid", "celu", "hardtanh", "threshold"]
    assert [n.args[1:] for n in zero_makers(found)] == [(0, 4), (0.1, 0.0)]


def constant_channel(*between: nn.Module, last: nn.Module | None = None) -> nn.Sequential:
    """A network whose first channel is 0.7 before ``between``, whatever comes in."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 4, 3), *between, last or nn.Conv2d(4, 3, 1), nn.Flatten(1))
    with torch.no_grad():
        net[0].weight[0] = 0
        net[0].bias[0] = 0.7
    return net.eval()


@pytest.mark.parametrize("between", [nn.CELU(0.5), nn.LogSigmoid(), nn.Softshrink(), nn.Hardtanh(-0.2, 0.3), Lambda(
    lambda m, x: x.exp())], ids=["celu", "log_sigmoid", "softshrink", "hardtanh", "exp"])  # fmt: skip
def test_constants_pass_every_function_of_numbers(between: nn.Module) -> None:
    net, x = constant_channel(between), torch.randn(2, 2, 6, 6)
    clean = secateur.purify(net, x)
    assert clean.model[0].out_channels == 3
    assert torch.allclose(clean.model(x), net(x), atol=1e-5)


def test_constants_do_not_pass_a_dropout_that_is_always_on() -> None:
    """Its values come and go: no bias stands for them."""
    net, x = constant_channel(Lambda(lambda m, x: F.dropout(x, 0.5, True))), torch.randn(2, 2, 6, 6)
    assert secateur.purify(net, x).model[0].out_channels == 4


def test_a_reduction_over_positions_mixes_no_channels() -> None:
    net = constant_channel(Lambda(lambda m, x: torch.linalg.vector_norm(x, dim=(2, 3))), last=nn.Linear(4, 3))
    with torch.no_grad():
        net[2].weight[:, 1] = 0
    x = torch.randn(2, 2, 6, 6)
    clean = secateur.purify(net, x)
    assert clean.model[0].out_channels == 3
    assert torch.allclose(clean.model(x), net(x), atol=1e-5)


def test_memory_that_an_operator_shares_without_saying_so_is_followed() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            self.seen.type_as(x).add_(1)
            return x + self.seen

    found = trace(Counts().eval(), torch.randn(2, 3))
    assert written_names(found.module) == {"seen"}

    def doubled(m: nn.Module, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5, False) + F.dropout(x, 0.5, True)

    shares = [may_alias(n) for n in trace(Lambda(doubled), torch.randn(2, 3)).nodes if n.op == "call_function"]
    assert shares == [True, False, False], "off, on, sum"


def test_statistics_of_the_native_batch_norm_are_written_too() -> None:
    class Normalised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

        def forward(self, x: Tensor) -> Tensor:
            n = self.norm
            both = torch.native_batch_norm(x, n.weight, n.bias, n.running_mean, n.running_var, True, 0.1, 1e-5)
            return both[0]

    found = trace(Normalised().eval(), torch.randn(4, 3))
    assert {"norm.running_mean", "norm.running_var"} <= written_names(found.module)


def test_views_take_no_time_and_copies_by_index_do() -> None:
    def moves(m: nn.Module, x: Tensor) -> Tensor:
        y = x.movedim(1, -1).unbind(0)[0].swapaxes(0, 1).ravel().unflatten(0, (4, 6)).t()
        return y.index_select(0, torch.tensor([1, 0])).exp()

    assert names(Lambda(moves), torch.randn(2, 3, 4, 2), _works)[-2:] == ["index_select", "exp"]
    assert not {"movedim", "unbind", "swapaxes", "ravel", "unflatten", "t"} & set(
        names(Lambda(moves), torch.randn(2, 3, 4, 2), _works)
    )


def general_transposed() -> tuple[nn.Module, Tensor]:
    """A transposed convolution in its general form, which names it by an argument alone."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        w = m.up.weight
        return m.out(torch.convolution(m.inner(x), w, m.up.bias, [1, 1], [0, 0], [1, 1], True, [0, 0], 1).relu())

    parts = {"inner": nn.Conv2d(2, 6, 1), "up": nn.ConvTranspose2d(6, 6, 3), "out": nn.Conv2d(6, 2, 1)}
    return settle(Lambda(forward, **parts)), torch.randn(2, 2, 5, 5)


def test_a_transposed_convolution_is_known_by_its_argument_too() -> None:
    net, x = general_transposed()
    traced = trace(net, x)
    kinds = [(str(facts(n).kind), transposed(n)) for n in traced.nodes if n.op == "call_function"]
    assert kinds == [("convolution", False), ("transposed convolution", True), ("activation function", False),
                     ("convolution", False)]  # fmt: skip
    filters = FAMILIES["shapes"](solve(flow(traced)))
    assert [part.parameter for found in filters for part in found.parts] == ["inner.weight", "out.weight"]


def test_channels_are_merged_into_a_transposed_convolution_in_its_general_form_too() -> None:
    """With the same result as the layer that PyTorch has for it."""
    net, x = general_transposed()
    parts = {name: getattr(net, name) for name in ("inner", "up", "out")}
    usual = Lambda(lambda m, x: m.out(m.up(m.inner(x)).relu()), **parts).eval()
    results = []
    for each in (net, usual):
        small = secateur.prune(each, x, ratio=0.5)
        results.append(secateur.recover(small, method="merge", dense=each))
    assert torch.equal(results[0].model(x), results[1].model(x))
    assert not torch.equal(results[0].model(x), small.model(x))
