"""Similarity of texts: the cosine of their embeddings, and how well it ranks pairs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from secateur.core.errors import InputError
from secateur.core.metric import Metric
from secateur.data.texts import Parts, load_pairs
from secateur.task.batch import shapes
from secateur.task.numbered import NumberedTask
from secateur.task.registry import TASKS, Request, TaskKind
from secateur.task.text.tokens import (
    Tokenizer,
    checked_length,
    named,
    numbers_of,
    pad_of,
    padded,
    side_of,
    tokenizer_from,
)

__all__ = ["SPEARMAN", "TextSimilarity", "spearman"]

SPEARMAN = Metric(better="higher", title="Spearman correlation", name="spearman")
_SPLITS = ("train", "validation", "test")


class TextSimilarity(NumberedTask):
    """How similar two texts are: the cosine of the embeddings that a network gives of them.

    The network is called once for a batch of pairs, with ``input_ids`` and ``attention_mask``, int64 (2 B, length):
    the first texts, then the second ones. An embedding is the mean of ``last_hidden_state`` (2 B, length, D) over
    a text's tokens, or what the network gives as (2 B, D). Source: Reimers and Gurevych 2019, Sentence-BERT,
    arXiv:1908.10084, §3 (mean pooling, the mean square between cosine and score).

    Args:
        data: Pairs with scores in 0…1, from :func:`secateur.data.texts.load_pairs`.
        tokenizer: Gives the numbers of a text's tokens; a function, a tokenizer of transformers, or the folder of one.
        length: Tokens of a text; longer ones are cut.
        pad: The token that fills up shorter ones; by default what the tokenizer says, or 0.
    """

    name = "text-similarity"
    unit = "pair"
    largest = 32
    metrics = (SPEARMAN,)

    def __init__(
        self,
        data: Parts[tuple[str, str, float]],
        *,
        tokenizer: str | Tokenizer,
        length: int = 128,
        pad: int | None = None,
    ) -> None:
        """Every text goes through the tokenizer once."""
        super().__init__()
        self.data, self.length = data, checked_length("TextSimilarity", length)
        tokenizer = tokenizer_from(tokenizer)
        self._pad, self._side = pad_of(tokenizer, pad), side_of(tokenizer)
        self._ids = {s: [[numbers_of(tokenizer, t) for t in row[:2]] for row in getattr(data, s)] for s in _SPLITS}
        self._scores = {s: torch.tensor([row[2] for row in getattr(data, s)], dtype=torch.float32) for s in _SPLITS}

    def loss(self, output: Any, target: dict[str, Tensor]) -> Tensor:
        """Mean square between the cosine of a pair and its score."""
        return F.mse_loss(self.cosine(output, target), target["score"])

    def cosine(self, output: Any, target: dict[str, Tensor]) -> Tensor:
        """float32, (B,): cos of the two texts' embeddings."""
        one, two = embeddings(output, target["attention_mask"]).chunk(2)
        return F.cosine_similarity(one, two)

    def meter(self) -> _Ranks:
        """Collects cosines and scores."""
        return _Ranks(self)

    def count(self, split: str) -> int:
        """Pairs of a split."""
        return len(self._ids[split])

    def made(
        self, split: str, index: Tensor, seeds: tuple[object, ...] | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Tokens of both texts one below the other; scores, with the mask that embeddings are pooled by."""
        chosen = [self._ids[split][i] for i in index.tolist()]
        inputs = padded([row[side] for side in range(2) for row in chosen], self.length, self._pad, self._side)
        return inputs, {"score": self._scores[split][index], "attention_mask": inputs["attention_mask"]}

    def settings(self) -> dict[str, Any]:
        """How many pairs of which length."""
        return {**super().settings(), "length": self.length}


def embeddings(output: Any, mask: Tensor) -> Tensor:
    """float32, (B, D): the mean of the last hidden state over a text's tokens, or vectors as they are.

    Raises:
        InputError: The network gives neither.
    """
    found = output if isinstance(output, Tensor) else getattr(output, "last_hidden_state", None)
    if found is None and isinstance(output, dict | tuple | list) and len(output):
        found = output["last_hidden_state"] if isinstance(output, dict) and "last_hidden_state" in output else None
        found = output[0] if isinstance(output, tuple | list) else found
    if not isinstance(found, Tensor) or found.ndim not in (2, 3) or len(found) != len(mask):
        raise InputError(
            f"Text similarity wants last_hidden_state (B, length, D) or embeddings (B, D); the network gives "
            f"{shapes(output)}."
        )
    if found.ndim == 2:
        return found.float()
    weights = mask[:, :, None].float()
    pooled: Tensor = (found.float() * weights).sum(1) / weights.sum(1)
    return pooled


def spearman(one: Tensor, other: Tensor) -> float:
    """Pearson's correlation of ranks, ties by the mean of theirs; 0 where one side is constant.

    Source: Spearman 1904, The Proof and Measurement of Association between Two Things.

    >>> spearman(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([10.0, 100.0, 1000.0]))
    1.0
    """
    ranks = torch.stack([_ranks(one), _ranks(other)])
    ranks = ranks - ranks.mean(1, keepdim=True)
    scale = float(ranks.square().sum(1).prod().sqrt())
    return float((ranks[0] * ranks[1]).sum()) / scale if scale else 0.0


def _ranks(values: Tensor) -> Tensor:
    _, place, count = torch.unique(values, return_inverse=True, return_counts=True)
    last: Tensor = count.cumsum(0).double()
    ranks: Tensor = (last - (count.double() - 1) / 2)[place]
    return ranks


class _Ranks:
    """Collects cosines and scores; ranks are no sums, so every process goes through the whole split."""

    sums: Tensor | None = None

    def __init__(self, task: TextSimilarity) -> None:
        self._task = task
        self._found: list[tuple[Tensor, Tensor]] = []

    def update(self, output: Any, target: dict[str, Tensor], size: int) -> None:
        """Adds a batch."""
        self._found.append((self._task.cosine(output, target).double().cpu(), target["score"].double().cpu()))

    def compute(self) -> dict[str, float]:
        """Spearman's correlation, and the mean square."""
        cosines, scores = (torch.cat(parts) for parts in zip(*self._found, strict=True))
        return {"spearman": spearman(cosines, scores), "loss": float((cosines - scores).square().mean())}


def _open(
    request: Request, *, tokenizer: str | Tokenizer | None = None, score: str = "score", **options: Any
) -> TextSimilarity:
    texts = (options.pop("text1", "text1"), options.pop("text2", "text2"))
    held: dict[str, Any] = {"validation": request.validation, "seed": request.seed, "limit": request.limit}
    named(request.name, tokenizer, "text-similarity")
    return TextSimilarity(
        load_pairs(request.name, texts=texts, score=score, **held), tokenizer=tokenizer or "", **options
    )


TASKS.add("text-similarity", TaskKind(_open, "how similar two texts are: Spearman correlation", "", "", texts=True))
