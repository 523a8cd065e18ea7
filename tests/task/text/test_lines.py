"""Lines of a text as samples, hidden tokens, padding on either side."""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

import secateur
from secateur.core.errors import InputError
from secateur.data.texts import Parts
from secateur.task import TASKS, Request, try_task
from secateur.task.text import MaskedLanguageModelling, TextLines
from secateur.task.text.tokens import padded
from transformer_cases import CORPUS, masked, tokenizer

TEXT = Parts("corpus", ("\n\n".join(CORPUS[:3]),), (CORPUS[3],), ("\n".join(CORPUS[3:]),))
transformers_only = pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed")


def letters(text: str) -> list[int]:
    return [ord(c) % 26 + 3 for c in text]


@pytest.mark.parametrize("side", ["left", "right"])
def test_short_and_long_rows_are_filled_up_and_cut_on_their_side(side: str) -> None:
    found = padded([[5, 6, 7, 8], [9], []], 3, 1, side)
    if side == "right":
        assert found["input_ids"].tolist() == [[5, 6, 7], [9, 1, 1], [1, 1, 1]]
        assert found["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0], [1, 0, 0]]
    else:
        assert found["input_ids"].tolist() == [[5, 6, 7], [1, 1, 9], [1, 1, 1]]
        assert found["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1], [0, 0, 1]]


def test_lines_of_a_text_without_the_empty_ones() -> None:
    task = TextLines(TEXT, tokenizer=letters, length=8)
    assert [task.samples(split) for split in ("train", "validation", "test")] == [3, 1, 2]
    inputs: Any = task.sample(3)
    assert inputs["input_ids"].shape == (3, 8)
    assert not task.has_loss
    with pytest.raises(InputError, match="train part of none has no line"):
        TextLines(Parts("none", ("\n \n",), (), ("a",)), tokenizer=letters)
    with pytest.raises(InputError, match="has no mask token"):
        MaskedLanguageModelling(TEXT, tokenizer=letters)


@transformers_only
def test_hidden_tokens_are_the_same_every_time_and_none_of_the_special_ones(tmp_path: Path) -> None:
    reader = tokenizer("wordpiece")
    task = MaskedLanguageModelling(TEXT, tokenizer=reader, length=24)
    (inputs, target), (again, _) = (task.made("train", torch.arange(3)) for _ in range(2))
    assert torch.equal(inputs["input_ids"], again["input_ids"])
    plain = TextLines(TEXT, tokenizer=reader, length=24).made("train", torch.arange(3))[0]["input_ids"]
    hidden = target >= 0
    assert torch.equal(inputs["input_ids"] == reader.mask_token_id, hidden)
    assert torch.equal(target[hidden], plain[hidden])
    assert not torch.isin(plain[hidden], torch.tensor(reader.all_special_ids)).any()
    for row, ids in zip(hidden, plain, strict=True):
        count = int((~torch.isin(ids, torch.tensor(reader.all_special_ids))).sum())
        assert int(row.sum()) == math.ceil(0.15 * count)


@transformers_only
def test_a_masked_model_is_scored_by_its_own_loss(tmp_path: Path) -> None:
    network = masked(tmp_path)
    task = MaskedLanguageModelling(TEXT, tokenizer=tokenizer("wordpiece"), length=24)
    try_task(task, network, train=True)
    found = secateur.evaluate(network, task)
    inputs, target = task.made("test", torch.arange(2))
    with torch.no_grad():
        loss = float(network(**inputs, labels=target).loss)  # transformers' own
    assert found.metrics["perplexity"] == pytest.approx(math.exp(loss), rel=1e-4)


@transformers_only
def test_by_name_with_the_tokenizer_of_a_network(tmp_path: Path) -> None:
    masked(tmp_path / "net")
    file = tmp_path / "corpus.txt"
    file.write_text("\n".join(CORPUS * 4), encoding="utf-8")
    for name in ("text-lines", "masked-language-modelling", "language-modelling"):
        task = TASKS[name].open(Request(f"text:{file}"), tokenizer=f"hf:{tmp_path / 'net'}", length=16)
        assert min(task.samples("train") or 0, task.samples("test") or 0) > 0
