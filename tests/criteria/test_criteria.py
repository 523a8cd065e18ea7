"""Criteria against slow loops written from the formula."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.core.errors import InputError
from secateur.criteria import CRITERIA, GroupView, criterion
from secateur.cut.analysis import analyse
from zoo import ZOO, conv, settle

NAMES = ["plain", "residual", "zero_padded_shortcut", "dense_concatenation", "grouped_convolutions", "tied_weights"]


def slow(
    model: nn.Module, view: GroupView, term: Callable[[Tensor], Tensor], total: Callable[[list[Tensor]], Tensor]
) -> Tensor:
    """Unit by unit, member by member, index by index."""
    groups, scores = view.groups, []
    for unit in view.group.units:
        parts = []
        for member in view.group.members:
            if member.parameter not in dict(model.named_parameters(remove_duplicate=False)):
                continue
            weight = model.get_parameter(member.parameter)
            of = groups.unit_of(groups.flow.tensors[member.parameter].at(member.dim)[0])
            parts += [term(weight.select(member.dim, i)).reshape(-1) for i in range(len(of)) if of[i] == unit]
        scores.append(total([v for p in parts for v in p.unbind()]))
    return torch.stack(scores)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("metric", "term", "total"),
    [
        ("l1", torch.abs, lambda v: torch.stack(v).sum()),
        ("l2", torch.square, lambda v: torch.stack(v).sum().sqrt()),
        ("linf", torch.abs, lambda v: torch.stack(v).max()),
    ],
)
def test_magnitudes(name: str, metric: str, term: Callable, total: Callable) -> None:  # type: ignore[type-arg]
    model, x = ZOO[name]()
    groups = analyse(settle(model), x).groups
    for group in groups.items:
        view = GroupView(group, groups, torch.Generator())
        with torch.no_grad():
            assert torch.allclose(CRITERIA[metric].score(view), slow(model, view, term, total), rtol=1e-5)


def test_bn_scale_is_the_mean_gamma() -> None:
    model, x = ZOO["residual"]()
    groups = analyse(settle(model), x).groups
    group = next(g for g in groups.items if g.name == "a.0")
    score = CRITERIA["bn_scale"].score(GroupView(group, groups, torch.Generator()))
    assert torch.equal(score, model.get_parameter("a.1.weight").detach().abs())


def test_bn_scale_without_batch_norm_names_the_layer() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    with pytest.raises(InputError, match=r"'bn_scale' has nothing to score.*no batch normalisation.*'0'"):
        secateur.prune(model, torch.randn(2, 4), ratio=0.5, criterion="bn_scale")


def test_random_follows_the_seed() -> None:
    model, x = ZOO["plain"]()
    plans = [secateur.prune(settle(model), x, ratio=0.5, criterion="random", seed=s).plan.keep for s in (1, 1, 2)]
    assert plans[0] == plans[1] != plans[2]


def test_every_criterion_says_where_it_comes_from() -> None:
    assert {"l1", "l2", "linf", "random", "bn_scale"} <= set(CRITERIA)
    assert all(CRITERIA[n].summary and CRITERIA[n].paper for n in CRITERIA)


def test_a_users_criterion_in_a_few_lines() -> None:
    name = "test_only_first_weight"
    if name not in CRITERIA:

        @criterion(name, paper="none")
        def first(view: GroupView) -> Tensor:
            """The first weight of every filter."""
            member, weight = next(view.weights(consumers=False))
            return view.per_unit(member, weight.flatten(1)[:, :1])

    model = settle(nn.Sequential(conv(1, 4), nn.Conv2d(4, 2, 1)))
    with torch.no_grad():
        model[0][0].weight[:, 0, 0, 0] = torch.tensor([4.0, 1, 3, 2])  # type: ignore[index]
    plan = secateur.prune(model, torch.randn(2, 1, 4, 4), ratio=0.5, criterion=name).plan
    assert plan.keep["0.0.weight"][0] == (0, 2)


def test_half_precision_weights_are_scored_in_single() -> None:
    model = settle(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)))
    expected = secateur.prune(model, torch.randn(2, 4), ratio=0.5).plan.keep
    low = secateur.prune(model.bfloat16(), torch.randn(2, 4).bfloat16(), ratio=0.5, verify=False)
    assert low.plan.keep == expected
    assert low.model[0].weight.dtype == torch.bfloat16  # type: ignore[index, union-attr]
