"""What a network of transformers is for: the next token, hidden tokens, classes, or embeddings."""

from __future__ import annotations

import sys
from typing import Any

from torch import nn

from secateur.models.transformer.source import config_of, opened, transformers

__all__ = ["KINDS", "is_language_model", "kind_named", "kind_of"]

KINDS = {
    "causal": "AutoModelForCausalLM",
    "masked": "AutoModelForMaskedLM",
    "classification": "AutoModelForSequenceClassification",
    "embedding": "AutoModel",
}
"""Kinds of networks, with the class of transformers that opens them."""

_NAMES = {"causal": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", "masked": "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
          "classification": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES"}  # fmt: skip


def kind_of(model: nn.Module) -> str | None:
    """One of :data:`KINDS`; ``None`` for a network that is none of transformers.

    >>> kind_of(nn.Linear(2, 2)) is None
    True
    """
    library = sys.modules.get("transformers")
    if library is None or not isinstance(model, library.PreTrainedModel):
        return None
    from transformers.models.auto import modeling_auto

    return _kind({one.__name__ for one in type(model).__mro__}, modeling_auto)


def kind_named(name: str) -> str:
    """One of :data:`KINDS`, of the network that ``hf:NAME`` opens; its weights are not read.

    Raises:
        InputError: As for opening it.
    """
    source = opened(name)
    config = config_of(source)
    transformers()
    from transformers.models.auto import modeling_auto

    return "causal" if source.gguf else _kind({*(config.get("architectures") or ())}, modeling_auto)


def _kind(names: set[str], modeling_auto: Any) -> str:
    for kind, table in _NAMES.items():
        known = [name for value in getattr(modeling_auto, table).values() for name in _several(value)]
        if names & {*known}:
            return kind
    return "embedding"


def _several(value: str | tuple[str, ...] | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def is_language_model(model: nn.Module) -> bool:
    """Whether a network of transformers gives scores of tokens.

    >>> is_language_model(nn.Linear(2, 2))
    False
    """
    return kind_of(model) in ("causal", "masked")
