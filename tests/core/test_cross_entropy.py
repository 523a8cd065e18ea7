"""Cross-entropy that nobody chose is taken where it fits, and refused where PyTorch would compute some number."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import secateur
from secateur.core.cross_entropy import default_cross_entropy
from secateur.core.errors import InputError


@pytest.mark.parametrize(
    ("scores", "labels"),
    [
        (torch.randn(4, 3), torch.tensor([0, 2, 1, 2])),
        (torch.randn(4, 3, 5), torch.randint(0, 3, (4, 5))),
        (torch.randn(2, 3), torch.tensor([-100, 1])),
        (torch.randn(4, 3), torch.randn(4, 3).softmax(1)),
    ],
)
def test_what_fits_is_computed(scores: Tensor, labels: Tensor) -> None:
    assert torch.equal(default_cross_entropy(scores, labels), F.cross_entropy(scores, labels))


@pytest.mark.parametrize(
    ("scores", "labels", "said"),
    [
        (torch.randn(4, 3), torch.randn(4, 3), "probabilities of the classes, and these are none"),
        (torch.randn(4, 1), torch.randn(4, 1), "at least two classes"),
        (torch.randn(4, 1), torch.zeros(4).long(), "at least two classes"),
        (torch.randn(4), torch.zeros(4).long(), "at least two classes"),
        (torch.randn(4, 3), torch.tensor([0, 1, 2, 3]), "tells 3 classes apart, and there are labels from 0 to 3"),
        (torch.randn(4, 3), torch.tensor([-1, 1, 2, 2]), "labels from -1 to 2"),
        (torch.randn(4, 3), torch.zeros(4, 1).long(), r"a class for every sample, int64 \(N\)"),
        (torch.randn(4, 3), torch.zeros(4).int(), "int32"),
        (torch.randn(4, 3), torch.randn(4), "a class for every sample"),
        (torch.randn(4, 7, 3), torch.zeros(4).long(), "a class for every sample"),
    ],
)
def test_what_does_not_fit_is_refused(scores: Tensor, labels: Tensor, said: str) -> None:
    with pytest.raises(InputError, match=f"No loss was given, and cross-entropy.*{said}.*Give loss="):
        default_cross_entropy(scores, labels)


def test_a_regression_needs_its_loss_for_gradients() -> None:
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    x, y = torch.randn(8, 6), torch.randn(8, 3)
    with pytest.raises(InputError, match="cross-entropy, which is taken then, does not fit"):
        secateur.prune(net, x[:2], ratio=0.5, criterion="taylor", data=[(x, y)])
    assert secateur.prune(net, x[:2], ratio=0.5, criterion="taylor", data=[(x, y)], loss=F.mse_loss).after.params
