"""Tokenizers of networks by ``hf:NAME``, and whether they belong to a network."""

from __future__ import annotations

from typing import Any

from torch import nn

from secateur.core.errors import InputError
from secateur.models.transformer.source import config_of, opened, reading, transformers

__all__ = ["check_tokenizer", "load_tokenizer", "positions_of"]

_FAR = 1 << 20
"""A tokenizer that knows no longest text says so with a number beyond any text."""


def load_tokenizer(name: str, **options: Any) -> Any:
    """The tokenizer that lies beside the network ``hf:NAME``.

    Args:
        name: As for the network.
        **options: ``revision``, as transformers has it.

    Raises:
        InputError: There is none, or none that can be read without running code.
    """
    source = opened(name)
    config_of(source)
    with reading(source, "The tokenizer"):
        found = transformers().AutoTokenizer.from_pretrained(source.place, **source.arguments, **options)
    if getattr(found, "backend_tokenizer", None) is None:
        raise InputError(f"The tokenizer of {name} has no tokenizer.json (it is no fast one): save it as one first.")
    return found


def check_tokenizer(tokenizer: Any, model: nn.Module) -> None:
    """Checks that every token has a row of the network's embedding.

    Raises:
        InputError: The tokenizer has numbers beyond it.
    """
    asked = getattr(model, "get_input_embeddings", None)
    rows = getattr(asked() if asked is not None else None, "num_embeddings", None)
    vocabulary = tokenizer.get_vocab() if hasattr(tokenizer, "get_vocab") else {}
    if rows is None or not vocabulary:
        return
    token, highest = max(vocabulary.items(), key=lambda item: item[1])
    if highest >= rows:
        beyond = sum(number >= rows for number in vocabulary.values())
        raise InputError(
            f"The tokenizer does not fit the network: {beyond} of its {len(vocabulary)} tokens have numbers up to "
            f"{highest} ({token!r}), and the embedding has {rows} rows. Use the tokenizer that the network was trained "
            "with, or give the network rows for the new tokens (resize_token_embeddings) and train them."
        )


def positions_of(model: nn.Module, tokenizer: Any = None) -> int | None:
    """The longest text in tokens that a network takes, ``None`` where it does not say."""
    config: Any = getattr(model, "config", None)
    known = [getattr(config, name, None) for name in ("max_position_embeddings", "n_positions")]
    known.append(getattr(tokenizer, "model_max_length", None))
    found = [int(number) for number in known if isinstance(number, int) and 0 < number < _FAR]
    return min(found, default=None)
