"""Shared weights: one-dimensional k-means and its training."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from secateur.core.errors import InputError, UnknownNameError
from secateur.data import load
from secateur.models import create
from secateur.sparsity import HoldShared, share_weights, sparsify
from secateur.sparsity.cluster import assign, codebook
from secateur.train import TrainConfig, fit


def lloyd_by_loop(values: list[float], centroids: list[float]) -> list[float]:
    """k-means as the text has it, one value after the other; empty clusters stay where they are."""
    for _ in range(100):
        members: list[list[float]] = [[] for _ in centroids]
        for value in values:
            members[min(range(len(centroids)), key=lambda k: abs(value - centroids[k]))].append(value)
        moved = [sum(m) / len(m) if m else c for m, c in zip(members, centroids, strict=True)]
        if np.allclose(moved, centroids, rtol=0, atol=1e-12):
            return [c for c, m in zip(moved, members, strict=True) if m]
        centroids = moved
    return centroids


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_the_codebook_equals_a_loop(bits: int) -> None:
    values = np.random.default_rng(bits).uniform(0.5, 2.0, 200).astype(np.float32)
    start = np.linspace(float(values.min()), float(values.max()), 2**bits).tolist()
    np.testing.assert_allclose(codebook(values, bits), lloyd_by_loop(values.tolist(), start), rtol=1e-6)


def test_it_is_a_fixed_point_and_starts_beside_the_gap() -> None:
    rng = np.random.default_rng(0)
    values = (rng.choice([-1, 1], 3000) * rng.uniform(1.0, 1.2, 3000)).astype(np.float32)
    centroids = codebook(values, 4)
    assert len(centroids) == 16  # none was lost in the gap between −1 and 1
    nearest = np.abs(values[:, None] - centroids).argmin(1)
    assert np.array_equal(assign(values, centroids), nearest)
    means = [values[nearest == k].astype(np.float64).mean() for k in range(16)]
    np.testing.assert_allclose(centroids, means, rtol=1e-6)
    assert np.abs(values - centroids[nearest]).max() < 0.2 / 8


def test_few_values_are_their_own_centroids() -> None:
    values = np.array([0.1, 0.1, -3.0, 7.0], np.float32)
    assert codebook(values, 2).tolist() == np.array([-3.0, 0.1, 7.0], np.float32).tolist()
    assert codebook(np.array([2.5], np.float32), 1).tolist() == [2.5]


def test_sharing_leaves_few_values_and_all_zeros() -> None:
    model = sparsify(create("lenet5"), ratio=0.8).model
    before = copy.deepcopy(model.state_dict())
    shared = share_weights(model, {"conv*": 6, "fc1": 3})
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    for name, weight in shared.named_parameters():
        values = weight.detach()
        if name in ("fc2.weight", "conv1.bias"):
            assert torch.equal(values, before[name])
        elif name.endswith("weight"):
            assert torch.equal(values == 0, before[name] == 0)
            limit = {"conv1.weight": 64, "conv2.weight": 64, "fc1.weight": 8}[name]
            assert 1 < len(values[values != 0].unique()) <= limit
            assert (values - before[name]).norm() < 0.2 * before[name].norm()


def test_a_centroid_moves_by_the_mean_gradient() -> None:
    layer = nn.Linear(4, 1, bias=False)
    layer.weight = nn.Parameter(torch.tensor([[1.0, 2.0, 0.0, 1.0]]))
    hold = HoldShared()
    hold.start(layer, 1, 1)
    layer.weight.grad = torch.tensor([[3.0, 5.0, 9.0, 1.0]])
    hold.gradients(layer)
    assert layer.weight.grad.tolist() == [[2.0, 5.0, 0.0, 2.0]]
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.5, 2.0, 0.3, 1.7]]))
    hold.weights(layer)
    torch.testing.assert_close(layer.weight.detach(), torch.tensor([[1.6, 2.0, 0.0, 1.6]]))


def test_training_keeps_weights_together() -> None:
    model = share_weights(sparsify(create("resnet_digits"), ratio=0.5).model, 3)
    before = {n: p.detach().clone() for n, p in model.named_parameters() if p.ndim > 1}
    fit(model, load("digits", limit=128), TrainConfig(epochs=2, lr=0.01), extras=[HoldShared()])
    moved = 0
    for name, weight in model.named_parameters():
        if name in before:
            old, new = before[name], weight.detach()
            assert torch.equal(new == 0, old == 0)
            for value in old[old != 0].unique():
                assert len(new[old == value].unique()) == 1
                moved += int(new[old == value][0] != value)
    assert moved > 50


def test_a_resumed_training_knows_which_weights_belong_together() -> None:
    layer = nn.Linear(3, 1, bias=False)
    layer.weight = nn.Parameter(torch.tensor([[1.0, 2.0, 2.0]]))
    first = HoldShared()
    first.start(layer, 1, 1)
    second = HoldShared()
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        layer.weight.fill_(5.0)  # two values that have met
    second.start(layer, 1, 1)
    layer.weight.grad = torch.tensor([[1.0, 2.0, 4.0]])
    second.gradients(layer)
    assert layer.weight.grad.tolist() == [[1.0, 3.0, 3.0]]


def test_bits_out_of_range_and_unknown_layers_are_refused() -> None:
    for bits, words in ((0, "1 to 8"), (9, "1 to 8"), (2.5, "whole number"), (True, "whole number")):
        with pytest.raises(InputError, match=f"bits.*{words}"):
            share_weights(nn.Linear(3, 3), bits)  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="fc7"):
        share_weights(create("lenet5"), {"fc7": 4})
