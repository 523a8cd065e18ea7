"""A smaller network of transformers as ``from_pretrained`` opens it, with the tokenizer that it came with."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

from torch import nn

from secateur.models.transformer.kinds import kind_of
from secateur.models.transformer.source import opened

__all__ = ["CONFIGURATION", "save_beside", "save_configuration"]

_SENTENCES = ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json")
"""What sentence-transformers reads beside the network; none of it speaks of sizes that a cut changes."""


CONFIGURATION = ("config.json", "generation_config.json")
"""What is written of a network beside its weights."""


def save_configuration(model: nn.Module, folder: Path) -> bool:
    """Writes what ``from_pretrained`` wants beside ``model.safetensors``; returns whether there is such a thing.

    Args:
        model: Any network; one of transformers, with a configuration that is true, has one.
        folder: Where its weights lie.
    """
    if kind_of(model) is None:
        return False
    network: Any = model
    config = copy.deepcopy(network.config)
    config.architectures = [type(model).__name__]
    config.dtype = network.dtype
    config.save_pretrained(folder)
    generation = getattr(network, "generation_config", None)
    if generation is not None and network.can_generate():
        generation.save_pretrained(folder)
    return True


def save_beside(folder: Path, tokenizer: Any = None, source: str | None = None) -> None:
    """Writes the tokenizer, and what sentence-transformers reads beside a network.

    Args:
        folder: That of the network.
        tokenizer: As transformers opened it; may be left out.
        source: The ``hf:NAME`` that the network was made from.
    """
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    if source is not None:
        _sentence_files(opened(source).place, folder)


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
