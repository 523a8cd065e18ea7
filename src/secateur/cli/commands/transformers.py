"""Networks by ``hf:NAME`` on the command line: what they are called with, their tokenizer, their own files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur.cli.commands.show import error, say
from secateur.core.errors import InputError
from secateur.cut.pruned import Pruned
from secateur.models import create
from secateur.models.transformer import (
    PREFIX,
    check_tokenizer,
    empty_transformer,
    kind_of,
    load_tokenizer,
    positions_of,
    save_beside,
)
from secateur.task.text import TASK_OF_KIND

__all__ = ["LENGTH", "example_of", "opened_transformer", "save_for_transformers", "task_of"]

LENGTH = 128
"""Tokens of a sample where nobody says another number."""


def opened_transformer(
    name: str, shape: tuple[int, ...] | None, seed: int, *, on_disk: bool = False
) -> tuple[nn.Module, Any, Mapping[str, Tensor]]:
    """The network, its tokenizer (``None`` of one that takes no tokens) and two samples of random numbers.

    With ``on_disk`` the weights stay in their files: network and samples are on the meta device, and a folder without a
    tokenizer will do.

    Raises:
        SecateurError: What opening it raises, or a tokenizer that does not fit it.
    """
    model: Any = empty_transformer(name) if on_disk else create(name)
    if model.main_input_name != "input_ids":
        return model, None, {model.main_input_name: _images(model, name, shape, seed).to(model.device)}
    tokenizer = None
    if not on_disk or (Path(name.removeprefix(PREFIX)) / "tokenizer.json").is_file():
        tokenizer = load_tokenizer(name)
        check_tokenizer(tokenizer, model)
    samples = example_of(model, tokenizer, shape, seed)
    return model, tokenizer, {key: value.to(model.device) for key, value in samples.items()}


def example_of(model: nn.Module, tokenizer: Any, shape: tuple[int, ...] | None, seed: int) -> Mapping[str, Tensor]:
    """Two samples of random tokens: ``input_ids`` and ``attention_mask``, int64 (2, length).

    Raises:
        InputError: A shape that is no number of tokens, or more than the network takes.
    """
    if shape is not None and len(shape) != 1:
        raise InputError(
            f"--input-shape is the number of tokens of one text, like 128; got {','.join(map(str, shape))}."
        )
    most = positions_of(model, tokenizer)
    length = min(LENGTH, most or LENGTH) if shape is None else shape[0]
    if most is not None and length > most:
        raise InputError(f"--input-shape is {length} tokens, and the network takes {most} at most.")
    network: Any = model
    rows = network.get_input_embeddings().num_embeddings
    ids = torch.randint(rows, (2, length), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _images(model: Any, name: str, shape: tuple[int, ...] | None, seed: int) -> Tensor:
    config = model.config
    size = getattr(config, "image_size", None)
    if shape is None and isinstance(size, int):
        shape = (getattr(config, "num_channels", 3), size, size)
    if shape is None:
        raise InputError(f"--input-shape is needed for {name}: the shape of one sample of {model.main_input_name}.")
    drawn = torch.randn(2, *shape, generator=torch.Generator().manual_seed(seed))
    return drawn.to(model.dtype)


def task_of(model: nn.Module) -> str:
    """The kind of task that plain text is for such a network."""
    return TASK_OF_KIND[kind_of(model) or "embedding"]


def save_for_transformers(pruned: Pruned, folder: Path, tokenizer: Any, source: str) -> None:
    """Writes the tokenizer beside an artifact that ``from_pretrained`` opens, or says that it does not."""
    if "configuration" in pruned.lost or kind_of(pruned.model) is None:
        error(
            f"no configuration can say the widths that are left, so from_pretrained does not open {folder}: "
            "secateur.load does. For one that it opens take --ratio, or --scope uniform with a target.",
            label="Warning",
        )
        return
    save_beside(folder, tokenizer, source)
    say(f"transformers opens it too: {type(pruned.model).__name__}.from_pretrained({str(folder)!r})")
