"""What is said of a language model whose loss rises, and by what it is cut where nobody says."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import secateur
from secateur.cut.language import loss_notes
from transformer_cases import causal, masked

pytestmark = pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed")


def tokens(count: int = 4) -> dict[str, torch.Tensor]:
    ids = torch.randint(5, 90, (count, 12), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def taught(folder: Path) -> Any:
    """A network that knows its few texts by heart."""
    network = causal(folder).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        network(**tokens(), labels=tokens()["input_ids"]).loss.backward()
        optimizer.step()
    return network.eval()


def test_a_loss_that_rises_beyond_reason_is_told_with_its_figures(tmp_path: Path) -> None:
    network = taught(tmp_path)
    far = secateur.prune(network, tokens(), ratio=0.9, data=tokens(), granularity="whole", only="*.mlp.*")
    (note,) = (n for n in far.notes if "loss on the calibration text" in n)
    with torch.no_grad():
        before, after = (float(n(**tokens(), labels=tokens()["input_ids"]).loss) for n in (network, far.model))
    assert f"rises from {before:.2f} to {after:.2f} nats" in note
    assert after > before + 1
    near = secateur.prune(network, tokens(), ratio=0.04, data=tokens(), only="*.mlp.*")
    assert not [n for n in near.notes if "loss on" in n]


def test_padding_on_either_side_does_not_count(tmp_path: Path) -> None:
    network, other = taught(tmp_path / "one"), causal(tmp_path / "two")
    plain = tokens()
    words = loss_notes(network, other, "wanda", plain)
    for side in ("left", "right"):
        fill = torch.zeros(4, 5, dtype=torch.long)
        parts = [(fill, v) if side == "left" else (v, fill) for v in plain.values()]
        padded = {name: torch.cat(part, 1) for name, part in zip(plain, parts, strict=True)}
        assert len(loss_notes(network, other, "wanda", padded)) == len(words) == 1


def test_weights_alone_are_warned_of(tmp_path: Path) -> None:
    found = secateur.prune(causal(tmp_path), tokens(), ratio=0.25, only="*.mlp.*")
    assert any("no calibration text was given" in note for note in found.notes)
    encoder = secateur.prune(masked(tmp_path / "b", "BertModel"), tokens(), ratio=0.25, only="*.intermediate.*")
    assert not any("calibration text" in note for note in encoder.notes)
    assert loss_notes(nn.Linear(2, 2), nn.Linear(2, 2), "l2", None) == ()


def test_data_that_can_be_gone_through_once_is_not_gone_through_twice(tmp_path: Path) -> None:
    network = taught(tmp_path)
    found = secateur.prune(network, tokens(), ratio=0.9, data=iter([tokens()]), only="*.mlp.*")
    assert not any("calibration text" in note for note in found.notes)
    assert found.plan.provenance["criterion"] == "wanda"
