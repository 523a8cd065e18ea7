"""Language modelling: the next token of a text, cross-entropy, perplexity."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from secateur.core.errors import InputError
from secateur.core.metric import Metric
from secateur.data.texts import Parts, cut_text
from secateur.task.batch import shapes
from secateur.task.classification import logits_of, soft_cross_entropy
from secateur.task.numbered import NumberedTask
from secateur.task.registry import TASKS, Request, TaskKind
from secateur.task.text.tokens import Tokenizer, checked_length, file_of, named, numbers_of, tokenizer_from

__all__ = ["PERPLEXITY", "LanguageModelling", "PerplexityMeter", "TokenScores"]

PERPLEXITY = Metric(better="lower", title="Perplexity", name="perplexity", digits=2)
_SPLITS = ("train", "validation", "test")


class TokenScores:
    """What tasks share whose networks score every token, (B, length, vocabulary)."""

    length: int

    def distillation(self, output: Any, wanted: Any, temperature: float) -> Tensor:
        """T²·KL(softmax(t/T) ‖ softmax(z/T)), the mean over all places."""
        student, teacher = (logits_of(value).transpose(1, 2) for value in (output, wanted))
        return soft_cross_entropy(student, teacher, temperature)

    def predictions(self, output: Any) -> Tensor:
        """The scores, float32, (B, length, vocabulary)."""
        return logits_of(output).float()

    def scores(self, output: Any, target: Tensor) -> Tensor:
        """Float32 scores, once it is sure that they belong to the tokens ``target``, int64 (B, length)."""
        scores = logits_of(output).float()
        if scores.ndim != 3 or scores.shape[:2] != target.shape:
            raise InputError(
                f"The network gives {shapes(scores)}; wanted scores ({len(target)}, {self.length}, words)."
            )
        if int(target.max()) >= scores.shape[2]:
            raise InputError(
                f"The tokenizer gives the token {int(target.max())}, and the network scores {scores.shape[2]} tokens: "
                "they do not belong together."
            )
        return scores


class LanguageModelling(TokenScores, NumberedTask):
    """The next token at every place of a text that is cut into windows, one after the other.

    The network is called with ``input_ids`` and ``attention_mask`` (all 1), int64 (B, length), and gives scores
    (B, length, vocabulary), or something with ``logits``. Tokens at the end that fill no window are left out.

    Args:
        data: Texts, from :func:`secateur.data.texts.cut_text`; several of a part are put one after the other.
        tokenizer: Gives the numbers of a text's tokens; a function, a tokenizer of transformers, or the folder of one.
        length: Tokens of a window.

    Raises:
        InputError: A part to train on or to test with that is shorter than a window.
    """

    name = "language-modelling"
    unit = "window"
    largest = 16
    metrics = (PERPLEXITY,)

    def __init__(self, data: Parts[str], *, tokenizer: str | Tokenizer, length: int = 128) -> None:
        """The texts go through the tokenizer once."""
        super().__init__()
        self.data, self.length = data, checked_length("LanguageModelling", length)
        tokenizer = tokenizer_from(tokenizer)
        self._windows = {s: self._cut(tokenizer, getattr(data, s)) for s in _SPLITS}
        for split in ("train", "test"):
            if not self.count(split):
                have = sum(len(numbers_of(tokenizer, text)) for text in getattr(data, split) if text)
                raise InputError(
                    f"The {split} part of {data.name} has {have} tokens, fewer than one window of {length}: give a "
                    "longer text, or a shorter length."
                )

    def loss(self, output: Any, target: Tensor) -> Tensor:
        """Mean of −log softmax(zₜ)[xₜ₊₁] over all places but the last of a window.

        Args:
            output: Scores z, (B, length, vocabulary), or something with ``logits``.
            target: x, int64, (B, length).
        """
        scores = self.scores(output, target)
        return F.cross_entropy(scores[:, :-1].flatten(0, 1), target[:, 1:].flatten())

    def meter(self) -> PerplexityMeter:
        """Sums of cross-entropy and tokens."""
        return PerplexityMeter(self.loss, lambda target: target[:, 1:].numel())

    def count(self, split: str) -> int:
        """Windows of a split."""
        return len(self._windows[split])

    def made(
        self, split: str, index: Tensor, seeds: tuple[object, ...] | None = None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Windows, with themselves as target: the loss moves them by one."""
        ids = self._windows[split][index]
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, ids

    def settings(self) -> dict[str, Any]:
        """How many windows of which length."""
        return {**super().settings(), "length": self.length}

    def _cut(self, tokenizer: Tokenizer, texts: tuple[str, ...]) -> Tensor:
        ids = torch.tensor([n for text in texts if text for n in numbers_of(tokenizer, text)], dtype=torch.int64)
        count = len(ids) // self.length
        return ids[: count * self.length].view(count, self.length)


class PerplexityMeter:
    """Sums over predicted tokens: cross-entropy and how many; float64 on the CPU.

    Formula: perplexity = exp(mean cross-entropy). Source: Jelinek et al. 1977, J. Acoust. Soc. Am. 62, S63.
    """

    def __init__(self, loss: Callable[[Any, Tensor], Tensor], count: Callable[[Tensor], int]) -> None:
        """``loss`` is the mean over the tokens of a target, ``count`` says how many these are."""
        self._loss, self._count = loss, count
        self.sums: Tensor | None = torch.zeros(2, dtype=torch.float64)

    def update(self, output: Any, target: Tensor, size: int) -> None:
        """Adds a batch."""
        assert self.sums is not None
        count = self._count(target)
        self.sums += torch.tensor([float(self._loss(output, target)) * count, count], dtype=torch.float64)

    def compute(self) -> dict[str, float]:
        """Perplexity, and the mean cross-entropy."""
        assert self.sums is not None
        total, count = self.sums.tolist()
        loss = total / max(1.0, count)
        return {"perplexity": math.exp(min(loss, 700.0)), "loss": loss}


def _open(request: Request, *, tokenizer: str | Tokenizer | None = None, **options: Any) -> LanguageModelling:
    named(request.name, tokenizer, "language-modelling")
    parts = cut_text(file_of(request.name), validation=request.validation, limit=request.limit)
    return LanguageModelling(parts, tokenizer=tokenizer or "", **options)


TASKS.add("language-modelling", TaskKind(_open, "the next token of a text: perplexity", "", "", texts=True))
