"""Text: classification, similarity of pairs, and language modelling, on any tokenizer of the user's."""

from __future__ import annotations

from secateur.task.text.classification import TextClassification
from secateur.task.text.language import LanguageModelling
from secateur.task.text.lines import MaskedLanguageModelling, TextLines
from secateur.task.text.similarity import TextSimilarity
from secateur.task.text.tokens import Tokenizer, tokenizer_from

__all__ = [
    "LanguageModelling",
    "MaskedLanguageModelling",
    "TextClassification",
    "TextLines",
    "TextSimilarity",
    "Tokenizer",
    "tokenizer_from",
]
