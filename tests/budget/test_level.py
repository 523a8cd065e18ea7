"""One level of loss for all groups: curves by hand, and ratios against every choice there is."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import secateur
from secateur import Sensitivity
from secateur.budget.curves import Curve
from secateur.budget.level import envelope, share_at
from secateur.budget.sensitivity import read_ratios
from secateur.core.errors import BudgetError, DataError, InputError
from secateur.core.metric import TOP1, Metric


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 3))


def curves(first: tuple[float, ...], second: tuple[float, ...]) -> tuple[Curve, ...]:
    return (Curve("0", ("0",), 8, (2, 4, 6), first), Curve("2", ("2",), 12, (3, 6, 9), second))


def known(first: tuple[float, ...], second: tuple[float, ...], **more: Any) -> Sensitivity:
    return Sensitivity(curves(first, second), **more).on(net(), torch.zeros(2, 6))


def macs(one: int, two: int) -> int:
    """Multiply-accumulates with so many units left."""
    return 6 * one + one * two + two * 3


def test_a_share_lies_on_the_line_between_two_points_and_never_behind_the_last() -> None:
    points = envelope((0.25, 0.5, 0.75), (0.1, 0.5, 0.3))
    assert points == [(0.0, 0.0), (0.25, 0.1), (0.5, 0.5), (0.75, 0.5)], "a dip is luck"
    assert share_at(points, 0.3) == pytest.approx(0.375)
    assert share_at(points, 0.5) == share_at(points, 7.0) == 0.75
    assert share_at(points, 0.0) == share_at(points, -1.0) == 0.0


@pytest.mark.parametrize("share", [0.9, 0.7, 0.5, 0.3])
def test_the_level_is_the_lowest_at_which_the_target_is_met(share: float) -> None:
    """Every pair of widths that some level gives is listed by hand; the answer is the nearest of them."""
    found = known((0.1013, 0.3107, 0.9311), (0.0503, 0.2017, 0.4109))  # no two widths lie at one level
    ratios = found.ratios(macs=share)
    one, two = round(8 * (1 - ratios["0"])), round(12 * (1 - ratios["2"]))
    points = [envelope(c.ratios, c.values) for c in found.curves]
    levels = [k / 10_000 for k in range(9_500)]
    possible = {tuple(n - int(n * share_at(p, level) + 1e-6) for n, p in zip((8, 12), points, strict=True))
                for level in levels}  # fmt: skip
    wanted = share * macs(8, 12)
    assert (one, two) in possible
    assert abs(macs(one, two) - wanted) == min(abs(macs(*pair) - wanted) for pair in possible if (
        macs(*pair) <= wanted * 1.01))  # fmt: skip


def test_a_cut_by_the_ratios_has_exactly_these_widths() -> None:
    found = known((0.1, 0.3, 0.9), (0.05, 0.2, 0.4))
    ratios = found.ratios(params=0.6)
    pruned = secateur.prune(net(), torch.zeros(2, 6), ratio=ratios)
    assert [cut.kept for cut in pruned.groups] == [round(8 * (1 - ratios["0"])), round(12 * (1 - ratios["2"]))]
    assert pruned.after.params <= 0.6 * pruned.before.params * 1.01
    kept = found.ratios(params=0.6, round_to=4)
    assert {round(8 * (1 - kept["0"])) % 4, round(12 * (1 - kept["2"])) % 4} == {0}


def test_on_a_plateau_the_same_part_of_every_share_goes() -> None:
    """An accuracy that does not fall at all: with nothing to tell groups apart, both lose the same."""
    flat = known((90.0, 90.0, 91.0), (90.0, 90.0, 90.0), metric=TOP1, dense=90.0)
    ratios = flat.ratios(macs=0.5)
    assert 0 < ratios["0"] < 0.75
    assert ratios["0"] == pytest.approx(ratios["2"], abs=1 / 8)
    left = macs(round(8 * (1 - ratios["0"])), round(12 * (1 - ratios["2"])))
    every = [macs(a, b) for a, b in itertools.product(range(2, 9), range(3, 13))]
    assert left in every
    assert left <= 0.505 * macs(8, 12)


def test_the_direction_of_a_score_decides() -> None:
    worse = known((80.0, 70.0, 60.0), (89.0, 88.0, 87.0), metric=TOP1, dense=90.0).ratios(macs=0.6)
    other = known(
        (80.0, 70.0, 60.0), (89.0, 88.0, 87.0), metric=Metric(better="lower", name="error"), dense=60.0
    ).ratios(macs=0.6)
    assert worse["0"] < worse["2"]
    assert other["0"] > other["2"]


def test_what_is_out_of_reach_says_how_far_one_can_go() -> None:
    found = known((0.1, 0.3, 0.9), (0.05, 0.2, 0.4))
    with pytest.raises(BudgetError, match=r"75%\), 27 are left \(15\.\d% of 180\)\. Measure larger ratios"):
        found.ratios(macs=0.05)
    with pytest.raises(BudgetError, match="above the dense"):
        found.ratios(macs=5000)
    for wrong in ({}, {"macs": 0.5, "params": 0.5}):
        with pytest.raises(InputError, match="one target"):
            found.ratios(**wrong)
    with pytest.raises(InputError, match="round_to"):
        found.ratios(macs=0.5, round_to=0)
    with pytest.raises(BudgetError, match="no curve"):
        Sensitivity(()).on(net(), torch.zeros(2, 6)).ratios(macs=0.5)


def test_another_network_is_refused() -> None:
    found = Sensitivity(curves((0.1, 0.3, 0.9), (0.05, 0.2, 0.4)))
    with pytest.raises(InputError, match=r"\.on\(model, example_inputs\)"):
        found.ratios(macs=0.5)
    narrow = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    with pytest.raises(InputError, match="'0' has 8 units there, here there are 5"):
        found.on(narrow, torch.zeros(2, 6))


class Heads(nn.Module):
    """The module that a group is called after holds a layer of another group: its output projection."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(6, 16), nn.Linear(16, 3)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        return self.head(x + self.attention(x, x, x)[0])  # type: ignore[no-any-return]


