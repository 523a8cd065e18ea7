"""Latency targets: met by arithmetic times, corrected where the table is wrong, refused in clear words."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import secateur
from latency_cases import arithmetic, chain, counted, residual, seconds_by_macs  # noqa: F401 (a fixture)
from secateur import Target
from secateur.budget.latency.knapsack import Problem, fill
from secateur.budget.latency.pick import Rules, score_kept, widths
from secateur.budget.latency.predict import Term
from secateur.core.errors import BudgetError, InputError, UnknownNameError
from secateur.criteria.scoring import Scores, score
from secateur.cut.analysis import analyse
from zoo import Lambda, conv, pooled, settle

Register = Callable[..., str]


def record(pruned: secateur.Pruned) -> dict[str, Any]:
    return dict(pruned.plan.provenance["latency"])


# ---------------------------------------------------------------------------------------------- reaching a target


@pytest.mark.parametrize("make", [lambda: chain(64, 48, 64), residual])
@pytest.mark.parametrize("share", [0.4, 0.7])
def test_share_is_met_and_recorded(arithmetic: Register, make: Any, share: float) -> None:  # noqa: F811
    model, x = make()
    pruned = secateur.prune(model, x, target=Target(latency=share, runtime=arithmetic()))
    found = record(pruned)
    assert found["reached"] == pytest.approx(share, rel=0.05)
    assert found["reached"] == pytest.approx(pruned.after.macs / pruned.before.macs, rel=1e-6)
    assert found["wanted"] == share
    assert all(c.kept % 2 == 0 for c in pruned.groups)
    assert pruned.verification is not None
    assert pruned.verification.max_relative_error < 1e-4
    assert f"{found['reached']:.1%} where {share:.1%} was asked for" in pruned.notes[0]


def test_milliseconds_are_a_share_of_the_dense_time(arithmetic: Register) -> None:  # noqa: F811
    model, x = chain(32, 48, 32)
    dense = 1e3 * seconds_by_macs(model, x[:1])
    pruned = secateur.prune(model, x, target=Target(latency_ms=dense / 2, runtime=arithmetic()))
    assert record(pruned)["ms"] == pytest.approx(dense / 2, rel=0.05)
    assert record(pruned)["dense_ms"] == pytest.approx(dense)


def test_batch_and_threads_are_those_of_the_target(arithmetic: Register) -> None:  # noqa: F811
    model, x = chain(16, 16)
    target = Target(latency=0.5, runtime=arithmetic(), batch=4, threads=2)
    found = record(secateur.prune(model, x, target=target))
    assert (found["batch"], found["threads"]) == (4, 2)
    assert found["dense_ms"] == pytest.approx(1e3 * seconds_by_macs(model, x[:1]) * 4 / 2)


def test_a_wrong_table_is_corrected_by_the_whole_network(arithmetic: Register) -> None:  # noqa: F811
    def faster_together(model: nn.Module, inputs: Any) -> float:
        layers = sum(isinstance(m, nn.Conv2d) for m in model.modules())
        seconds = seconds_by_macs(model, inputs)
        return seconds if layers < 2 else 0.01 + 2 * seconds**1.3

    model, x = chain(32, 48, 48, 32)
    pruned = secateur.prune(model, x, target=Target(latency=0.6, runtime=arithmetic(faster_together)))
    found = record(pruned)
    assert found["networks_measured"] > 1
    assert found["reached"] == pytest.approx(0.6, rel=0.05)
    assert abs(pruned.after.macs / pruned.before.macs - 0.6) > 0.05  # the table alone would have stopped there


def test_steps_of_the_runtime_are_felt(arithmetic: Register) -> None:  # noqa: F811
    def in_steps(model: nn.Module, inputs: Any) -> float:
        up = lambda n: -(-n // 8) * 8  # noqa: E731
        layers = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
        return sum(up(m.in_channels) * up(m.out_channels) * 9 * 64 for m in layers) / 1e8

    model, x = chain(48, 96, 64)
    name = arithmetic(in_steps, step=8)
    pruned = secateur.prune(model, x, target=Target(latency=0.5, runtime=name), round_to=1)
    assert record(pruned)["reached"] == pytest.approx(0.5, rel=0.05)
    assert all(c.kept % 8 == 0 for c in pruned.groups)  # nothing between two steps is worth its time


def test_more_score_than_the_same_share_of_every_group(arithmetic: Register) -> None:  # noqa: F811
    model, x = chain(64, 16, 64, 16)
    aware, uniform = (
        secateur.prune(model, x, target=Target(latency=0.5, runtime=arithmetic()), scope=scope)
        for scope in (None, "local")
    )
    assert record(uniform)["reached"] == pytest.approx(0.5, rel=0.15)
    assert record(aware)["reached"] <= record(uniform)["reached"] * 1.05
    assert record(aware)["score_kept"] > record(uniform)["score_kept"] + 0.03


def test_layers_run_twice_and_networks_of_several_inputs(arithmetic: Register) -> None:  # noqa: F811
    model = settle(Lambda(lambda m, x, y: m.fc(pooled(m.b(m.a(x) + m.a(y)))), a=conv(3, 64), b=conv(64, 64),
                          fc=nn.Linear(64, 4)))  # fmt: skip
    inputs = (torch.randn(1, 3, 8, 8), torch.randn(1, 3, 8, 8))
    pruned = secateur.prune(model, inputs, target=Target(latency=0.5, runtime=arithmetic()))
    assert record(pruned)["reached"] == pytest.approx(0.5, rel=0.05)


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.fc = conv(3, 64), conv(64, 64), nn.Linear(64, 4)

    def forward(self, image: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return self.fc(pooled(self.b(self.a(image)))) * scale


def test_inputs_by_keyword(arithmetic: Register) -> None:  # noqa: F811
    inputs = {"image": torch.randn(1, 3, 8, 8), "scale": torch.ones(1, 1)}
    pruned = secateur.prune(settle(Named()), inputs, target=Target(latency=0.5, runtime=arithmetic()))
    assert record(pruned)["reached"] == pytest.approx(0.5, rel=0.05)


def test_cuts_in_turn_count_from_the_dense_network(arithmetic: Register) -> None:  # noqa: F811
    model, x = chain(32, 48, 32)
    name = arithmetic()
    first = secateur.prune(model, x, target=Target(latency=0.7, runtime=name))
    second = secateur.prune(first.model, x, target=Target(latency=0.5, runtime=name), of="dense")
    assert second.after.macs / first.before.macs == pytest.approx(0.5, rel=0.06)
    by_ratio = secateur.prune(model, x, ratio=0.25)
    with pytest.raises(InputError, match="cut 1 of 1 was not"):
        secateur.prune(by_ratio.model, x, target=Target(latency=0.5, runtime=name), of="dense")


# --------------------------------------------------------------------------------------------------------- cache


def test_table_is_kept_and_a_damaged_one_measured_anew(
    arithmetic: Register,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Any,
) -> None:
    model, x = chain(16, 24)
    target = Target(latency=0.5, runtime=arithmetic())
    with counted(monkeypatch) as first:
        one = secateur.prune(model, x, target=target)
    assert len(first) == len(set(first)) == 2  # both convolutions share theirs
    with counted(monkeypatch) as again:
        two = secateur.prune(model, x, target=target)
    assert again == []
    assert record(two) == record(one)
    (file,) = (tmp_path / "cache").rglob("*.json")
    for damage in ("{", '{"format": 1}', file.read_text().replace('"reference_ms": ', '"reference_ms": -')):
        file.write_text(damage)
        with counted(monkeypatch) as anew:
            three = secateur.prune(model, x, target=target)
        assert anew == first
        assert record(three) == record(one)
        assert any("was damaged" in note for note in three.notes)
    assert json.loads(file.read_text())["facts"]["runtime"] == "arithmetic"


def test_other_threads_are_another_table(
    arithmetic: Register,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Any,
) -> None:
    model, x = chain(16, 16)
    name = arithmetic()
    secateur.prune(model, x, target=Target(latency=0.5, runtime=name))
    with counted(monkeypatch) as other:
        secateur.prune(model, x, target=Target(latency=0.5, runtime=name, threads=2))
    assert other
    assert len(list((tmp_path / "cache").rglob("*.json"))) == 2


# ----------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"latency": 0.5}, "wants a runtime"),
        ({"latency": 0.0, "runtime": "onnxruntime"}, "share in (0, 1]"),
        ({"latency": -1, "runtime": "onnxruntime"}, "share in (0, 1]"),
        ({"latency": 12, "runtime": "onnxruntime"}, "milliseconds: latency_ms"),
        ({"latency_ms": 0, "runtime": "onnxruntime"}, "above 0"),
        ({"latency_ms": float("nan"), "runtime": "onnxruntime"}, "latency_ms is a finite number"),
        ({"latency": 0.5, "latency_ms": 3, "runtime": "onnxruntime"}, "latency and latency_ms"),
        ({"latency": 0.5, "macs": 0.5, "runtime": "onnxruntime"}, "macs and latency"),
        ({"macs": 0.5, "runtime": "onnxruntime"}, "macs has no runtime"),
        ({"latency": 0.5, "runtime": "onnxruntime", "batch": 0}, "batch=…) is at least 1"),
        ({"latency": 0.5, "runtime": "onnxruntime", "threads": 0}, "threads=…) is at least 1"),
    ],
)
def test_bad_targets(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=re.escape(words)):
        Target(**options)


def test_target_below_the_floor_names_it(arithmetic: Register) -> None:  # noqa: F811
    model, x = chain(16, 16)
    with pytest.raises(BudgetError) as caught:
        secateur.prune(model, x, target=Target(latency=0.05, runtime=arithmetic()), round_to=8)
    narrow, _ = chain(8, 8)
    floor = seconds_by_macs(narrow, x[:1]) / seconds_by_macs(model, x[:1])
    assert f"the narrowest network takes {floor:.1%}" in str(caught.value)


def test_target_above_the_dense_time(arithmetic: Register) -> None:  # noqa: F811
    model, x = chain(8, 8)
    with pytest.raises(BudgetError, match="above what the dense network takes"):
        secateur.prune(model, x, target=Target(latency_ms=1e6, runtime=arithmetic()))


def test_unknown_and_missing_runtimes(arithmetic: Register) -> None:  # noqa: F811
    from secateur.runtimes import RUNTIMES, Runtime

    model, x = chain(8, 8)
    with pytest.raises(UnknownNameError, match="Did you mean 'onnxruntime'"):
        secateur.prune(model, x, target=Target(latency=0.5, runtime="onnxruntim"))
    name = arithmetic()

    class Missing(Runtime):
        packages = ("no_such_package",)
        extra = "onnx"

    RUNTIMES._items[name] = Missing()
    with pytest.raises(InputError, match=r"needs no_such_package: pip install torch==.*secateur\[onnx\]"):
        secateur.prune(model, x, target=Target(latency=0.5, runtime=name))


def test_ratio_and_latency_together(arithmetic: Register) -> None:  # noqa: F811
    model, x = chain(8, 8)
    with pytest.raises(InputError, match="Give one aim"):
        secateur.prune(model, x, ratio=0.5, target=Target(latency=0.5, runtime=arithmetic()))


def test_bad_rules(arithmetic: Register) -> None:  # noqa: F811
    model, x = chain(8, 8)
    target = Target(latency=0.5, runtime=arithmetic())
    for options, words in (
        ({"scope": "globl"}, "global"),
        ({"min_units": 0}, "at least 1"),
        ({"round_to": "on"}, "got 'on'"),
    ):
        with pytest.raises(InputError, match=words):
            secateur.prune(model, x, target=target, **options)


def test_round_to_auto_without_a_latency_is_pytorchs_step() -> None:
    model, x = chain(64, 40)
    pruned = secateur.prune(model, x, ratio=0.5, round_to="auto")
    assert [c.kept for c in pruned.groups] == [32, 16]


# ------------------------------------------------------------------------------------------------------ knapsack


def problem(seed: int) -> Problem:
    """Five coupled groups of four widths: products of neighbours, as in a chain of layers."""
    rng = np.random.default_rng(seed)
    full, cut = np.full(5, 16), np.array([0, 4, 8, 12])
    gone = [np.where(np.arange(5) == g, cut[:, None], 0) for g in range(5)]
    worth = [np.cumsum(rng.uniform(0.1, 1, 4))[::-1].copy() for _ in range(5)]
    rate = rng.uniform(0.5, 2, 6)
    between = [Term((g, g + 1), lambda a, b, r=r: r * a * b) for g, r in zip(range(4), rate, strict=False)]
    ends = [Term((0,), lambda a: rate[4] * a * 3), Term((4,), lambda a: rate[5] * a * 4)]
    return Problem(full, gone, worth, [*between, *ends])


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("share", [0.3, 0.55, 0.8])
def test_knapsack_is_nearly_as_good_as_trying_everything(seed: int, share: float) -> None:
    made = problem(seed)
    limit = share * made.ms(made.dense)
    fitting = [c for c in itertools.product(range(4), repeat=5) if made.ms(c) <= limit]
    found = fill(made, limit)
    assert found is not None
    assert made.ms(found) <= limit
    assert made.kept(found) >= 0.95 * max(made.kept(c) for c in fitting)


def test_knapsack_at_its_ends() -> None:
    made = problem(0)
    assert fill(made, made.ms(made.dense)) == made.dense
    assert fill(made, made.ms(made.narrowest)) == made.narrowest
    assert fill(made, made.ms(made.narrowest) * 0.999) is None


def test_widths_and_what_they_are_worth() -> None:
    model, x = chain(32, 10)
    groups = analyse(model, x).groups
    scores = score(groups, lambda view: torch.arange(1.0, len(view) + 1))
    wide, narrow = widths(groups.items, scores, Rules(round_to=8, fine=True))
    assert wide.kept == (32, 24, 16, 8)
    assert narrow.kept == (10, 8, 4, 2)
    kept = np.array([10, (55 - 3) / 5.5, (7 + 8 + 9 + 10) / 5.5, 19 / 5.5])
    assert narrow.worth.tolist() == pytest.approx(np.sqrt(kept).tolist())
    keep = narrow.cut(wide.cut(np.ones(groups.units, dtype=bool), 3), 1)
    assert keep.sum() == 8 + 8
    assert score_kept([wide, narrow], keep) == pytest.approx((sum(range(25, 33)) / 16.5 + 52 / 5.5) / 42)


def test_a_group_is_not_emptied_for_a_little_more_score() -> None:
    model, x = chain(64, 64)
    groups = analyse(model, x).groups
    scores = Scores({0: np.full(64, 0.9), 1: np.ones(64)}, absolute=True, notes=())
    found = widths(groups.items, scores, Rules(round_to=1))
    gone = [np.stack([[64 - k, 0] for k in found[0].kept]), np.stack([[0, 64 - k] for k in found[1].kept])]
    terms = [Term((slot,), float) for slot in (0, 1)]  # a unit takes a millisecond in either group
    choice = fill(Problem(np.array([64, 64]), gone, [one.worth for one in found], terms), 64)
    assert choice is not None
    kept = [one.kept[number] for one, number in zip(found, choice, strict=True)]
    assert sum(kept) <= 64
    assert 0.7 < kept[0] / kept[1] < 1  # the plain sum of scores keeps 2 and 62


def test_scores_below_zero_are_lifted() -> None:
    model, x = chain(16, 16)
    groups = analyse(model, x).groups
    scores = score(groups, lambda view: torch.linspace(-1, 1, len(view)))
    for one in widths(groups.items, scores, Rules(round_to=4)):
        assert (np.diff(one.worth) < 0).all()
