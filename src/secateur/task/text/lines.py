"""Lines of a text, each a sample: for networks that look at whole texts, and for hidden tokens."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from secateur.core.errors import InputError
from secateur.core.metric import Metric
from secateur.core.seeds import derive
from secateur.data.texts import Parts, cut_text
from secateur.task.numbered import NumberedTask
from secateur.task.registry import TASKS, Request, TaskKind
from secateur.task.text.language import PerplexityMeter, TokenScores
from secateur.task.text.tokens import (
    Tokenizer,
    checked_length,
    file_of,
    named,
    numbers_of,
    pad_of,
    padded,
    side_of,
    tokenizer_from,
)

__all__ = ["MaskedLanguageModelling", "TextLines"]

_SPLITS = ("train", "validation", "test")
HIDDEN = 0.15
"""Share of a text's tokens that are hidden."""
_IGNORED = -100


class TextLines(NumberedTask):
    """Lines of a text, without labels: what networks of sentences are repaired and chosen by.

    The network is called with ``input_ids`` and ``attention_mask`` (1 for tokens), int64 (B, length); shorter lines are
    filled up on the side that the tokenizer says. Empty lines are left out.

    Args:
        data: Texts, from :func:`secateur.data.texts.cut_text`.
        tokenizer: Gives the numbers of a text's tokens; a function, a tokenizer of transformers, or the folder of one.
        length: Tokens of a sample; longer lines are cut.
        pad: The token that fills up shorter ones; by default what the tokenizer says, or 0.

    Raises:
        InputError: A part to train on or to test with that has no line.
    """

    name = "text-lines"
    unit = "text"
    largest = 64

    def __init__(
        self, data: Parts[str], *, tokenizer: str | Tokenizer, length: int = 128, pad: int | None = None
    ) -> None:
        """Every line goes through the tokenizer once."""
        super().__init__()
        self.data, self.length = data, checked_length(type(self).__name__, length)
        self.tokenizer = tokenizer_from(tokenizer)
        self._pad, self._side = pad_of(self.tokenizer, pad), side_of(self.tokenizer)
        self._ids = {s: self._read(getattr(data, s)) for s in _SPLITS}
        for split in ("train", "test"):
            if not self._ids[split]:
                raise InputError(f"The {split} part of {data.name} has no line with a token: give a longer text.")

    def _read(self, texts: tuple[str, ...]) -> list[list[int]]:
        lines = [line.strip() for text in texts for line in text.splitlines()]
        return [ids for line in lines if line and (ids := numbers_of(self.tokenizer, line))]

    def count(self, split: str) -> int:
        """Lines of a split."""
        return len(self._ids[split])

    def made(self, split: str, index: Tensor, seeds: tuple[object, ...] | None = None) -> tuple[dict[str, Tensor], Any]:
        """Tokens; the target is the mask that says which are none."""
        rows = [self._ids[split][i] for i in index.tolist()]
        inputs = padded(rows, self.length, self._pad, self._side)
        return inputs, inputs["attention_mask"]

    def settings(self) -> dict[str, Any]:
        """How many lines of which length."""
        return {**super().settings(), "length": self.length}


class MaskedLanguageModelling(TokenScores, TextLines):
    """Tokens that are hidden in the lines of a text, from those around them.

    Of every line 15 % of the tokens, one at least and no special ones, become the tokenizer's mask; which, is drawn by
    the line's number, the same every time. The network gives scores (B, length, vocabulary). Source: Devlin et al.
    2019, BERT, arXiv:1810.04805, §3.1 (there a fifth of them is left or replaced by another token in training).

    Raises:
        InputError: As :class:`TextLines`, or a tokenizer without a mask.
    """

    name = "masked-language-modelling"
    metrics = (Metric(better="lower", title="Perplexity of hidden tokens", name="perplexity", digits=2),)

    def __init__(self, data: Parts[str], **options: Any) -> None:
        """Every line goes through the tokenizer once."""
        super().__init__(data, **options)
        mask = getattr(self.tokenizer, "mask_token_id", None)
        if not isinstance(mask, int):
            raise InputError(
                "The tokenizer has no mask token, so no token can be hidden: it belongs to no masked model."
            )
        self._mask, self._special = mask, {*getattr(self.tokenizer, "all_special_ids", ())}

    def made(self, split: str, index: Tensor, seeds: tuple[object, ...] | None = None) -> tuple[dict[str, Tensor], Any]:
        """Tokens with some of them hidden, and as target the hidden ones (−100 elsewhere)."""
        inputs, present = super().made(split, index)
        ids = inputs["input_ids"]
        plain = present.bool() & ~torch.isin(ids, torch.tensor(sorted(self._special), dtype=ids.dtype))
        chosen = torch.stack([self._hidden(row, split, i) for row, i in zip(plain, index.tolist(), strict=True)])
        target = ids.masked_fill(~chosen, _IGNORED)
        return {**inputs, "input_ids": ids.masked_fill(chosen, self._mask)}, target

    def _hidden(self, plain: Tensor, split: str, number: int) -> Tensor:
        places = torch.nonzero(plain).ravel()
        drawn = torch.randperm(len(places), generator=torch.Generator().manual_seed(derive(split, number, "hidden")))
        hidden = torch.zeros_like(plain)
        hidden[places[drawn[: math.ceil(HIDDEN * len(places))]]] = True
        return hidden

    def loss(self, output: Any, target: Tensor) -> Tensor:
        """Mean of −log softmax(z)[x] over the hidden tokens x, of scores z (B, length, vocabulary)."""
        scores = self.scores(output, target)
        count = int((target != _IGNORED).sum())
        return F.cross_entropy(scores.flatten(0, 1), target.flatten(), reduction="sum") / max(1, count)

    def meter(self) -> PerplexityMeter:
        """Sums of cross-entropy and hidden tokens."""
        return PerplexityMeter(self.loss, lambda target: int((target != _IGNORED).sum()))


def _lines(request: Request, *, tokenizer: str | Tokenizer | None = None, **options: Any) -> TextLines:
    named(request.name, tokenizer, "text-lines")
    parts = cut_text(file_of(request.name), validation=request.validation, limit=request.limit)
    return TextLines(parts, tokenizer=tokenizer or "", **options)


def _masked(request: Request, *, tokenizer: str | Tokenizer | None = None, **options: Any) -> MaskedLanguageModelling:
    named(request.name, tokenizer, "masked-language-modelling")
    parts = cut_text(file_of(request.name), validation=request.validation, limit=request.limit)
    return MaskedLanguageModelling(parts, tokenizer=tokenizer or "", **options)


TASKS.add("text-lines", TaskKind(_lines, "lines of a text without labels: nothing is scored", "", "", texts=True))
TASKS.add("masked-language-modelling", TaskKind(_masked, "tokens hidden in a text: perplexity", "", "", texts=True))
