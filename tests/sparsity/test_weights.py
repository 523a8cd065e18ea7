"""Selections of single weights against slow loops, with exact counts."""

from __future__ import annotations

import copy
import re
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.core.errors import InputError, UnknownNameError, WeightsError
from secateur.criteria.weights import lamp
from secateur.models import create
from secateur.sparsity import masks_of, sparsify


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 1), nn.Flatten(), nn.Linear(32, 10)
    )


def removed_by_loop(weights: dict[str, Tensor], ratio: float) -> set[tuple[str, int]]:
    """The ``ratio`` smallest magnitudes of all given weights, ties in order; one of every layer is kept."""
    ranked = []
    for position, (name, weight) in enumerate(weights.items()):
        sizes = weight.detach().abs().flatten().tolist()
        best = sizes.index(max(sizes))
        ranked += [(size, position, k, name) for k, size in enumerate(sizes) if k != best]
    ranked.sort()
    count = int(ratio * sum(w.numel() for w in weights.values()) + 0.5)
    return {(name, k) for _, _, k, name in ranked[:count]}


def removed(masks: dict[str, Tensor]) -> set[tuple[str, int]]:
    return {(name, int(k)) for name, mask in masks.items() for k in (~mask).flatten().nonzero()}


@pytest.mark.parametrize("ratio", [0.0, 0.33, 0.5, 0.907])
def test_global_and_local_choices_equal_a_loop(ratio: float) -> None:
    model = net()
    weights = {n: p for n, p in model.named_parameters() if p.ndim > 1}
    assert removed(dict(sparsify(model, ratio=ratio, scope="global").masks)) == removed_by_loop(weights, ratio)
    local = set().union(*(removed_by_loop({n: w}, ratio) for n, w in weights.items()))
    assert removed(dict(sparsify(model, ratio=ratio).masks)) == local


def test_counts_are_exact_under_ties() -> None:
    model = nn.Linear(10, 10)
    nn.init.ones_(model.weight)
    found = sparsify(model, ratio=0.37)
    assert found.layers[0].kept == 63
    # The first of equals go, but for the best one that stays: the first of all.
    assert found.masks["weight"].flatten()[:39].tolist() == [True] + [False] * 37 + [True]


def test_the_input_is_untouched_and_the_output_holds_real_zeros() -> None:
    model = net()
    before = copy.deepcopy(model.state_dict())
    found = sparsify(model, ratio=0.7, scope="global")
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    assert type(found.model) is type(model)
    assert not any(hasattr(m, "parametrizations") or m._forward_pre_hooks for m in found.model.modules())
    for name, weight in found.model.named_parameters():
        if name in found.masks:
            assert torch.equal(weight.detach() != 0, found.masks[name])
            assert torch.equal(weight.detach(), before[name] * found.masks[name])
        else:
            assert torch.equal(weight.detach(), before[name])
    left = sum(int(p.count_nonzero()) for n, p in found.model.named_parameters() if n in found.masks)
    total = sum(mask.numel() for mask in found.masks.values())
    assert found.sparsity == pytest.approx(1 - left / total)
    assert found.params_left == found.params - (total - left)


def test_a_higher_share_keeps_what_was_removed() -> None:
    model = net()
    first = sparsify(model, ratio=0.5, criterion="random", seed=1)
    second = sparsify(first.model, ratio=0.75, criterion="random", seed=2, masks=first.masks)
    for name, mask in first.masks.items():
        assert not (second.masks[name] & ~mask).any()
        assert int(second.masks[name].sum()) == int(0.25 * mask.numel() + 0.5)
    again = sparsify(second.model, ratio=0.1, masks=second.masks)  # a lower share brings nothing back
    assert all(torch.equal(again.masks[n], second.masks[n]) for n in second.masks)


def test_thresholds_in_standard_deviations() -> None:
    model = net()
    found = sparsify(model, std=1.5)
    for name, weight in model.named_parameters():
        if name in found.masks:
            values = weight.detach().double()
            limit = 1.5 * float((values - values.mean()).square().mean().sqrt())
            assert torch.equal(found.masks[name], values.abs() >= limit)
    by_layer = sparsify(model, std={"0": 0.5, "5": 2.0})
    assert set(by_layer.masks) == {"0.weight", "5.weight"}
    # What is gone does not count towards the deviation.
    half = sparsify(model, ratio=0.5)
    again = sparsify(half.model, std=0.5, masks=half.masks)
    kept = model[5].weight.detach()[half.masks["5.weight"]].double()
    expected = half.masks["5.weight"] & (model[5].weight.detach().abs() >= 0.5 * float(kept.std(correction=0)))
    assert torch.equal(again.masks["5.weight"], expected)


def test_shares_by_layer() -> None:
    found = sparsify(net(), ratio={"0": 0.25, "5.weight": 0.9})
    assert {layer.name: layer.kept for layer in found.layers} == {"0.weight": 162, "5.weight": 32}


