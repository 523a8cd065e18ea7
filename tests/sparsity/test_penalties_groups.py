"""The group lasso: its groups against slow loops, its gradient against autograd."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.core.errors import InputError, UnknownNameError
from secateur.data import load
from secateur.models import create
from secateur.sparsity.group_lasso import FAMILIES, GroupLasso
from secateur.train import TrainConfig, fit
from zoo import ZOO


class Small(nn.Module):
    """Two convolutions and a linear layer behind a flatten: every channel of `b` has four columns in `c`."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.b, self.c = nn.Conv2d(3, 4, 2, stride=2), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.a(x)))
        return self.c(F.relu(self.b(x)).flatten(1))


@pytest.fixture
def small() -> nn.Module:
    model = Small()
    with torch.no_grad():
        model.norm.weight.add_(torch.randn(3))
        model.b.weight[1] = 0  # a filter that is gone already
    return model


INPUT = torch.zeros(2, 1, 4, 4)


def slow(model: nn.Module, family: str) -> list[Tensor]:
    """The vector of weights of every group, collected entry by entry."""
    a, b, c = model.a, model.b, model.c
    if family == "filters":
        return [w[f].flatten() for w in (a.weight, b.weight) for f in range(len(w))]
    if family == "channels":
        inner = [b.weight[:, i].flatten() for i in range(3)]
        return inner + [c.weight[:, 4 * i : 4 * i + 4].flatten() for i in range(4)]
    if family == "shapes":
        return [w[:, i, y, x] for w in (a.weight, b.weight) for i in range(w.shape[1])
                for y in range(w.shape[2]) for x in range(w.shape[3])]  # fmt: skip
    first = [torch.cat([a.weight[i].flatten(), a.bias[i : i + 1], model.norm.weight[i : i + 1],
                        model.norm.bias[i : i + 1], b.weight[:, i].flatten()]) for i in range(3)]  # fmt: skip
    last = [torch.cat([b.weight[i].flatten(), b.bias[i : i + 1], c.weight[:, 4 * i : 4 * i + 4].flatten()])
            for i in range(4)]  # fmt: skip
    return first + last


@pytest.mark.parametrize("family", ["filters", "channels", "shapes", "units"])
def test_groups_are_those_of_slow_loops(small: nn.Module, family: str) -> None:
    norms = GroupLasso(over=family).bind(small, INPUT).sizes(small)
    wanted = [math.sqrt(float((group.detach().double() ** 2).sum())) for group in slow(small, family)]
    assert sorted(norms.tolist()) == pytest.approx(sorted(wanted), rel=1e-5)


@pytest.mark.parametrize("family", ["filters", "channels", "shapes", "units"])
def test_the_gradient_is_that_of_the_formula(small: nn.Module, family: str) -> None:
    penalty = GroupLasso(0.3, over=family).bind(small, INPUT)
    # autograd has no derivative of a norm at zero; the formula's sub-gradient there is 0
    (0.3 * sum(group.norm() for group in slow(small, family) if group.any())).backward()
    wanted = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in small.named_parameters()}
    for parameter in small.parameters():
        parameter.grad = torch.ones_like(parameter)
    penalty.gradients(small)
    for name, parameter in small.named_parameters():
        assert torch.allclose(parameter.grad - 1, wanted[name], atol=1e-6), name
    assert any(gradient.any() for gradient in wanted.values())


def test_depth_is_the_branches_that_a_shortcut_passes() -> None:
    model, images = create("resnet_digits"), torch.zeros(2, 1, 8, 8)
    penalty = GroupLasso(0.3, over="depth").bind(model, images)
    # the first blocks of stages 2 and 3 change the shape: nothing passes them unchanged
    blocks = [model.layer1[0], model.layer1[1], model.layer2[1], model.layer3[1]]
    norms = [torch.cat([p.flatten() for p in block.parameters()]).norm() for block in blocks]
    assert penalty.sizes(model).tolist() == pytest.approx([float(norm) for norm in norms])
    (0.3 * sum(norms)).backward()
    wanted = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    penalty.gradients(model)
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter.grad, wanted[name], atol=1e-6), name


def test_depth_without_a_shortcut_is_an_error(small: nn.Module) -> None:
    with pytest.raises(InputError, match="no branch lies beside a shortcut"):
        GroupLasso(over="depth").bind(small, INPUT)


def test_several_families_add_up(small: nn.Module) -> None:
    both = GroupLasso(1.0, over=["filters", "channels"]).bind(small, INPUT)
    single = [GroupLasso(1.0, over=family).bind(small, INPUT) for family in ("filters", "channels")]
    assert both.sizes(small).sum() == pytest.approx(sum(float(p.sizes(small).sum()) for p in single))
    assert both.label == "group_lasso: filters, channels"


def test_shapes_leave_depthwise_convolutions_alone() -> None:
    model, images = ZOO["depthwise_multiplier"]()
    wide = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d) and m.groups == 1]
    penalty = GroupLasso(over="shapes").bind(model, images)
    assert {id(p) for p, _ in penalty.subgradients(model)} == {id(w) for w in wide}


@pytest.mark.parametrize("name", sorted(ZOO))
def test_units_of_any_network_are_what_the_cut_removes(name: str) -> None:
    model, images = ZOO[name]()
    try:
        penalty = GroupLasso(over="units").bind(model, images)
    except InputError:
        pytest.skip("nothing in it can be removed")
    if any(p.is_complex() for p in model.parameters()):
        pytest.skip("complex")
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    penalty.gradients(model)
    # Euler: Σ w·∂‖w_g‖/∂w = Σ ‖w_g‖
    total = sum(float((p.detach() * p.grad).sum()) for p in model.parameters())
    assert total == pytest.approx(penalty.weight * float(penalty.sizes(model).sum()), rel=1e-4)


def test_groups_shrink_in_training() -> None:
    data, config = load("digits", limit=128), TrainConfig(epochs=2, batch_size=64, lr=0.02)
    norms = {}
    for weight in (0.0, 5.0):
        torch.manual_seed(0)
        model = create("resnet_digits")
        penalty = GroupLasso(weight, over="filters").bind(model, data.sample(2))
        history = fit(model, data, config, extras=[penalty])
        norms[weight] = penalty.sizes(model).mean()
        assert history.epochs[1].extra["group_lasso: filters"]["count"] == len(penalty.sizes(model))
    assert norms[5.0] < 0.9 * norms[0.0]


def test_bad_input(small: nn.Module) -> None:
    with pytest.raises(InputError, match="bind"):
        GroupLasso().sizes(small)
    with pytest.raises(UnknownNameError, match="filters"):
        GroupLasso(over="filter")
    with pytest.raises(InputError, match="at least one family"):
        GroupLasso(over=())
    with pytest.raises(InputError, match="no convolution"):
        GroupLasso(over="shapes").bind(nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)), torch.zeros(2, 3))
    with pytest.raises(InputError, match="no unit can be removed"):
        GroupLasso(over="units").bind(nn.Linear(3, 2), torch.zeros(2, 3))
    small.b.requires_grad_(False)
    assert all(p.requires_grad for p, _ in GroupLasso().bind(small, INPUT).subgradients(small))
    assert set(FAMILIES) >= {"filters", "channels", "shapes", "units"}
