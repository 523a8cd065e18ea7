"""The prior of a fit: the dense input foretold from the channels that stay, against NumPy; what it is good for."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import secateur
from secateur.criteria.least_squares.affine import Options
from secateur.criteria.least_squares.normal import RIDGES
from secateur.criteria.least_squares.sites import sites
from secateur.criteria.least_squares.sweep import sweep
from secateur.recovery import api
from secateur.recovery.hidden import Hidden, hidden_mask
from secateur.recovery.twin import twin

LAYERS: dict[str, Any] = {
    "linear": (nn.Linear(3, 12), nn.Linear(12, 5), (40, 3)),
    "convolution": (nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 5, 3), (20, 3, 6, 6)),
    "transposed": (nn.Conv2d(3, 12, 3, padding=1), nn.ConvTranspose2d(12, 5, 3, stride=2), (20, 3, 6, 6)),
    "no bias": (nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 5, 3, bias=False), (20, 3, 6, 6)),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_the_map_is_numpys(kind: str) -> None:
    torch.manual_seed(0)
    first, last, shape = LAYERS[kind]
    net, x = nn.Sequential(first, nn.Tanh(), last).double().eval(), torch.randn(shape).double()
    pruned = secateur.prune(net, x[:2], ratio=0.5)
    pair = twin(pruned, net)
    site = next(s for s in sites(pair.groups.flow) if s.name == "2")
    mask = hidden_mask(pair, site)
    assert mask is not None
    stop = Hidden(pair, site, Options(samples=len(x)), mask)
    sweep((pair.dense, pair.pruned), [(x,)], lambda _: [stop])
    hidden = net[:2](x).detach()
    rows = (hidden if hidden.ndim == 2 else hidden.movedim(1, -1).flatten(0, -2)).numpy()
    kept = np.concatenate([rows[:, mask], np.ones((len(rows), 1))], 1)
    assert stop.prior is not None
    weight = net[2].weight.detach().numpy()
    found = []
    for ridge in RIDGES:
        pull = np.diag([ridge * np.trace((kept.T @ kept)[:-1, :-1]) / mask.sum()] * mask.sum() + [0])
        solved = np.linalg.solve(kept.T @ kept + pull, kept.T @ rows).T  # (C, K + 1)
        wanted = np.einsum("co...,ck->ko..." if kind == "transposed" else "oc...,ck->ok...", weight, solved[:, :-1])
        how = stop._layout.matrix(torch.from_numpy(wanted))
        found.append(float((stop.prior.whole[:, :, :-1] - how).abs().max()))
    assert min(found) < 1e-9, found


def test_a_layer_that_loses_no_inputs_has_none() -> None:
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2)).eval()
    pair = twin(secateur.prune(net, torch.randn(2, 3), ratio=0.5, only="0*"), net)
    assert [hidden_mask(pair, s) is not None for s in sites(pair.groups.flow)] == [False, True, False]


def test_depthwise_layers_have_none() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Conv2d(8, 2, 1)).eval()
    pair = twin(secateur.prune(net, torch.randn(2, 3, 6, 6), ratio=0.5), net)
    assert [hidden_mask(pair, s) is not None for s in sites(pair.groups.flow)] == [False, False, True]


def test_few_samples_fall_back_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: Counter[bool] = Counter()
    for seed in range(6):
        torch.manual_seed(seed)
        mix = torch.randn(6, 40)  # hidden channels that are nearly combinations of a few
        net = nn.Sequential(nn.Conv2d(3, 40, 3, padding=1), nn.Tanh(), nn.Conv2d(40, 30, 3, padding=1)).eval()
        net[0].weight.data = (mix.T @ torch.randn(6, 27) / 6).reshape(40, 3, 3, 3) + 0.05 * torch.randn(40, 3, 3, 3)
        x, unseen = torch.randn(6, 3, 6, 6), torch.randn(64, 3, 6, 6)
        pruned = secateur.prune(net, x[:2], ratio=0.5)
        with torch.no_grad():
            errors = []
            for known in (api.hidden_mask, lambda *_: None):
                monkeypatch.setattr(api, "hidden_mask", known)
                errors.append(float((secateur.recover(pruned, x).model(unseen) - net(unseen)).square().mean()))
            monkeypatch.undo()
        counts[errors[0] < errors[1]] += 1
    assert counts[True] >= 5, counts
