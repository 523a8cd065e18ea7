"""Networks of the library transformers, ``hf:NAME``: from folders, GGUF files or the Hub, with their tokenizers."""

from __future__ import annotations

from secateur.models.transformer.kinds import is_language_model, kind_named, kind_of
from secateur.models.transformer.loading import empty_transformer, load_transformer
from secateur.models.transformer.saving import save_beside, save_configuration
from secateur.models.transformer.source import PREFIX, is_transformer_name
from secateur.models.transformer.tokenizer import check_tokenizer, load_tokenizer, positions_of

__all__ = [
    "PREFIX",
    "check_tokenizer",
    "empty_transformer",
    "is_language_model",
    "is_transformer_name",
    "kind_named",
    "kind_of",
    "load_tokenizer",
    "load_transformer",
    "positions_of",
    "save_beside",
    "save_configuration",
]
