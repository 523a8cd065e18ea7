"""The three forms of ThiNet in Luo et al. 2017, Table 2, counted on VGG-16 without values: 224×224, 1,000 classes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import pytest
import torch
from torch import nn

import secateur
from secateur.models import create, replace_head
from secateur.recipe import load_recipe

CONVOLUTIONS = [f"features.{i}" for i in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)]
HALF = dict.fromkeys(CONVOLUTIONS[:10], 0.5)
FORMS: dict[str, tuple[bool, Mapping[str, float], float, float, float]] = {
    "thinet": (False, HALF, 131.45, 9.58, 0.001),
    "thinet-gap": (True, HALF, 8.32, 9.34, 0.001),
    "thinet-tiny": (True, {"features.*": 0.75, "features.28": 0.5}, 1.32, 2.01, 0.02),
}


@cache
def vgg16() -> nn.Module:
    with torch.device("meta"):
        return create("torchvision:vgg16").eval()


@pytest.mark.parametrize("recipe", FORMS)
def test_sizes_are_the_papers(recipe: str) -> None:
    pool, ratio, millions, billions, tolerance = FORMS[recipe]
    dense = replace_head(vgg16(), 1000, pool=True) if pool else vgg16()
    small = secateur.prune(
        dense,
        torch.zeros(1, 3, 224, 224, device="meta"),
        criterion="random",
        ratio=ratio,
        verify=False,
        granularity="within",
    )
    assert small.after.params / 1e6 == pytest.approx(millions, rel=tolerance)
    assert 2 * small.after.macs / 1e9 == pytest.approx(billions, rel=tolerance), "the paper counts FLOPs, two a MAC"
    if recipe != "thinet-tiny":
        widths = [dense.get_submodule(name).weight.shape[0] for name in CONVOLUTIONS]
        now = [small.model.get_submodule(name).weight.shape[0] for name in CONVOLUTIONS]
        assert now == [w // 2 for w in widths[:10]] + widths[10:]


def test_recipes_say_the_same_of_their_own_network() -> None:
    """`vgg_digits` has six convolutions in three stages; what the forms leave alone is the last stage."""
    steps = {name: load_recipe(name).steps[1].config.model_dump()["steps"] for name in FORMS}
    prunes = {name: inner[0]["prune"] for name, inner in steps.items()}
    assert prunes["thinet"] == prunes["thinet-gap"]
    assert prunes["thinet"]["only"] == ["features.0", "features.3", "features.7", "features.10"]
    assert prunes["thinet-tiny"]["ratio"] == {"features.*": 0.75, "features.17": 0.5}
    for inner in steps.values():
        assert (
            inner[1]["recover"].items() >= {"method": "scale", "fit_to": "before", "layers": "next", "ridge": 0}.items()
        )
    heads = {name: load_recipe(name).model.head.pool for name in FORMS}
    assert heads == {"thinet": False, "thinet-gap": True, "thinet-tiny": True}
