"""Speech networks with reparametrised weights: half of their channels go, and they stay what they were."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import secateur
from speech import Codec, Conformer, Vocoder, WaveNet
from zoo import settle

NORMS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "none": lambda layer: layer,
    "old weight_norm": nn.utils.weight_norm,
    "weight_norm": nn.utils.parametrizations.weight_norm,
    "old spectral_norm": nn.utils.spectral_norm,
    "spectral_norm": nn.utils.parametrizations.spectral_norm,
}
NETWORKS: dict[type[nn.Module], tuple[tuple[int, ...], tuple[int, ...], int]] = {
    Vocoder: ((2, 20, 12), (3, 20, 17), 4953),
    Codec: ((2, 1, 48), (1, 1, 64), 5630),
    WaveNet: ((2, 4, 24), (3, 4, 31), 1744),
    Conformer: ((2, 9, 10), (1, 14, 10), 2742),
}
"""An input, one of another batch and length, and the parameters that are left where weights are not reparametrised."""


def without_norms(model: nn.Module) -> nn.Module:
    """The network as it is shipped: plain weights."""
    for layer in model.modules():
        if hasattr(layer, "weight_g"):
            nn.utils.remove_weight_norm(layer)
        elif hasattr(layer, "weight_orig"):
            nn.utils.remove_spectral_norm(layer)
        elif parametrize.is_parametrized(layer):
            parametrize.remove_parametrizations(layer, "weight")
    return model


def trains(model: nn.Module, x: Tensor) -> None:
    """Every parameter gets a gradient, and a step makes the error smaller."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    losses = []
    for _ in range(2):
        optimizer.zero_grad()
        losses.append(model(x).square().mean())
        losses[-1].backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
    assert losses[1] < losses[0]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", NETWORKS)
def test_speech_networks_are_halved_and_stay_of_their_class(kind: type[nn.Module], norm: str) -> None:
    torch.manual_seed(0)
    model = settle(kind(NORMS[norm]))
    shape, other, left = NETWORKS[kind]
    x, longer = torch.randn(shape), torch.randn(other)
    pruned = secateur.prune(model, x, ratio=0.5)
    small = pruned.model
    assert type(small) is kind
    assert not pruned.lost
    assert not pruned.unsupported
    assert pruned.verification.proven
    again = secateur.apply(model, pruned.plan, longer)  # proven at another length too
    assert torch.equal(again.model(longer), small(longer))
    wanted = small(x)
    trains(pruned.model.train(), x)
    shipped = without_norms(again.model.eval())
    assert sum(p.numel() for p in shipped.parameters()) == left
    assert torch.allclose(shipped(x), wanted, atol=1e-6)
    assert not [n for n, _ in shipped.named_parameters() if n.endswith(("_g", "_v", "_orig", "original0"))]
