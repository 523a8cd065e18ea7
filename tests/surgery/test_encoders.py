"""Encoders of sentences: networks that hold a network of transformers, whose configuration is made true inside them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.models._torchvision import import_torchvision

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import_torchvision()
transformers = pytest.importorskip("transformers")

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] the a cat dog sat on mat ran in park and bird flew".split()  # noqa: SIM905
SENTENCES = ["the cat sat on the mat", "a dog ran in the park and a bird flew"]


def config() -> Any:
    return transformers.BertConfig(vocab_size=len(WORDS), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                                   num_attention_heads=4, max_position_embeddings=64)  # fmt: skip


def tokens() -> dict[str, Tensor]:
    ids = torch.randint(5, len(WORDS), (2, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, 6:] = 0
    return {"input_ids": ids, "attention_mask": mask}


class Mean(nn.Module):
    """A network of transformers, the mean of its words, a layer: as one writes it by hand."""

    def __init__(self, pooler: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.bert = transformers.BertModel(config(), add_pooling_layer=pooler)
        self.head = nn.Linear(32, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        words = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        counted = attention_mask[..., None].to(words.dtype)
        return self.head((words * counted).sum(1) / counted.sum(1))  # type: ignore[no-any-return]


def test_the_network_inside_is_saved_and_loaded_by_its_library(tmp_path: Path) -> None:
    net = Mean().eval()
    pruned = secateur.prune(net, tokens(), ratio=0.5)
    inner = pruned.model.bert
    assert not pruned.lost
    assert (inner.config.hidden_size, inner.config.intermediate_size) == (16, 32)
    assert net.bert.config.hidden_size == 32
    assert any(note.startswith("configuration: bert: hidden_size 32 → 16") for note in pruned.notes)
    inner.save_pretrained(tmp_path)
    again = transformers.BertModel.from_pretrained(tmp_path, add_pooling_layer=False).eval()
    assert torch.allclose(again(**tokens()).last_hidden_state, inner(**tokens()).last_hidden_state, atol=1e-6)


def test_a_part_that_nothing_uses_is_in_the_way_and_named() -> None:
    pruned = secateur.prune(Mean(pooler=True).eval(), tokens(), ratio=0.5)
    assert pruned.lost == ("configuration",)
    assert any("not used by forward, so kept whole: bert.pooler.dense.weight" in note for note in pruned.notes)


def test_a_network_that_lost_layers_by_hand_is_not_what_its_configuration_says() -> None:
    net = transformers.BertModel(config(), add_pooling_layer=False).eval()
    del net.encoder.layer[1]
    pruned = secateur.prune(net, tokens(), ratio=0.5, only="*intermediate*")
    assert pruned.lost == ("configuration",)
    assert any("does not describe the network as it was" in note for note in pruned.notes)


def encoder(folder: Path) -> Any:
    library = pytest.importorskip("sentence_transformers")
    torch.manual_seed(0)
    transformers.BertModel(config()).save_pretrained(folder)
    transformers.BertTokenizerFast(vocab={word: k for k, word in enumerate(WORDS)}).save_pretrained(folder)
    modules = pytest.importorskip("sentence_transformers.models")
    words = modules.Transformer(str(folder), max_seq_length=16)
    several = [words, modules.Pooling(32), modules.Normalize()]
    return library.SentenceTransformer(modules=several, device="cpu").eval()


def test_a_sentence_transformer_encodes_and_is_saved_by_its_library(tmp_path: Path) -> None:
    net = encoder(tmp_path / "dense")
    inputs = ({name: value for name, value in net.tokenize(SENTENCES).items() if isinstance(value, Tensor)},)
    pruned = secateur.prune(net, inputs, ratio=0.5, only="*intermediate*")
    assert type(pruned.model) is type(net)
    assert not pruned.lost
    found = pruned.model.encode(SENTENCES)
    assert found.shape == (2, 32)
    pruned.model.save(str(tmp_path / "small"))
    again = type(net)(str(tmp_path / "small"), device="cpu")
    assert next(m for m in again.modules() if hasattr(m, "config")).config.intermediate_size == 32
    assert abs(again.encode(SENTENCES) - found).max() < 1e-6
    other = secateur.prune(net, inputs, ratio=0.5)  # fewer heads beside words of the same width
    assert other.lost == ("configuration",)
    assert other.model.encode(SENTENCES).shape == (2, 32)
