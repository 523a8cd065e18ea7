"""wanda and flap against sums by hand: what a unit adds to the layers that use it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.criteria.scoring import score
from secateur.graph.flow import flow
from secateur.graph.groups import solve
from secateur.graph.trace import trace
from transformer_cases import causal


def scores(network: nn.Module, inputs: Any, criterion: str, data: Any) -> dict[str, Tensor]:
    groups = solve(flow(trace(network, inputs)))
    found = score(groups, criterion, data=data)
    return {groups.items[n].name: torch.from_numpy(values) for n, values in found.values.items()}


def test_linear_layers_and_convolutions_by_hand() -> None:
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 3, stride=2), nn.ReLU(), nn.Flatten()]
    network = nn.Sequential(*convolutions, nn.Linear(16, 3)).eval()
    x = torch.randn(10, 2, 8, 8)
    with torch.no_grad():
        first = network[:2](x).double()
        second = network[:5](x).double()
    weights = [network[k].weight.detach().double() for k in (2, 5)]
    for criterion in ("wanda", "flap"):
        size = (lambda v, dims: v.square().mean(dims)) if criterion == "wanda" else (
            lambda v, dims: v.var(dims, unbiased=False))  # fmt: skip
        found = scores(network, x[:2], criterion, x.split(4))
        one, two = found.values()
        assert torch.allclose(one, size(first, (0, 2, 3)) * weights[0].square().sum((0, 2, 3)), rtol=1e-5)
        each = size(second, (0,)) * weights[1].square().sum(0)
        assert torch.allclose(two, each.view(4, 4).sum(1), rtol=1e-5)


def test_flap_leaves_out_what_never_changes() -> None:
    """A unit that is large and constant: gone, a bias makes it good; without one it is what hurts most."""
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    with torch.no_grad():
        network[0].weight[1].zero_()
        network[0].bias[1] = 50.0
    x = torch.randn(64, 3)
    (wanda,), (flap,) = (scores(network, x[:2], c, x).values() for c in ("wanda", "flap"))
    assert int(wanda.argmax()) == 1
    assert float(flap[1]) < 1e-6 * float(wanda[1])


@pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed")
def test_units_of_a_transformer_by_hand(tmp_path: Path) -> None:
    network: Any = causal(tmp_path)
    ids = torch.randint(5, 90, (6, 12))
    tokens = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    seen: dict[str, Tensor] = {}
    layer = network.model.layers[0]
    hook = layer.mlp.down_proj.register_forward_pre_hook(lambda m, args: seen.update(down=args[0].detach().double()))
    with torch.no_grad():
        network(**tokens)
    hook.remove()
    found = scores(network, tokens, "wanda", tokens)
    wanted = seen["down"].square().mean((0, 1)) * layer.mlp.down_proj.weight.double().square().sum(0)
    (mlp,) = (v for n, v in found.items() if n.startswith("model.layers.0.mlp"))
    assert torch.allclose(mlp, wanted.detach(), rtol=1e-4)
    assert all(v.isfinite().all() and (v >= 0).all() for v in found.values())
    assert any("q_proj" in n or "k_proj" in n for n in found)


@pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed")
def test_language_models_take_it_where_there_are_data(tmp_path: Path) -> None:
    ids = torch.randint(5, 90, (8, 12))
    tokens = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    how: dict[str, Any] = {"ratio": 0.5, "only": "model.layers.0.mlp"}
    network = causal(tmp_path)
    assert secateur.prune(network, tokens, data=tokens, **how).plan.provenance["criterion"] == "wanda"
    assert secateur.prune(network, tokens, **how).plan.provenance["criterion"] == "l2"
    plain = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    x = torch.randn(8, 4)
    assert secateur.prune(plain, x, ratio=0.5, data=x).plan.provenance["criterion"] == "l2"
