"""A smaller network of transformers as ``from_pretrained`` opens it, with the tokenizer that it came with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from torch import nn

from secateur.core.errors import InputError
from secateur.models.transformer.kinds import kind_of
from secateur.models.transformer.source import opened

__all__ = ["save_transformer"]

_SENTENCES = ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json")
"""What sentence-transformers reads beside the network; none of it speaks of sizes that a cut changes."""


def save_transformer(model: nn.Module, folder: Path, *, tokenizer: Any = None, source: str | None = None) -> Path:
    """Writes configuration, weights (safetensors) and tokenizer.

    Args:
        model: A network of transformers whose configuration is true.
        folder: Made if it is not there.
        tokenizer: Written beside it; may be left out.
        source: The ``hf:NAME`` that it was made from: what sentence-transformers reads of such a folder comes along.

    Returns:
        The folder.

    Raises:
        InputError: A network that is none of transformers.
    """
    if kind_of(model) is None:
        raise InputError(f"{type(model).__name__} is no network of transformers, so from_pretrained could not open it.")
    network: Any = model
    network.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    if source is not None:
        _sentence_files(opened(source).place, folder)
    return folder


def _sentence_files(place: str, folder: Path) -> None:
    """Copies how the vector of a text is made of those of its tokens, where a folder says it."""
    for name in _SENTENCES:
        if (Path(place) / name).is_file():
            shutil.copyfile(Path(place) / name, folder / name)
    for config in Path(place).glob("*_*/config.json"):
        said = json.loads(config.read_text(encoding="utf-8"))
        if any(key.startswith("pooling_mode") for key in said):
            (folder / config.parent.name).mkdir(exist_ok=True)
            (folder / config.parent.name / "config.json").write_text(json.dumps(said, indent=2), encoding="utf-8")