@pytest.mark.parametrize("n", [1, 2, 3])
def test_n_of_m_along_the_inputs(n: int) -> None:
    model = nn.Sequential(nn.Conv2d(8, 5, 3), nn.Flatten(), nn.Linear(8, 3))
    found = sparsify(model, pattern=f"{n}:4")
    conv, linear = (p.detach() for p in model.parameters() if p.ndim > 1)
    for out, start, row, column in product(range(5), (0, 4), range(3), range(3)):
        run = conv[out, start : start + 4, row, column].abs()
        kept = found.masks["0.weight"][out, start : start + 4, row, column]
        assert kept.sum() == n
        assert run[kept].min() >= run[~kept].max()
    for out, start in product(range(3), (0, 4)):
        run, kept = linear[out, start : start + 4].abs(), found.masks["2.weight"][out, start : start + 4]
        assert kept.sum() == n
        assert run[kept].min() >= run[~kept].max()


def test_blocks_go_whole() -> None:
    model = nn.Linear(12, 8)
    found = sparsify(model, ratio=0.5, pattern="block 4x3")
    sums = {}
    for row, column in product(range(2), range(4)):
        block = (slice(4 * row, 4 * row + 4), slice(3 * column, 3 * column + 3))
        kept = found.masks["weight"][block]
        assert kept.all() or not kept.any()
        sums[row, column] = (float(model.weight.detach()[block].abs().sum()), bool(kept.all()))
    order = [kept for _, kept in sorted(sums.values())]
    assert order == [False] * 4 + [True] * 4


def test_kernels_go_whole_and_linear_layers_stay() -> None:
    model = net()
    found = sparsify(model, ratio=0.5, pattern="kernel", only=["0"])
    sums = model[0].weight.detach().abs().mean((2, 3)).flatten()
    kept = found.masks["0.weight"].flatten(2).all(2).flatten()
    assert torch.equal(found.masks["0.weight"].flatten(2).any(2).flatten(), kept)
    assert kept.sum() == 12
    assert sums[kept].min() > sums[~kept].max()
    assert set(sparsify(model, ratio=0.5, pattern="kernel").masks) == {"0.weight", "3.weight"}


def test_units_of_different_sizes_share_one_ranking() -> None:
    """Kernels of 9 and of 1 weights: mean magnitudes are ranked, and weights are counted."""
    model = net()
    found = sparsify(model, ratio=0.4, pattern="kernel", scope="global")
    ranked = []
    for name in ("0.weight", "3.weight"):
        kernels = dict(model.named_parameters())[name].detach().flatten(2).flatten(0, 1)
        means = kernels.abs().double().mean(1)
        ranked += [(float(m), kernels.shape[1], name, k) for k, m in enumerate(means) if k != int(means.argmax())]
    ranked.sort()
    total, gone, expected = 6 * 4 * 9 + 8 * 6, 0, set()
    for _, size, name, k in ranked:
        if gone + size / 2 > 0.4 * total:
            break
        gone += size
        expected.add((name, k))
    got = {(n, int(k)) for n, m in found.masks.items() for k in (~m.flatten(2).any(2).flatten()).nonzero()}
    assert got == expected


def test_lamp_equals_its_definition() -> None:
    torch.manual_seed(3)
    weight = torch.randn(5, 4)
    flat = weight.double().flatten().tolist()
    expected = [w * w / sum(v * v for v in flat if v * v >= w * w) for w in flat]
    got = lamp(weight, torch.Generator()).flatten().tolist()
    assert got == pytest.approx(expected, rel=1e-6)
    model = net()
    found = sparsify(model, ratio=0.8, scope="global", criterion="lamp")
    assert found.layers[0].sparsity < sparsify(model, ratio=0.8, scope="global").layers[2].sparsity


def test_a_criterion_of_the_users_own() -> None:
    model = net()
    found = sparsify(model, ratio=0.5, criterion=lambda name, w: -w.abs(), only=["5"])
    small = model[5].weight.detach().abs().flatten()
    kept = found.masks["5.weight"].flatten()
    assert small[kept].max() < small[~kept].min()
    with pytest.raises(InputError, match=r"0\.weight.*\(6, 4, 3, 3\)"):
        sparsify(model, ratio=0.5, criterion=lambda name, w: w.sum())


def test_a_layer_never_empties_and_that_is_said() -> None:
    model = net()
    with torch.no_grad():
        model[3].weight.mul_(1e-6)
    found = sparsify(model, ratio=0.9, scope="global")
    kept = {layer.name: layer.kept for layer in found.layers}
    assert kept["3.weight"] == 1
    assert any("3.weight" in note for note in found.notes)
    assert sum(kept.values()) == round(0.1 * sum(layer.weights for layer in found.layers))
    assert sparsify(model, std=100.0).layers[0].kept == 1


def test_a_sparse_network_is_an_artifact_like_any_other(tmp_path: Path) -> None:
    model = create("lenet5")
    found = sparsify(model, ratio=0.9)
    found.save(tmp_path / "sparse")
    loaded = secateur.load(tmp_path / "sparse", model=create("lenet5")).model
    images = torch.randn(2, 1, 28, 28)
    assert torch.equal(loaded(images), found.model(images))
    masks = masks_of(loaded)
    assert masks.keys() == found.masks.keys()
    assert all(torch.equal(masks[n], found.masks[n]) for n in masks)


