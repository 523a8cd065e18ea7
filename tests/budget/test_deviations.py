"""The threshold of network trimming: units too far below the mean of their layer go, by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.budget import Aim
from secateur.core.errors import InputError
from secateur.recipe.iterate import IterateSettings
from secateur.recipe.schema import StepEntry
from secateur.recipe.steps.pruning import PruneSettings
from secateur.recipe.unroll import _rounds
from zoo import settle

SCORES = {6: [1.0, 5, 5, 5, 5, 9], 4: [2.0, 2, 2, 2]}
"""Mean 5, deviation √(32/6) = 2.309 (over n; over n − 1 it is 2.530): 1 − 5 = −4 is 1.732 of them below."""


def net() -> nn.Module:
    torch.manual_seed(0)
    return settle(nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2)))


def by_hand(view: Any) -> Tensor:
    return torch.tensor(SCORES[len(view)])


def cut(**options: Any) -> secateur.Pruned:
    return secateur.prune(net(), torch.randn(2, 3), criterion=by_hand, **options)


def widths(pruned: secateur.Pruned) -> list[int]:
    return [one.kept for one in pruned.groups]


@pytest.mark.parametrize(("std", "left"), [(0.0, 5), (1.0, 5), (1.73, 5), (1.74, 6), (-0.1, 1), (-1.74, 1)])
def test_units_below_the_threshold_go(std: float, left: int) -> None:
    """Just below the mean one unit goes; 0.1 deviations above it, all but the one with 9."""
    pruned = cut(std=std)
    assert widths(pruned) == [left, 4]
    if left == 5:
        assert pruned.plan.keep["0.weight"][0] == (1, 2, 3, 4, 5)


def test_a_threshold_that_removes_nothing_says_so() -> None:
    pruned = cut(std=3)
    assert widths(pruned) == [6, 4]
    assert any("nothing was removed: no unit scores more than 3 standard deviations below" in n for n in pruned.notes)
    assert any("no unit scores more than 1 standard deviation below the mean of its group in 2" in n
               for n in cut(std=1).notes)  # fmt: skip


def test_a_layer_is_held_at_the_fewest_units_it_keeps() -> None:
    pruned = cut(std=-2, min_units=3)  # nothing of the layer is above 9.6
    assert widths(pruned)[0] == 3
    said = r"0 (6 of 6 are below the threshold, 3 stay)"
    assert any("held at the fewest units" in note and "min_units=3" in note and said in note for note in pruned.notes)
    assert widths(cut(std=-2))[0] == 1, "a layer is never emptied"


def test_widths_stay_multiples_and_fewer_go() -> None:
    assert widths(cut(std=-0.1, round_to=2)) == [2, 4]


def test_apoz_above_the_mean_of_its_layer_goes() -> None:
    """Hu et al. 2016: by a layer whose shares of zeros are set by its biases."""
    layer = nn.Linear(1, 8)
    with torch.no_grad():
        layer.weight.fill_(1.0)
        layer.bias.copy_(torch.tensor([-0.9, -0.5, -0.5, -0.5, -0.5, -0.5, -0.5, 0.0]))
    model = nn.Sequential(layer, nn.ReLU(), nn.Linear(8, 2))
    x = torch.linspace(0.0005, 0.9995, 1000)[:, None]
    apoz = np.array([(x.numpy() <= share).mean() for share in (0.9, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.0)])
    gone = np.flatnonzero(apoz > apoz.mean() + apoz.std())
    pruned = secateur.prune(model, x[:2], criterion="apoz", std=1, data=x)
    assert gone.tolist() == [0]
    assert pruned.plan.keep["0.weight"][0] == (1, 2, 3, 4, 5, 6, 7)


def test_layers_are_chosen_by_name() -> None:
    assert widths(cut(std=-0.1, only=["2"])) == [4]
    assert widths(cut(std=-0.1, only=["0"])) == [1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"std": 1.0, "ratio": 0.5}, "Give one aim.*ratio=0.5 and std=1.0"),
        ({"std": 1.0, "scope": "global"}, "std is a threshold of every group by itself; got scope='global'"),
        ({"std": float("nan")}, "std is a finite number"),
        ({"std": 1.0, "tolerance": 0.1}, "tolerance=0.1 is of a target"),
    ],
)
def test_bad_thresholds_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        cut(**options)


def test_a_recipe_with_an_endless_threshold_is_refused() -> None:
    with pytest.raises(InputError, match=r"std is how many standard deviations below the mean.*got inf"):
        Aim(std=float("inf"))


def test_rounds_over_layers_take_the_threshold_along() -> None:
    inner = {"prune": {"criterion": "apoz", "std": 1.0}}
    config = IterateSettings.model_validate({"over": "layers", "steps": [inner]})
    rounds = _rounds(StepEntry("iterate", config), net(), torch.randn(2, 3))
    made = [entry.config for entry in rounds]
    assert all(isinstance(one, PruneSettings) and (one.std, one.ratio) == (1.0, None) for one in made)
    assert [one.groups for one in made] == [("0",), ("2",)]  # type: ignore[attr-defined]
    assert "more than 1 standard deviation below the mean of their group" in str(made[0])
