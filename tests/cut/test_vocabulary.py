"""Vocabularies cut to a corpus: the same tokens for its texts, the same scores, opened by transformers alone."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import secateur
from secateur.core.errors import InputError
from secateur.models.transformer.tokenizer_json import cut_tokens, tokens_of, what_stays
from transformer_cases import CORPUS, causal, masked, tokenizer

pytestmark = pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed")


def opened(folder: Path, kind: str) -> tuple[Any, Any]:
    import transformers

    return getattr(transformers, kind).from_pretrained(folder), transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "apart"])
@pytest.mark.parametrize("kind", ["bytes", "wordpiece", "unigram", "words"])
def test_texts_keep_their_tokens_and_scores(kind: str, tied: bool, tmp_path: Path) -> None:
    network = causal(tmp_path / "dense", kind, tied=tied)
    dense, reader = opened(tmp_path / "dense", "LlamaForCausalLM")
    found = secateur.cut_vocabulary(network, reader, CORPUS[:2])
    assert found.after < found.before
    found.save_pretrained(tmp_path / "small")
    small, fewer = opened(tmp_path / "small", "LlamaForCausalLM")
    assert small.config.vocab_size == len(fewer) == found.after == small.model.embed_tokens.num_embeddings
    assert (small.lm_head.weight is small.model.embed_tokens.weight) == tied
    kept = torch.tensor(found.kept)
    for text in CORPUS[:2]:
        old, new = reader(text, return_tensors="pt"), fewer(text, return_tensors="pt")
        assert reader.convert_ids_to_tokens(old["input_ids"][0]) == fewer.convert_ids_to_tokens(new["input_ids"][0])
        assert torch.equal(kept[new["input_ids"]], old["input_ids"])
        assert torch.allclose(small(**new).logits, dense(**old).logits[..., kept], atol=1e-6)
    assert fewer.decode(fewer(CORPUS[0])["input_ids"], skip_special_tokens=True) == reader.decode(
        reader(CORPUS[0])["input_ids"], skip_special_tokens=True)  # fmt: skip
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        assert getattr(small.config, name) == getattr(fewer, name)
    written = small.generate(**fewer(CORPUS[0], return_tensors="pt"), max_new_tokens=3, do_sample=False)
    assert written.max() < found.after


@pytest.mark.parametrize("head", ["BertForMaskedLM", "BertModel", "BertForSequenceClassification"])
def test_encoders_lose_rows_and_their_bias(head: str, tmp_path: Path) -> None:
    network = masked(tmp_path / "dense", head)
    reader = tokenizer("wordpiece")
    found = secateur.cut_vocabulary(network, reader, CORPUS[:1])
    found.save_pretrained(tmp_path / "small")
    small, fewer = opened(tmp_path / "small", head)
    assert small.config.vocab_size == found.after < found.before
    old, new = reader(CORPUS[0], return_tensors="pt"), fewer(CORPUS[0], return_tensors="pt")
    want, got = network(**old)[0], small(**new)[0]
    want = want[..., list(found.kept)] if head == "BertForMaskedLM" else want
    assert torch.allclose(got, want, atol=1e-6)


def test_every_text_can_still_be_written(tmp_path: Path) -> None:
    found = secateur.cut_vocabulary(causal(tmp_path), tokenizer("bytes"), CORPUS[:1])
    for text in ("Żółć, 漢字 & emoji 🙂", "pruning keeps what matters", "the the"):
        ids = found.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert found.tokenizer.decode(ids) == text
        assert max(ids) < found.after


def test_what_tokens_are_merged_from_stays() -> None:
    """A word of the corpus whose merges go through tokens that the corpus never shows."""
    model = {"type": "BPE", "vocab": {t: k for k, t in enumerate(["a", "b", "c", "ab", "abc", "ca", "xx"])},
             "merges": ["a b", ["ab", "c"], "c a"]}  # fmt: skip
    file: dict[str, Any] = {"model": model, "added_tokens": [{"id": 7, "content": "<s>"}]}
    assert tokens_of(file)["<s>"] == 7
    stays = what_stays(file, {4})
    assert stays == {0, 1, 2, 3, 4, 7}  # abc is made of ab, which no text shows; ca and xx go
    made, numbers = cut_tokens(file, stays)
    assert made["model"]["vocab"] == {"a": 0, "b": 1, "c": 2, "ab": 3, "abc": 4}
    assert made["model"]["merges"] == ["a b", ["ab", "c"]]
    assert made["added_tokens"] == [{"id": numbers[7], "content": "<s>"}] == [{"id": 5, "content": "<s>"}]


def test_rows_without_a_token_go_and_the_dense_network_stays(tmp_path: Path) -> None:
    network, reader = causal(tmp_path, rows=400), tokenizer("bytes")
    before = network.model.embed_tokens.weight.clone()
    found = secateur.cut_vocabulary(network, reader, CORPUS)
    assert found.before == 400 > found.after
    assert torch.equal(network.model.embed_tokens.weight, before)
    assert len(reader) == len(tokenizer("bytes"))
    small = secateur.prune(found.model, {"input_ids": torch.arange(8)[None]}, ratio=0.5, only="*.mlp.*")
    assert small.lost == ()
    assert small.model.config.vocab_size == found.after


def test_what_does_not_fit_is_said(tmp_path: Path) -> None:
    network, reader = causal(tmp_path), tokenizer("bytes")
    for arguments, words in (
        ((network, reader, []), "There is no text"),
        ((network, reader, "one text"), r"Give \[text\]"),
        ((nn.Linear(2, 2), reader, CORPUS), "networks of transformers; got Linear"),
        ((network, str.split, CORPUS), "fast one of transformers"),
    ):
        with pytest.raises(InputError, match=words):
            secateur.cut_vocabulary(*arguments)
    reader.add_tokens(["brandnewtoken"])
    with pytest.raises(InputError, match=r"1 of its .* tokens have numbers up to .*'brandnewtoken'"):
        secateur.cut_vocabulary(network, reader, CORPUS)
