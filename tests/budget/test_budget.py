"""Budgets: exact counts, targets met from below, clear words where they cannot be met."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur import Target
from secateur.core.errors import BudgetError, InputError, UnknownNameError
from zoo import ZOO, Lambda, conv, pooled, settle


def chain(*widths: int) -> tuple[nn.Module, Tensor]:
    parts = [conv(a, b) for a, b in zip((3, *widths), widths, strict=False)]
    return settle(nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 4))), torch.randn(
        2, 3, 8, 8
    )


def widths(pruned: secateur.Pruned) -> list[int]:
    return [c.kept for c in pruned.groups]


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.25, 0.5, 0.75, 0.99])
def test_local_counts_are_exact_even_under_ties(ratio: float) -> None:
    model, x = chain(10, 16, 33)
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(0.1)  # every score ties
    pruned = secateur.prune(model, x, ratio=ratio)
    assert widths(pruned) == [max(1, n - int(np.floor(n * ratio + 0.5 + 1e-9))) for n in (10, 16, 33)]


def test_lowest_scores_go_and_ties_go_in_order() -> None:
    model, x = chain(6, 4)

    def score(view: Any) -> Tensor:
        return torch.tensor([3.0, 1, 1, 1, 2, 9]) if len(view) == 6 else torch.arange(4.0)

    pruned = secateur.prune(model, x, ratio=0.5, criterion=score)
    assert pruned.plan.keep["0.0.weight"][0] == (0, 4, 5)
    assert pruned.plan.keep["1.0.weight"] == {0: (2, 3), 1: (0, 4, 5)}


def test_global_scope_goes_by_score_across_layers() -> None:
    model, x = chain(4, 4)
    scores = iter([torch.tensor([1.0, 1, 1, 1]), torch.tensor([0.01, 0.02, 1.0, 2.97])])
    pruned = secateur.prune(model, x, ratio=0.25, criterion=lambda view: next(scores), scope="global")
    assert widths(pruned) == [4, 2]


def test_block_scope_removes_the_same_share_of_every_block() -> None:
    block = lambda: nn.Sequential(conv(8, 10), conv(10, 8))  # noqa: E731
    model = settle(Lambda(lambda m, x: m.fc(pooled(m.two(m.one(m.stem(x))))), stem=conv(3, 8), one=block(),
                          two=block(), fc=nn.Linear(8, 3)))  # fmt: skip
    pruned = secateur.prune(model, torch.randn(2, 3, 8, 8), ratio=0.5, scope="block")
    total: dict[str, list[int]] = {}
    for cut in pruned.groups:
        entry = total.setdefault(cut.group.block, [0, 0])
        entry[0] += cut.kept
        entry[1] += len(cut.group)
    assert set(total) == {"", "one", "two"}
    assert all(kept == size / 2 for kept, size in total.values())


def test_isomorphic_scope_takes_the_same_share_of_every_kind_of_group_by_score_within() -> None:
    model = secateur.models.create("resnet20")
    seen: list[int] = []

    def deeper_is_worth_more(view: secateur.GroupView) -> torch.Tensor:
        seen.append(len(seen))
        return torch.ones(len(view)) * (1 + 0.01 * len(seen)) + torch.arange(len(view)) / 1e6

    pruned = secateur.prune(
        settle(model), torch.randn(2, 3, 32, 32), ratio=0.25, scope="isomorphic",
        criterion=deeper_is_worth_more,
    )  # fmt: skip
    total: dict[object, list[int]] = {}
    for cut in pruned.groups:
        entry = total.setdefault(cut.group.kind, [0, 0])
        entry[0] += cut.kept
        entry[1] += len(cut.group)
    inner = {c.group.name: c for c in pruned.groups if c.group.name.endswith("conv1") and c.group.name != "conv1"}
    assert len({c.group.kind for c in inner.values()}) == 1, "inner channels of all blocks are one kind"
    assert len(total) > 1, "and the streams others"
    assert all(abs(kept - 0.75 * size) <= 1 for kept, size in total.values())
    assert len({c.kept / len(c.group) for c in inner.values()}) > 1, "within a kind, scores decide"


def test_block_scope_leaves_the_residual_stream_whole() -> None:
    model = secateur.models.create("resnet20")
    before = {n: p.numel() for n, p in model.named_parameters()}
    pruned = secateur.prune(settle(model), torch.randn(2, 3, 32, 32), ratio=0.25, scope="block")
    assert {c.group.name for c in pruned.groups if c.kept < len(c.group)} == {
        f"layer{a}.{b}.conv1" for a in (1, 2, 3) for b in (0, 1, 2)
    }
    after = {n: p.numel() for n, p in pruned.model.named_parameters()}
    for block in ("layer1.1", "layer3.2"):  # seed 000, Table 1: every block loses that share of its parameters
        share = [sum(v for n, v in sizes.items() if n.startswith(block) and "conv" in n) for sizes in (before, after)]
        assert share[1] == 0.75 * share[0]


@pytest.mark.parametrize("round_to", [2, 4, 8])
def test_round_to_leaves_multiples(round_to: int) -> None:
    model, x = chain(32, 24, 18)
    for ratio in (0.2, 0.4, 0.6):
        kept = widths(secateur.prune(model, x, ratio=ratio, round_to=round_to))
        assert all(k % round_to == 0 or k == n for k, n in zip(kept, (32, 24, 18), strict=True))
        assert kept[0] < 32


def test_min_units_is_a_floor() -> None:
    model, x = chain(32, 12, 6)
    assert widths(secateur.prune(model, x, ratio=0.9, min_units=5)) == [5, 5, 5]


@pytest.mark.parametrize("scope", ["local", "global", "block", "isomorphic"])
@pytest.mark.parametrize("measure", ["params", "macs"])
@pytest.mark.parametrize("share", [0.8, 0.5, 0.2])
def test_targets_are_met_within_one_per_cent(measure: str, share: float, scope: str) -> None:
    model, x = chain(64, 96, 128)
    pruned = secateur.prune(model, x, target=Target(**{measure: share}), scope=scope)
    reached = getattr(pruned.after, measure) / getattr(pruned.before, measure)
    assert reached == pytest.approx(share, rel=0.01)
    counted = secateur.count(pruned.model, x)
    assert (counted.params, counted.macs) == (pruned.after.params, pruned.after.macs)


def test_absolute_targets() -> None:
    model, x = chain(64, 96, 128)
    assert secateur.prune(model, x, target=Target(params=50_000)).after.params == pytest.approx(50_000, rel=0.01)


def test_a_target_out_of_reach_says_how_far_it_goes() -> None:
    model, x = chain(16, 16)
    with pytest.raises(BudgetError, match=r"cannot be met.*are left") as caught:
        secateur.prune(model, x, target=Target(macs=0.0001))
    floor = secateur.prune(model, x, ratio=0.999).after.macs
    assert f"{floor:,}" in str(caught.value)


def test_a_target_above_the_dense_network_is_refused() -> None:
    model, x = chain(8, 8)
    with pytest.raises(BudgetError, match="above the dense"):
        secateur.prune(model, x, target=Target(params=10_000_000))


def test_only_and_ignore() -> None:
    model, x = ZOO["residual"]()
    settle(model)
    assert set(secateur.prune(model, x, ratio=0.5, only=["a"]).plan.keep) == {
        "a.0.weight", "a.0.bias", "a.1.weight", "a.1.bias", "a.1.running_mean", "a.1.running_var", "b.weight",
    }  # fmt: skip
    ignored = secateur.prune(model, x, ratio=0.5, ignore=["a.*"]).plan.keep
    assert 0 not in ignored["a.0.weight"]
    assert len(ignored["stem.0.weight"][0]) == 6
    with pytest.raises(UnknownNameError, match="stem"):
        secateur.prune(model, x, ratio=0.5, ignore=["stemm"])


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({}, InputError, "Give one aim"),
        ({"ratio": 0.5, "target": Target(macs=0.5)}, InputError, "Give one aim"),
        ({"ratio": 1.0}, InputError, r"\[0, 1\)"),
        ({"ratio": -0.1}, InputError, r"\[0, 1\)"),
        ({"ratio": float("nan")}, InputError, "ratio is a finite number"),
        ({"ratio": 0.5, "scope": "globel"}, UnknownNameError, "'global'"),
        ({"ratio": 0.5, "criterion": "l3"}, UnknownNameError, "'l1'"),
        ({"ratio": 0.5, "backend": "grahp"}, UnknownNameError, "'graph'"),
        ({"ratio": 0.5, "round_to": 0}, InputError, "at least 1"),
        ({"ratio": 0.5, "round_to": 64}, BudgetError, "round_to=64"),
        ({"ratio": 0.5, "only": []}, BudgetError, "only/ignore"),
        ({"ratio": 0.5, "criterion": lambda view: torch.zeros(3)}, InputError, "one finite score"),
    ],
)
def test_bad_arguments(options: dict[str, Any], error: type[Exception], words: str) -> None:
    model, x = chain(8, 8)
    with pytest.raises(error, match=words):
        secateur.prune(model, x, **options)


def test_target_checks_itself() -> None:
    with pytest.raises(InputError, match="params and macs"):
        Target(params=0.5, macs=0.5)
    with pytest.raises(InputError, match="above 1"):
        Target(macs=-1)


def test_a_larger_ratio_never_keeps_more() -> None:
    model, x = chain(20, 30, 10)
    for scope in ("local", "global", "block", "isomorphic"):
        kept = [sum(widths(secateur.prune(model, x, ratio=r, scope=scope))) for r in (0.1, 0.3, 0.5, 0.7, 0.9)]
        assert kept == sorted(kept, reverse=True)
        assert kept[2] == pytest.approx(30, abs=1.5)


def test_shares_of_the_dense_network_count_what_earlier_cuts_took() -> None:
    model, x = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3)), torch.randn(2, 4)
    widths, dense = [], 4 * 16 + 16 + 16 * 3 + 3
    for share in (1 / 12, 2 / 12, 3 / 12, 4 / 12, 5 / 12, 6 / 12):  # of 16: 1.33, 2.67, 4, 5.33, 6.67, 8
        model = secateur.prune(model, x, ratio=share, of="dense").model  # type: ignore[assignment]
        widths.append(model[0].out_features)
    assert widths == [15, 13, 12, 11, 9, 8]
    assert secateur.prune(model, x, ratio=0.5).model[0].out_features == 4, "by default a share of what is there"
    third = secateur.prune(model, x, target=Target(params=3 * (4 + 1 + 3) / dense + 3 / dense), of="dense")
    assert third.after.params == 3 * (4 + 1 + 3) + 3
    with pytest.raises(InputError, match="of=…: There is no reference network named"):
        secateur.prune(model, x, ratio=0.5, of="dence")


def test_earlier_cuts_of_a_whole_network_count_towards_its_ratio() -> None:
    model, x = (
        nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 3)),
        torch.ones(1, 4),
    )
    first = secateur.prune(model, x, ratio=0.3, scope="global")
    second = secateur.prune(first.model, x, ratio=0.45, scope="global", of="dense")
    assert sum(cut.kept for cut in second.groups) == 20 - 9


def test_groups_named_are_pruned_alone() -> None:
    model, x = chain(6, 8, 10)
    assert widths(secateur.prune(model, x, ratio=0.5, groups=["1.0"])) == [6, 4, 10]
    with pytest.raises(UnknownNameError, match=r"no group named '1\.1'"):
        secateur.prune(model, x, ratio=0.5, groups=["1.1"])


def test_earlier_cuts_are_counted_group_by_group_where_groups_share_a_dimension() -> None:
    from secateur.models import create

    model, x = create("resnet_digits"), torch.randn(2, 1, 8, 8)  # zero-padded shortcuts: streams within streams
    dense = {c.group.name: len(c.group) for c in secateur.prune(model, x, ratio=0.0).groups}
    first = secateur.prune(model, x, ratio=0.25, of="dense")
    second = secateur.prune(first.model, x, ratio=0.5, of="dense")
    assert {c.group.name: c.kept for c in second.groups} == {name: n // 2 for name, n in dense.items()}
