"""Classification of texts: cross-entropy, top-1 accuracy."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from secateur.core.errors import DataError, InputError
from secateur.core.metric import TOP1, Metric
from secateur.data.texts import Parts, load_texts
from secateur.models.transformer import is_transformer_name
from secateur.task.batch import shapes
from secateur.task.classification import Hits, logits_of, soft_cross_entropy
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

__all__ = ["TextClassification"]


class TextClassification(NumberedTask):
    """One class for every text.

    The network is called with ``input_ids`` and ``attention_mask``, int64 (B, length), and gives scores (B, classes),
    or something with ``logits``.

    Args:
        data: Pairs of text and label, from :func:`secateur.data.texts.load_texts`.
        tokenizer: Gives the numbers of a text's tokens; a function, a tokenizer of transformers, or the folder of one.
        length: Tokens of a sample; longer texts are cut.
        pad: The token that fills up shorter ones; by default what the tokenizer says, or 0.

    Raises:
        DataError: A test or validation label that no training text has.
    """

    name = "text-classification"
    unit = "text"
    largest = 64
    running: ClassVar[Metric | None] = TOP1

    def __init__(
        self, data: Parts[tuple[str, str]], *, tokenizer: str | Tokenizer, length: int = 128, pad: int | None = None
    ) -> None:
        """Every text goes through the tokenizer once."""
        super().__init__(metrics=(TOP1,))
        self.data, self.length = data, checked_length("TextClassification", length)
        tokenizer = tokenizer_from(tokenizer)
        self._pad, self._side = pad_of(tokenizer, pad), side_of(tokenizer)
        self.classes = tuple(sorted({label for _, label in data.train}))
        self._ids = {s: [numbers_of(tokenizer, text) for text, _ in getattr(data, s)] for s in _SPLITS}
        self._labels = {s: [self._label(label) for _, label in getattr(data, s)] for s in _SPLITS}

    def loss(self, output: Any, target: Tensor) -> Tensor:
        """Cross-entropy of scores (B, classes) and labels (B,)."""
        scores = logits_of(output).float()
        if scores.ndim != 2 or scores.shape[1] != len(self.classes):
            raise InputError(f"The network gives {shapes(scores)}; wanted scores (B, {len(self.classes)}).")
        return F.cross_entropy(scores, target)

    def predictions(self, output: Any) -> Tensor:
        """The scores of the classes, float32, (B, classes)."""
        return logits_of(output).float()

    def distillation(self, output: Any, wanted: Any, temperature: float) -> Tensor:
        """T²·KL(softmax(t/T) ‖ softmax(z/T)), of the scores z of the student and t of the teacher."""
        return soft_cross_entropy(logits_of(output), logits_of(wanted), temperature)

    def hits(self, output: Any, target: Tensor) -> Tensor:
        """100 times the texts whose label has the highest score."""
        hits: Tensor = 100 * (logits_of(output).argmax(1) == target).sum()
        return hits

    def meter(self) -> _Hits:
        """Sums of cross-entropy and hits."""
        return _Hits()

    def count(self, split: str) -> int:
        """Texts of a split."""
        return len(self._labels[split])

    def made(
        self, split: str, index: Tensor, seeds: tuple[object, ...] | None = None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Tokens and labels; nothing is drawn."""
        chosen = index.tolist()
        labels = torch.tensor([self._labels[split][i] for i in chosen])
        return padded([self._ids[split][i] for i in chosen], self.length, self._pad, self._side), labels

    def options(self, model: str) -> dict[str, Any]:
        """A network of transformers is opened with as many classes; others bring theirs."""
        return {"classes": len(self.classes)} if is_transformer_name(model) else {}

    def settings(self) -> dict[str, Any]:
        """How many texts of which length."""
        return {**super().settings(), "length": self.length, "classes": list(self.classes)}

    def _label(self, label: str) -> int:
        if label not in self.classes:
            raise DataError(f"{self.data.name}: no training text has the label {label[:80]!r}.")
        return self.classes.index(label)


_SPLITS = ("train", "validation", "test")


class _Hits(Hits):
    """Cross-entropy and top-1 alone."""

    def compute(self) -> dict[str, float]:
        """Top-1 in percent, and the mean cross-entropy."""
        return {name: value for name, value in super().compute().items() if name != "top5"}


def _open(
    request: Request,
    *,
    tokenizer: str | Tokenizer | None = None,
    text: str = "text",
    label: str = "label",
    **options: Any,
) -> TextClassification:  # fmt: skip
    named(request.name, tokenizer, "text-classification")
    held: dict[str, Any] = {"validation": request.validation, "seed": request.seed, "limit": request.limit}
    data = load_texts(request.name, text=text, label=label, **held)
    return TextClassification(data, tokenizer=tokenizer or "", **options)


TASKS.add("text-classification", TaskKind(_open, "one class for every text: top-1", "", "", texts=True))
