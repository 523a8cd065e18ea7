"""Layers that go by the change of the output that they cause, against runs of the network without them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.core.errors import InputError
from transformer_cases import causal


class Block(nn.Module):
    def __init__(self, size: float) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6)
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return x + self.size * self.inner(x).tanh()


class Deep(nn.Module):
    """Weights alike, but for what is made of them: only the output shows which block does little."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(Block(size) for size in (1.0, 0.3, 0.7, 0.01))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def without(network: Deep, gone: set[int], x: Tensor) -> Tensor:
    for k, block in enumerate(network.blocks):
        x = x if k in gone else block(x)
    return network.head(x)


def test_the_order_is_that_of_a_greedy_search_by_hand() -> None:
    network, x = Deep().eval(), torch.randn(40, 6)
    want = network(x)
    gone: set[int] = set()
    for _ in range(2):
        changes = {k: float((without(network, gone | {k}, x) - want).square().sum()) for k in range(4) if k not in gone}
        gone.add(min(changes, key=lambda k: changes[k]))
    found = secateur.remove_layers(network, x[:2], count=2, data=x)
    assert found.plan.provenance["criterion"] == "output_change"
    assert {int(name.split(".")[1]) for name in found.plan.removed} == gone
    assert torch.allclose(found.model(x), without(network, gone, x), atol=1e-6)


def test_without_data_it_says_what_it_wants() -> None:
    with pytest.raises(InputError, match="looks at the network's output: give data="):
        secateur.remove_layers(Deep().eval(), torch.randn(2, 6), count=1, criterion="output_change")


@pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed")
def test_layers_of_a_language_model_go_and_its_configuration_follows(tmp_path: Path) -> None:
    network: Any = causal(tmp_path / "dense")
    with torch.no_grad():  # the first layer does next to nothing
        network.model.layers[0].mlp.down_proj.weight.mul_(1e-3)
        network.model.layers[0].self_attn.o_proj.weight.mul_(1e-3)
    ids = torch.randint(5, 90, (4, 12))
    tokens = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    shorter: Any = secateur.remove_layers(
        network, {n: t[:2] for n, t in tokens.items()}, count=1, whole=True, data=tokens
    )
    assert shorter.lost == ()
    assert shorter.model.config.num_hidden_layers == 1
    assert torch.equal(shorter.model.model.layers[0].mlp.up_proj.weight, network.model.layers[1].mlp.up_proj.weight)
    shorter.model.save_pretrained(tmp_path / "small")
    again = type(network).from_pretrained(tmp_path / "small")
    assert torch.equal(again(**tokens).logits, shorter.model(**tokens).logits)
