"""Tasks on texts: tiny random networks of transformers, local tokenizers, nothing fetched."""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.core.errors import DataError, InputError
from secateur.data.texts import Parts
from secateur.models import import_torchvision
from secateur.task import TASKS, LanguageModelling, Request, TextClassification, TextSimilarity, try_task
from secateur.task.text import tokenizer_from
from secateur.task.text.similarity import embeddings, spearman
from secateur.task.text.tokens import numbers_of, padded
from secateur.train import TrainConfig, evaluate, fit

ONE = TrainConfig(epochs=1, batch_size=4, lr=1e-3)
transformers_only = pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed")


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def letters(text: str) -> list[int]:
    """Letters as 3 to 28, everything else as 2; 0 fills up."""
    return [ord(c) - 94 if "a" <= c <= "z" else 2 for c in text.lower()]


TEXTS = Parts(
    "animals",
    tuple((f"the {'cat' if i % 2 else 'dog'} number {i}", "cat" if i % 2 else "dog") for i in range(8)),
    (("a cat", "cat"), ("a dog", "dog")),
    (("one cat", "cat"), ("one dog", "dog"), ("two dogs", "dog")),
)
PAIRS = Parts(
    "pairs",
    tuple((f"the cat {i}", f"the {'cat' if i % 2 else 'dogs'} {i}", float(i % 2)) for i in range(8)),
    (("a", "a", 1.0), ("a", "b", 0.0)),
    (("a cat", "a cat", 1.0), ("a cat", "dogs", 0.0), ("a dog", "a dot", 0.8)),
)
STORY = Parts("story", ("the cat sat on the mat and the dog sat on the log " * 8,), ("the cat sat on " * 4,),
              ("the dog sat on the mat " * 5,))  # fmt: skip


def bert(head: str) -> nn.Module:
    import_torchvision()  # transformers imports it, and would fail the way it does
    import transformers

    config = transformers.BertConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32,
        max_position_embeddings=32, num_labels=2,
    )  # fmt: skip
    return getattr(transformers, head)(config)  # type: ignore[no-any-return]


def gpt() -> nn.Module:
    import_torchvision()  # transformers imports it, and would fail the way it does
    import transformers

    config = transformers.GPT2Config(
        vocab_size=32, n_embd=16, n_layer=2, n_head=4, n_positions=32, use_cache=False, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config)


@transformers_only
@pytest.mark.parametrize("kind", ["classification", "similarity", "language"])
def test_networks_of_transformers_train_prune_and_are_scored(kind: str) -> None:
    task: Any
    if kind == "classification":
        task, network = TextClassification(TEXTS, tokenizer=letters, length=12), bert("BertForSequenceClassification")
    elif kind == "similarity":
        task, network = TextSimilarity(PAIRS, tokenizer=letters, length=12), bert("BertModel")
    else:
        task, network = LanguageModelling(STORY, tokenizer=letters, length=16), gpt()
    try_task(task, network)
    history = fit(network, task, ONE, progress=False)
    assert math.isfinite(history.epochs[0].validation[task.leading.name])
    small = secateur.prune(network, task.sample(2), ratio=0.5)
    assert small.after.params < 0.8 * small.before.params
    assert small.verification is not None
    assert small.verification.max_relative_error < 1e-6
    assert small.verification.proven
    assert task.leading.name in evaluate(small, task).metrics
    fit(small.model, task, ONE, name="after", progress=False)


def test_perplexity_by_hand() -> None:
    task = LanguageModelling(STORY, tokenizer=letters, length=16)
    z, x = torch.randn(3, 16, 32), torch.randint(0, 32, (3, 16))
    log = z.double().log_softmax(2)
    losses = [-float(log[b, t, x[b, t + 1]]) for b in range(3) for t in range(15)]
    assert float(task.loss(z, x)) == pytest.approx(np.mean(losses), rel=1e-5)
    meter = task.meter()
    meter.update(z[:2], x[:2], 2)
    meter.update({"logits": z[2:]}, x[2:], 1)
    assert meter.compute()["perplexity"] == pytest.approx(math.exp(np.mean(losses)), rel=1e-5)


