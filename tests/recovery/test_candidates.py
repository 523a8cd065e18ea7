"""The candidate whose output is closest to the dense network's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.core.errors import InputError
from secateur.graph.calling import outputs_of
from transformer_cases import causal
from zoo import settle


def noisy(net: nn.Module, x: Tensor, *amounts: float) -> list[secateur.Pruned]:
    """Copies of a whole network with so much noise in its last layer's weights."""
    cut = secateur.prune(net, x[:2], ratio=0.0)
    made = []
    for amount in amounts:
        other = secateur.prune(net, x[:2], ratio=0.0).model
        with torch.no_grad():
            for p in list(other.parameters())[-2:]:
                p.add_(amount * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
        made.append(replace(cut, model=other))
    return made


def classes() -> nn.Module:
    torch.manual_seed(0)
    return settle(nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 4)))


class Boxes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.one, self.two = nn.Linear(6, 12), nn.Linear(12, 4), nn.Linear(12, 1)

    def forward(self, x: Tensor) -> dict[str, Any]:
        h = self.body(x).relu()
        return {"boxes": self.one(h), "scores": self.two(h), "sizes": [h.shape[0]]}


@pytest.mark.parametrize(("net", "what"), [(classes, "divergence of the scores"), (Boxes, "relative error")])
def test_the_closest_is_kept_with_a_note_on_all(net: Any, what: str) -> None:
    torch.manual_seed(0)
    model, x = net(), torch.randn(70, 6)
    made = noisy(model, x, 0.3, 0.01, 0.1)
    found = secateur.closest(made, x, dense=model, batch_size=32)
    assert found.model is made[1].model
    assert found.notes[-1].startswith(f"closest of 3 by the {what}")
    assert "on 70 samples" in found.notes[-1]
    assert "(this one)" in found.notes[-1].split(",")[1]


def test_scores_are_compared_by_their_divergence() -> None:
    model, x = classes(), torch.randn(50, 6)
    made = noisy(model, x, 0.2, 0.4)
    wanted = [
        float(nn.functional.kl_div(one.model(x).log_softmax(1), model(x).log_softmax(1), log_target=True,
                                   reduction="batchmean")) for one in made
    ]  # fmt: skip
    note = secateur.closest(made, x, dense=model, batch_size=7).notes[-1]
    assert all(f"{value:.3g}" in note for value in wanted)


def test_numbers_that_are_none_are_never_closest() -> None:
    model, x = classes(), torch.randn(20, 6)
    broken, good = noisy(model, x, float("nan"), 0.5)
    assert secateur.closest([broken, good], x, dense=model).model is good.model
    with pytest.raises(InputError, match="none is closest"):
        secateur.closest([broken], x, dense=model)


def test_no_candidate_is_refused() -> None:
    with pytest.raises(InputError, match="got none"):
        secateur.closest([], torch.randn(2, 6))


def test_the_variance_is_matched_where_that_is_closer() -> None:
    torch.manual_seed(0)
    net = settle(nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4)))
    x = torch.randn(300, 6)
    cut = secateur.prune(net, x[:2], ratio=0.6)
    parts = x.split(60)
    both = [secateur.recover(cut, parts, match_variance=wide) for wide in (False, True)]
    found = secateur.recover(cut, iter(parts), match_variance="auto")  # an iterator, too
    best = secateur.closest(both, parts).model
    for (name, one), other in zip(found.model.state_dict().items(), best.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5, msg=name)
    assert "closest of 2" in found.notes[-1]


def test_processes_cannot_decide_apart() -> None:
    net, x = classes(), torch.randn(20, 6)
    with pytest.raises(InputError, match="could decide differently"):
        secateur.recover(secateur.prune(net, x[:2], ratio=0.5), x, match_variance="auto", over_processes=True)


def test_caches_are_no_outputs(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    model, x = causal(tmp_path).eval(), torch.randint(1, 200, (6, 9))
    assert model.config.use_cache
    (logits,) = outputs_of(model, (), {"input_ids": x})
    torch.testing.assert_close(logits, model(input_ids=x).logits.detach())
