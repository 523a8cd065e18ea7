"""Criteria against slow loops written from the formula."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.core.errors import InputError, UnknownNameError
from secateur.criteria import CRITERIA, GroupView, criterion
from secateur.criteria.branches import BranchView
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


def test_one_registry_says_what_each_criterion_scores() -> None:
    kinds = {name: CRITERIA[name].kinds for name in CRITERIA}
    assert kinds["random"] == ("channels", "weights", "branches")
    assert kinds["lamp"] == ("channels", "weights")
    assert kinds["l1"] == kinds["l2"] == kinds["bn_scale"] == ("channels", "branches")
    assert kinds["magnitude"] == ("weights",)
    assert kinds["reconstruction"] == ("channels",)
    assert all(kinds.values())


@pytest.mark.parametrize("name", [n for n in CRITERIA if "weights" in CRITERIA[n].kinds])
def test_every_criterion_of_weights_scores_each_of_them(name: str) -> None:
    score = CRITERIA[name].weights
    assert score is not None
    weight = torch.randn(3, 4, 2, 2)
    needs = [torch.rand(3, 4, 2, 2) for _ in CRITERIA[name].weight_needs]
    first, again = (score(weight, torch.Generator().manual_seed(1), *needs) for _ in range(2))
    assert first.shape == weight.shape
    assert torch.isfinite(first).all()
    assert torch.equal(first, again)


@pytest.mark.parametrize("name", [n for n in CRITERIA if "branches" in CRITERIA[n].kinds])
def test_every_criterion_of_branches_ranks_them(name: str) -> None:
    net, x = secateur.models.create("resnet20").eval(), torch.zeros(1, 3, 32, 32)
    found = [[(b.name, b.score) for b in secateur.removable(net, x, criterion=name, seed=1)] for _ in range(2)]
    scores = [score for _, score in found[0] if score is not None]
    assert found[0] == found[1]
    assert scores == sorted(scores)
    assert len(scores) == 7


def test_a_criterion_of_another_kind_is_refused_with_those_that_fit() -> None:
    net, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(2, 4)
    with pytest.raises(UnknownNameError, match=r"no criterion named 'magnitude'.*'magnitude' scores weights\."):
        secateur.prune(net, x, ratio=0.5, criterion="magnitude")
    with pytest.raises(UnknownNameError, match=r"no weight criterion named 'bn_scale'.*scores channels and branches\."):
        secateur.sparsify(net, ratio=0.5, criterion="bn_scale")
    with pytest.raises(UnknownNameError, match=r"no criterion of residual branches named 'lamp'"):
        secateur.remove_layers(secateur.models.create("resnet20"), torch.zeros(1, 3, 32, 32), count=1, criterion="lamp")


def test_a_users_criterion_scores_weights_and_branches_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CRITERIA, "_items", dict(CRITERIA._items))

    @criterion("test_signed", paper="none", kind="weights")
    def signed(weight: Tensor, generator: torch.Generator) -> Tensor:
        """The weight itself: the most negative goes first."""
        return weight

    @criterion("test_signed", paper="none", kind="branches")
    def last(view: BranchView) -> float:
        """The largest of the branch's last weights."""
        return float(view.last_weight.max())

    assert CRITERIA["test_signed"].kinds == ("weights", "branches")
    assert CRITERIA["test_signed"].summary == "The weight itself: the most negative goes first."
    net = nn.Sequential(nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        net[0].weight[:] = torch.tensor([[-3.0, 1.0]])
    assert secateur.sparsify(net, ratio=0.5, criterion="test_signed").masks["0.weight"].tolist() == [[False, True]]
    deep = secateur.models.create("resnet20").eval()
    with torch.no_grad():
        deep.get_submodule("layer1.1.conv2").weight.fill_(-1.0)
    assert secateur.remove_layers(deep, torch.zeros(1, 3, 32, 32), count=1, criterion="test_signed").plan.removed == (
        "layer1.1",
    )
    with pytest.raises(InputError, match="'test_signed' is registered twice"):
        criterion("test_signed", paper="none", kind="weights")(signed)
    with pytest.raises(InputError, match="are of channels"):
        criterion("test_more", paper="none", kind="weights", absolute=True)
    with pytest.raises(UnknownNameError, match=r"kind of criteria named 'weight'.*'weights'"):
        criterion("test_more", paper="none", kind="weight")


def test_half_precision_weights_are_scored_in_single() -> None:
    model = settle(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)))
    expected = secateur.prune(model, torch.randn(2, 4), ratio=0.5).plan.keep
    low = secateur.prune(model.bfloat16(), torch.randn(2, 4).bfloat16(), ratio=0.5, verify=False)
    assert low.plan.keep == expected
    assert low.model[0].weight.dtype == torch.bfloat16  # type: ignore[index, union-attr]