def test_windows_are_the_text() -> None:
    task = LanguageModelling(STORY, tokenizer=letters, length=16)
    whole = letters(STORY.train[0])
    inputs, target = task.made("train", torch.arange(task.count("train")))
    assert inputs["input_ids"].flatten().tolist() == whole[: len(whole) // 16 * 16]
    assert torch.equal(inputs["input_ids"], target)


def test_embeddings_leave_padding_out() -> None:
    hidden, mask = torch.randn(2, 5, 3), torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1]])
    found = embeddings((hidden,), mask)
    torch.testing.assert_close(found, torch.stack([hidden[0, :2].mean(0), hidden[1].mean(0)]))
    assert torch.equal(embeddings(hidden[:, 0], mask), hidden[:, 0])
    with pytest.raises(InputError, match="last_hidden_state"):
        embeddings({"logits": hidden}, mask)


def test_rank_correlation_against_scipy() -> None:
    from scipy.stats import spearmanr

    one, two = torch.randint(0, 6, (40,)).double(), torch.randn(40).double()
    assert spearman(one, two) == pytest.approx(spearmanr(one, two).statistic)
    assert spearman(one, torch.ones(40)) == 0


class Copies(nn.Module):
    """Embeds a text by how often each token is in it."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return (nn.functional.one_hot(input_ids, 32) * attention_mask[:, :, None]).sum(1).float()


def test_pairs_are_compared_with_each_other() -> None:
    task = TextSimilarity(PAIRS, tokenizer=letters, length=8)
    inputs, target = task.made("test", torch.arange(3))
    cosines = task.cosine(Copies()(**inputs), target)
    assert cosines[0] == pytest.approx(1)
    assert cosines[1] < cosines[2] < cosines[0]
    assert evaluate(Copies(), task).metrics["spearman"] == pytest.approx(1)


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no training text has the label 'cow'"):
        TextClassification(Parts("a", TEXTS.train, (), (("moo", "cow"),)), tokenizer=letters)
    with pytest.raises(InputError, match="400 tokens, fewer than one window of 500"):
        LanguageModelling(STORY, tokenizer=letters, length=500)
    with pytest.raises(InputError, match="at least 2"):
        TextSimilarity(PAIRS, tokenizer=letters, length=1)
    with pytest.raises(InputError, match="wanted a list of token numbers"):
        numbers_of(str.split, "two words")
    with pytest.raises(InputError, match="no folder"):
        tokenizer_from("nowhere")
    with pytest.raises(InputError, match="they do not belong together"):
        LanguageModelling(STORY, tokenizer=letters, length=16).loss(torch.zeros(1, 16, 5), torch.full((1, 16), 9))
    with pytest.raises(InputError, match=r"wanted scores \(B, 2\)"):
        TextClassification(TEXTS, tokenizer=letters).loss(torch.zeros(1, 5), torch.zeros(1).long())
    for name in ("text-classification", "text-similarity", "language-modelling"):
        with pytest.raises(InputError, match="comes without data"):
            TASKS[name].open(Request(""))
        with pytest.raises(InputError, match="wants a tokenizer"):
            TASKS[name].open(Request("some.csv"))


@transformers_only
def test_a_tokenizer_from_local_files(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"[PAD]": 0, "[UNK]": 1, "the": 2, "cat": 3, "dog": 4}
    made = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(tmp_path)
    found = tokenizer_from(str(tmp_path))
    assert numbers_of(found, "the dog barks") == [2, 4, 1]
    assert numbers_of(made.encode, "the cat") == [2, 3]
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="holds no tokenizer"):
        tokenizer_from(str(empty))


def test_padding() -> None:
    found = padded([[5, 6, 7, 8], [9], []], 3, 1)
    assert found["input_ids"].tolist() == [[5, 6, 7], [9, 1, 1], [1, 1, 1]]
    assert found["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0], [1, 0, 0]]