@pytest.mark.parametrize("backend", ["module", "graph"])
def test_sparse_after_channels_keeps_plan_and_weights(tmp_path: Path, backend: str) -> None:
    """Double pruning: the artifact of a network that lost channels, then weights."""
    model, images = create("lenet5").eval(), torch.randn(2, 1, 28, 28)
    channels = secateur.prune(model, images, ratio=0.5, backend=backend)
    both = found = sparsify(channels, ratio=0.8)
    assert both.plan == channels.plan
    assert (both.before.params, both.backend) == (431_080, backend)
    both.save(tmp_path / "both")
    loaded = secateur.load(tmp_path / "both", model=create("lenet5")).model
    assert torch.equal(loaded(images), found.model.eval()(images))
    assert sum(int(p.count_nonzero()) for p in loaded.parameters()) == found.params_left


BAD = [
    ({"ratio": 1.0}, r"ratio.*\[0, 1\).*1\.0"),
    ({"ratio": -0.1}, r"ratio.*\[0, 1\)"),
    ({"ratio": {"0": 2.0}}, r"ratio.*2\.0 for '0'"),
    ({"std": float("nan")}, "std"),
    ({}, "got none"),
    ({"ratio": 0.5, "std": 1.0}, "ratio and std"),
    ({"ratio": 0.5, "pattern": "2:4"}, "pattern 2:4"),
    ({"pattern": "4:4"}, "0 < n < m"),
    ({"ratio": 0.5, "pattern": "blocks"}, "element, kernel"),
    ({"pattern": "3:8"}, r"3:8.*'0\.weight'.*4 inputs"),
    ({"ratio": 0.5, "pattern": "block 4x4"}, r"'0\.weight'.*6 rows"),
    ({"ratio": 0.5, "pattern": "kernel", "only": ["5"]}, "convolutions"),
    ({"ratio": 0.5, "scope": "everywhere"}, "scope"),
    ({"ratio": {"0": 0.5}, "scope": "global"}, "local"),
    ({"std": 1.0, "criterion": "lamp"}, "magnitude"),
    ({"ratio": 0.5, "criterion": "magnitud"}, "'magnitude'"),
    ({"ratio": 0.5, "ignore": ["fc9"]}, "fc9"),
    ({"ratio": {"fc9": 0.5}}, "fc9"),
    ({"ratio": 0.5, "only": ["1"]}, "no weight"),
    ({"ratio": 0.5, "masks": {"0.weight": torch.ones(2, dtype=torch.bool)}}, r"0\.weight"),
    ({"ratio": 0.5, "masks": {"9.weight": torch.ones(2, dtype=torch.bool)}}, r"9\.weight"),
]


@pytest.mark.parametrize(("options", "words"), BAD, ids=[re.sub(r"\W+", " ", str(o))[:40] for o, _ in BAD])
def test_bad_input_is_named(options: dict[str, object], words: str) -> None:
    with pytest.raises((InputError, UnknownNameError), match=words):
        sparsify(net(), **options)  # type: ignore[arg-type]


def test_whole_numbers_and_nan_are_refused() -> None:
    model = net()
    model[5].weight = nn.Parameter(torch.ones(10, 32, dtype=torch.int8), requires_grad=False)
    with pytest.raises(InputError, match=r"'5\.weight'.*int8"):
        sparsify(model, ratio=0.5)
    assert set(sparsify(model, ratio=0.5, ignore=["5"]).masks) == {"0.weight", "3.weight"}
    model = net()
    with torch.no_grad():
        model[0].weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(WeightsError, match=r"0\.weight"):
        sparsify(model, ratio=0.5)


def test_embeddings_and_normalisations_are_left_alone_unless_named() -> None:
    model = nn.ModuleDict({"table": nn.Embedding(10, 4), "norm": nn.LayerNorm((3, 4)), "out": nn.Linear(4, 2)})
    assert set(sparsify(model, ratio=0.5).masks) == {"out.weight"}
    assert set(sparsify(model, ratio=0.5, only=["table"]).masks) == {"table.weight"}


def test_zeros_are_said_to_count_as_size_only() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    (note,) = sparsify(model, ratio=0.5).notes
    assert note.startswith("Zeros count as size only")
    assert "convert_sparse" in note
    assert sparsify(model, ratio=0.0).notes == (), "nothing is zero, nothing is to be said"


def test_a_share_below_what_is_gone_already_is_said() -> None:
    first = sparsify(net(), ratio=0.8)
    assert any("80.0% of the weights had been removed before, more than the 50.0% asked for" in note
               for note in sparsify(first, ratio=0.5).notes)  # fmt: skip
    assert not any("removed before" in note for again in (first, sparsify(first, ratio=0.9)) for note in again.notes)
