"""Similarity criteria against loops over pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import secateur
from criteria_cases import CASES, by_channel
from secateur.core.errors import InputError
from secateur.criteria.similarity import redundancy
from zoo import settle


def slow_redundancy(similarity: Tensor, strength: Tensor) -> list[float]:
    """Looks at all pairs again after every removal."""
    left, scores = list(range(len(strength))), [2.0] * len(strength)
    while len(left) > 1:
        pairs = [(float(similarity[i, j]), -i, -j) for i in left for j in left if i < j]
        best, i, j = max(pairs)
        weaker = -j if strength[-j] <= strength[-i] else -i
        scores[weaker] = 1 - best
        left.remove(weaker)
    return scores


@pytest.mark.parametrize("seed", range(5))
def test_redundancy_removes_the_weaker_of_the_nearest_pair(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(12, 4, generator=generator).double()
    similarity = torch.nn.functional.cosine_similarity(points[:, None], points[None], dim=-1)
    strength = torch.rand(12, generator=generator)
    expected = slow_redundancy(similarity, strength)
    assert redundancy(similarity, strength).tolist() == pytest.approx(expected)


def test_one_of_each_cluster_stays() -> None:
    centres = torch.eye(3, 10)
    filters = torch.cat([centres + 0.01 * k for k in range(4)])  # four copies of three filters
    scores = redundancy(torch.corrcoef(filters), torch.arange(12.0))
    kept = scores.topk(3).indices
    assert sorted((kept % 3).tolist()) == [0, 1, 2]


def filters_of(name: str, model: nn.Module) -> dict[str, Tensor]:
    """Every unit's filters in all layers that write its channel, flattened, by hand."""
    producers = {
        "flattened": {"0.conv": ["0.conv"], "2.conv": ["2.conv"]},
        "residual": {"stem.conv": ["stem.conv", "b"], "a.conv": ["a.conv"]},
        "depthwise": {"0": ["0", "2"], "4": ["4"]},
    }[name]
    return {
        group: torch.cat([model.get_parameter(f"{m}.weight").detach().flatten(1).double() for m in modules], 1)
        for group, modules in producers.items()
    }


@pytest.mark.parametrize("name", CASES)
def test_filter_similarity_is_the_cosine_of_flattened_filters(name: str) -> None:
    case = CASES[name]()
    scores = case.scores("filter_similarity")
    for group, filters in filters_of(name, case.model).items():
        n = len(filters)
        cosine = torch.zeros(n, n).double()
        for i in range(n):
            for j in range(n):
                cosine[i, j] = (filters[i] @ filters[j]) / (filters[i].norm() * filters[j].norm())
        assert scores[group].tolist() == pytest.approx(slow_redundancy(cosine, filters.norm(dim=1)))


@pytest.mark.parametrize("name", CASES)
def test_fpgm_sums_distances_to_all_other_filters(name: str) -> None:
    case = CASES[name]()
    scores = case.scores("fpgm")
    for group, filters in filters_of(name, case.model).items():
        for i in range(len(filters)):
            total = sum(float((filters[i] - other).square().sum().sqrt()) for other in filters)
            assert float(scores[group][i]) == pytest.approx(total)


@pytest.mark.parametrize("name", CASES)
def test_map_similarity_is_the_correlation_of_maps(name: str) -> None:
    case = CASES[name]()
    images = case.images(20)
    scores = case.scores("map_similarity", [images[:5], images[5:]])
    for group, relus in case.relus.items():
        rows = [by_channel(v, case.units[group]).double().numpy() for v in case.seen(relus, images).values()]
        with np.errstate(invalid="ignore"):  # a map that never changes counts as a copy of any other
            correlation = torch.from_numpy(sum(np.nan_to_num(np.corrcoef(r), nan=1.0) for r in rows) / len(rows))
        variance = torch.from_numpy(sum(r.var(1) / r.var(1).mean() for r in rows))
        assert scores[group].tolist() == pytest.approx(slow_redundancy(correlation, variance), abs=1e-6)


def test_copies_and_dead_filters_go_first() -> None:
    model = settle(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 1)))
    with torch.no_grad():
        model[0].weight[5] = 0  # type: ignore[index, operator]
        model[0].weight[7] = 0.5 * model[0].weight[2]  # type: ignore[index]
    plan = secateur.prune(model, torch.randn(2, 3, 6, 6), ratio=0.25, criterion="filter_similarity").plan
    assert plan.keep["0.weight"][0] == (0, 1, 2, 3, 4, 6)


def test_constant_maps_go_first() -> None:
    model = settle(nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 1)))
    with torch.no_grad():
        model[0].weight[4] = 0  # type: ignore[index, operator]
        model[0].bias[4] = 3.0  # type: ignore[index, operator]
        model[0].bias[1] = -100.0  # type: ignore[index, operator]
    images = torch.randn(16, 3, 5, 5)
    plan = secateur.prune(model, images[:2], ratio=1 / 3, criterion="map_similarity", data=images).plan
    assert plan.keep["0.weight"][0] == (0, 2, 3, 5)


@pytest.mark.parametrize("criterion", ["filter_similarity", "fpgm", "map_similarity"])
def test_a_single_channel_has_nothing_to_be_similar_to(criterion: str) -> None:
    model = settle(nn.Sequential(nn.Conv2d(3, 1, 1), nn.ReLU(), nn.Conv2d(1, 6, 1), nn.ReLU(), nn.Conv2d(6, 2, 1)))
    images = torch.randn(8, 3, 4, 4)
    pruned = secateur.prune(model, images[:2], ratio=0.5, criterion=criterion, data=images)
    assert [c.kept for c in pruned.groups] == [1, 3]
    assert any("the single channel of '0'" in note for note in pruned.notes)
    with pytest.raises(InputError, match=f"'{criterion}' has nothing to score.*single channel of '0'"):
        secateur.prune(model[:3], images[:2], ratio=0.5, criterion=criterion, data=images)  # type: ignore[index]
