"""Text: classification, similarity of pairs, and language modelling, on any tokenizer of the user's."""

from __future__ import annotations

from secateur.task.text.classification import TextClassification
from secateur.task.text.language import LanguageModelling
from secateur.task.text.lines import MaskedLanguageModelling, TextLines
from secateur.task.text.similarity import TextSimilarity
from secateur.task.text.tokens import TEXT, Tokenizer, tokenizer_from

TASK_OF_KIND = {
    "causal": "language-modelling",
    "masked": "masked-language-modelling",
    "classification": "text-lines",
    "embedding": "text-lines",
}
"""The task that plain text is for, by the kind of network (:data:`secateur.models.transformer.kinds.KINDS`)."""

__all__ = [
    "TASK_OF_KIND",
    "TEXT",
    "LanguageModelling",
    "MaskedLanguageModelling",
    "TextClassification",
    "TextLines",
    "TextSimilarity",
    "Tokenizer",
    "tokenizer_from",
]