def test_every_group_gets_its_own_ratio_where_names_overlap() -> None:
    model, x = Heads().eval(), torch.randn(2, 5, 6)
    own = Sensitivity((Curve("embed", ("embed",), 16, (4, 8), (0.5, 0.9)), Curve("attention", (), 4, (2,), (0.1,))))
    pruned = secateur.prune(model, x, ratio=own.on(model, x).ratios(params=0.9))
    alone = Sensitivity(own.curves[1:]).on(model, x).ratios(params=0.85)
    assert {cut.group.name: cut.kept for cut in pruned.groups} == {"embed": 16, "attention": 3}
    assert alone["embed"] == 0.0, "its name fits the residual stream too, which was not measured"
    assert {c.group.name: c.kept for c in secateur.prune(model, x, ratio=alone).groups}["embed"] == 16


# ----------------------------------------------------------------------------------------------------------- files


def test_a_file_gives_back_what_was_saved(tmp_path: Path) -> None:
    found = known((0.1, 0.3, 0.9), (0.05, 0.2, 0.4), notes=("a note",), samples=3)
    path = found.save(tmp_path / "s.json", macs=0.5)
    again = Sensitivity.read(path)
    assert again == found.aimed(macs=0.5)
    assert again.ratios() == read_ratios(path) == found.ratios(macs=0.5)
    assert again.target == {"macs": 0.5}
    assert again.on(net(), torch.zeros(2, 6)).ratios(params=0.5) == found.ratios(params=0.5)
    assert str(again) == str(found.aimed(macs=0.5))
    with pytest.raises(InputError, match="Cannot write"):
        found.save(tmp_path / "none/s.json")


def test_a_file_without_ratios_says_how_to_have_them(tmp_path: Path) -> None:
    path = known((0.1, 0.3, 0.9), (0.05, 0.2, 0.4)).save(tmp_path / "s.json")
    with pytest.raises(DataError, match="curves and no ratios"):
        read_ratios(path)


BEST = {"name": "a", "title": "", "better": "best", "format": "number"}


@pytest.mark.parametrize(("change", "words"), [
    ("not json", "is not JSON"), ("[1]", "holds no sensitivity"), ('{"ratios": {"0": 0.5}}', "holds no sensitivity"),
    ({"format": 2}, "newer ones need"), ({"ratios": {"0": 1.0}}, "not in"), ({"ratios": {"0": "much"}}, "no number"),
    ({"ratios": [0.5]}, "damaged"), ({"metric": BEST}, "higher"), ({"curves": {}}, "no list"),
    ({"curves": [{"name": "0"}]}, "damaged"), ({"notes": [1]}, "no text"), ({"samples": -1}, "no count"),
    ({"units": 4}, "removes 6 of 4"), ({"removed": [4, 2, 6]}, "do not belong"), ({"values": [1.0]}, "do not belong"),
    ({"dense": True}, "no number"),
])  # fmt: skip
def test_damaged_files_are_named(change: Any, words: str, tmp_path: Path) -> None:
    path = known((0.1, 0.3, 0.9), (0.05, 0.2, 0.4)).save(tmp_path / "s.json", macs=0.5)
    data = json.loads(path.read_text())
    if isinstance(change, str):
        path.write_text(change)
    else:
        inner = data["curves"][0] if {*change} <= {"units", "removed", "values"} else data
        inner.update(change)
        path.write_text(json.dumps(data))
    with pytest.raises(DataError, match=words) as caught:
        Sensitivity.read(path)
    assert str(path) in str(caught.value)


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    (tmp_path / "sensitivity.json").touch()
    for path, words in ((tmp_path, "is a folder"), (tmp_path / "x.json", "There is no file .*x.json"),
                        (tmp_path / "sensitvity.json", "Did you mean .*/sensitivity.json?")):  # fmt: skip
        with pytest.raises(DataError, match=words):
            Sensitivity.read(path)
