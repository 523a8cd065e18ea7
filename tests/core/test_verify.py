"""Verification has to notice what is wrong; each test here makes something wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.analysis import analyse
from secateur.errors import VerificationError
from secateur.graph.labels import Labels
from secateur.ops import OPERATORS, Operator
from secateur.plan import Plan
from secateur.surgery import prune_graph, prune_module, verify
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
