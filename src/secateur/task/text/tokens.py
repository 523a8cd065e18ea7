"""Texts as numbers of tokens, by whatever tokenizer the user has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from secateur.core.errors import InputError, first_line
from secateur.models.factories import user_object
from secateur.models.transformer import is_transformer_name, load_tokenizer

__all__ = [
    "TEXT", "Tokenizer", "checked_length", "file_of", "named", "numbers_of", "pad_of", "padded", "side_of",
    "tokenizer_from",
]  # fmt: skip

TEXT = "text:"
"""What ``text:FILE`` begins with: a plain text file, for a network that brings its tokenizer."""

Tokenizer = Callable[..., Any]
"""Gives a text's numbers of tokens: a list of them, or (as those of transformers do) a dict with ``input_ids``."""


def tokenizer_from(name: str | Tokenizer) -> Tokenizer:
    """A tokenizer by name: a folder with the files of one of transformers, ``hf:NAME``, or ``package.module:factory``.

    Nothing is downloaded but for a repository by ``hf:OWNER/NAME``, and no code of its maker is run.

    Raises:
        InputError: There is no such folder, it holds no fast tokenizer, or transformers is not installed.
    """
    if not isinstance(name, str):
        return name
    if is_transformer_name(name):
        return load_tokenizer(name)  # type: ignore[no-any-return]
    if not Path(name).exists() and ":" in name:
        module, _, attribute = name.partition(":")
        found = user_object(module, attribute, {})
        if not callable(found):
            raise InputError(f"{name} gives {type(found).__name__}, wanted a tokenizer: a function of a text.")
        return found  # type: ignore[no-any-return]
    if not Path(name).is_dir():
        raise InputError(f"There is no folder {name!r} with a tokenizer; nothing is downloaded.")
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise InputError('A tokenizer from files needs transformers: pip install "secateur[text]".') from error
    try:
        made: Tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = first_line(error)
        raise InputError(f"The folder {name} holds no tokenizer that transformers can read: {reason}.") from error
    return made


def numbers_of(tokenizer: Tokenizer, text: str) -> list[int]:
    """The numbers of a text's tokens.

    Raises:
        InputError: The tokenizer gives something else.
    """
    # A whole file is longer than any text that a network takes: it is cut into windows, so no warning is due.
    quiet: dict[str, bool] = {"verbose": False} if hasattr(tokenizer, "backend_tokenizer") else {}
    found = tokenizer(text, **quiet)
    found = found["input_ids"] if isinstance(found, Mapping) else getattr(found, "ids", found)
    if isinstance(found, Tensor):
        found = found.flatten().tolist()
    if not isinstance(found, Sequence) or not all(isinstance(number, int) and number >= 0 for number in found):
        raise InputError(
            f"The tokenizer gives {type(found).__name__} for a text; wanted a list of token numbers, or a dict with "
            "input_ids."
        )
    return list(found)


def padded(rows: Sequence[Sequence[int]], length: int, pad: int, side: str = "right") -> dict[str, Tensor]:
    """Token numbers cut or filled up to one length.

    Args:
        rows: The numbers of each text.
        length: What all of them get.
        pad: The number that fills up.
        side: ``right`` or ``left``: where it goes.

    Returns:
        ``input_ids`` and ``attention_mask`` (1 for tokens, 0 for what was filled in), int64, (B, length).
    """
    ids = torch.full((len(rows), length), pad)
    mask = torch.zeros(len(rows), length, dtype=torch.int64)
    for number, row in enumerate(rows):
        kept = torch.tensor(row[:length], dtype=torch.int64)
        start = length - len(kept) if side == "left" else 0
        ids[number, start : start + len(kept)] = kept
        mask[number, min(start, length - 1) :][: max(1, len(kept))] = 1  # without any token attention divides by zero
    return {"input_ids": ids, "attention_mask": mask}


def pad_of(tokenizer: Tokenizer, given: int | None) -> int:
    """The token that fills up: as given, as the tokenizer says, or 0."""
    if given is not None:
        return given
    found = getattr(tokenizer, "pad_token_id", None)
    return found if isinstance(found, int) else 0


def side_of(tokenizer: Tokenizer) -> str:
    """Where the tokenizer fills up: ``left`` or ``right``."""
    return "left" if getattr(tokenizer, "padding_side", "right") == "left" else "right"


def file_of(name: str) -> str:
    """The file that ``text:FILE`` names; any other name as it is."""
    return name.removeprefix(TEXT)


def checked_length(task: str, length: int) -> int:
    """A number of tokens.

    Raises:
        InputError: It is below 2.
    """
    if length < 2:
        raise InputError(f"{task}(length=…) is a number of tokens, at least 2; got {length}.")
    return length


def named(data: str, tokenizer: str | Tokenizer | None, task: str) -> None:
    """Checks that a recipe says what no task on texts brings along.

    Raises:
        InputError: It names no file, or no tokenizer.
    """
    if not data:
        raise InputError(f"The task {task} comes without data: name a file, with data.name or --data.")
    if not tokenizer:
        raise InputError(
            f"The task {task} wants a tokenizer: task.tokenizer is the folder of one, or package.module:factory."
        )
