"""Targets between two widths: the nearest at or below is taken, and a note says how far below and why."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import secateur
from latency_cases import arithmetic  # noqa: F401 (a fixture)
from secateur import Target
from secateur.core.errors import BudgetError, InputError
from zoo import conv, settle


def chain(*widths: int) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    parts = [conv(a, b) for a, b in zip((3, *widths), widths, strict=False)]
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 4))
    return settle(nn.Sequential(*parts, *head)), torch.randn(2, 3, 8, 8)


def reachable(model: nn.Module, x: Tensor, step: int) -> list[int]:
    """MACs of every choice of two widths in multiples of ``step``, by formula: 8×8 images, 3×3 kernels."""
    sizes = range(step, 17, step)
    return sorted(64 * 9 * (3 * a + a * b) + b * 4 for a in sizes for b in sizes)


@pytest.mark.parametrize("step", [4, 8])
@pytest.mark.parametrize("share", [0.9, 0.6, 0.45, 0.3])
def test_what_is_left_is_at_or_below_the_target(step: int, share: float) -> None:
    model, x = chain(16, 16)
    pruned = secateur.prune(model, x, macs=share, round_to=step)
    wanted = share * pruned.before.macs
    assert pruned.after.macs <= wanted
    assert pruned.after.macs in reachable(model, x, step)
    said = [note for note in pruned.notes if "below the target" in note]
    assert bool(said) == (pruned.after.macs < 0.99 * wanted)


def test_the_note_says_how_far_and_why() -> None:
    model, x = chain(16, 16)
    pruned = secateur.prune(model, x, macs=0.6, round_to=8)
    wanted, left = 0.6 * pruned.before.macs, pruned.after.macs
    note = next(note for note in pruned.notes if "below the target" in note)
    assert f"macs: {left:,} are left, {1 - left / wanted:.1%} below the target of {wanted:,.0f}" in note
    assert "multiples of 8" in note
    above = int(re.findall(r"above it that was found has ([\d,]+)", note)[0].replace(",", ""))
    assert above > wanted
    assert not [m for m in reachable(model, x, 8) if left < m < wanted], "nothing nearer was there"


def test_a_wider_tolerance_needs_no_note() -> None:
    model, x = chain(16, 16)
    pruned = secateur.prune(model, x, target=Target(macs=0.6), round_to=8, tolerance=0.5)
    assert not any("below the target" in note for note in pruned.notes)
    strict = secateur.prune(model, x, macs=0.6, tolerance=0)
    assert any("below the target" in note for note in strict.notes) == (strict.after.macs < 0.6 * strict.before.macs)


def test_only_what_cannot_be_reached_at_all_is_refused() -> None:
    model, x = chain(16, 16)
    floor = secateur.prune(model, x, ratio=0.99, min_units=4)
    assert secateur.prune(model, x, macs=floor.after.macs, min_units=4).after.macs == floor.after.macs
    with pytest.raises(BudgetError, match=r"With round_to=1 and min_units=1 it can be met\."):
        secateur.prune(model, x, macs=floor.after.macs - 1, min_units=4)
    with pytest.raises(BudgetError, match=r"cannot be met.*are left") as caught:
        secateur.prune(model, x, macs=2)
    assert "round_to" not in str(caught.value), "what was tried and does not help is not advised"


def test_the_share_in_the_message_can_be_asked_for() -> None:
    model, x = chain(16, 16)
    with pytest.raises(BudgetError) as caught:
        secateur.prune(model, x, macs=0.01, min_units=5)
    share = float(re.findall(r"\(([\d.]+)% of", str(caught.value))[0]) / 100
    assert secateur.prune(model, x, macs=share, min_units=5).after.macs <= share * secateur.count(model, x).macs


@pytest.mark.parametrize("measure", ["params", "size", "energy"])
def test_other_counts_end_below_too(measure: str) -> None:
    model, x = chain(16, 16)
    pruned = secateur.prune(model, x, round_to=8, **{measure: 0.6})
    assert any(note.startswith(f"{measure}: ") and "below the target" in note for note in pruned.notes)


def test_tolerance_is_of_a_target() -> None:
    model, x = chain(8, 8)
    with pytest.raises(InputError, match=r"tolerance=0\.1 is of a target"):
        secateur.prune(model, x, ratio=0.5, tolerance=0.1)
    with pytest.raises(InputError, match=r"tolerance is how far below.*got 1\.5"):
        secateur.prune(model, x, macs=0.5, tolerance=1.5)
    with pytest.raises(InputError, match="tolerance"):
        secateur.prune(model, x, macs=0.5, tolerance=float("nan"))


def test_equal_scores_are_said() -> None:
    model, x = chain(8, 12)  # batch-norm scales are ones when they are made
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    pruned = secateur.prune(model, x, criterion="bn_scale", ratio=0.5)
    assert any("all scores are equal in every group that is cut" in note for note in pruned.notes)
    assert pruned.plan.keep["0.0.weight"][0] == (4, 5, 6, 7), "the first ones go"
    with torch.no_grad():
        model[0][1].weight.copy_(torch.arange(8.0) + 1)  # type: ignore[index,union-attr]
    pruned = secateur.prune(model, x, criterion="bn_scale", ratio={"*": 0.25})
    assert any("all scores are equal in 1.0, so" in note for note in pruned.notes)
    pruned = secateur.prune(model, x, criterion="bn_scale", ratio={"0*": 0.25})
    assert not any("scores are equal" in note for note in pruned.notes), "what stays whole is no choice"
    zeros = secateur.prune(model, x, ratio=0.5, criterion=lambda view: torch.zeros(len(view)))
    assert any("scores are equal" in note for note in zeros.notes)
    assert not any("scores are equal" in note for note in secateur.prune(model, x, ratio=0.5).notes)


def test_a_latency_between_two_widths_is_met_from_below(arithmetic: Callable[..., str]) -> None:  # noqa: F811
    model, x = chain(16, 16)
    dense = secateur.count(model, x).macs
    one = secateur.prune(model, x, ratio={"0.0": 0.5}).after.macs / dense
    other = secateur.prune(model, x, ratio={"1.0": 0.5}).after.macs / dense
    near = max(one, other) / 1.08  # the nearest width takes 8 % more than that
    options = {"latency": near, "runtime": arithmetic(), "round_to": 8}
    pruned = secateur.prune(model, x, **options)
    found = dict(pruned.plan.provenance["latency"])
    assert found["reached"] <= near
    assert "below the target" in pruned.notes[0]
    wide = secateur.prune(model, x, **options, tolerance=0.5)
    assert "below the target" not in wide.notes[0]
    assert wide.plan.provenance["latency"]["tolerance"] == 0.5
