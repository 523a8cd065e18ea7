"""Texts: CSV files with a label or a score for each text or pair, and plain text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch

from secateur.core import arguments
from secateur.core.errors import DataError, InputError
from secateur.core.reading import read_text
from secateur.data.numbers import column_of, read_fields

__all__ = ["Parts", "cut_text", "held_out", "load_pairs", "load_texts"]

_LARGEST = 2**30

T = TypeVar("T")


@dataclass(frozen=True)
class Parts(Generic[T]):
    """Samples in three parts.

    Attributes:
        name: Of the data set.
        train: To train on.
        validation: Held out of them; may be empty.
        test: What no decision is based on.
        source: Where they came from.
    """

    name: str
    train: tuple[T, ...]
    validation: tuple[T, ...]
    test: tuple[T, ...]
    source: str = ""


def held_out(
    rows: Sequence[T], name: str, *, validation: float = 0.1, seed: int = 0, limit: int | None = None, source: str = ""
) -> Parts[T]:
    """A fixed fifth to test with, and a share of the rest held out by ``seed``.

    Raises:
        InputError: A share or limit that is none.
        DataError: Too few rows.

    >>> parts = held_out(range(10), "numbers", validation=0.25)
    >>> len(parts.train), len(parts.validation), len(parts.test)
    (6, 2, 2)
    """
    if not 0 <= validation < 1 or (limit is not None and limit < 1):
        raise InputError(f"validation is a share in [0, 1) and limit at least 1; got {validation} and {limit}.")
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).tolist()
    count = round(0.2 * len(rows))
    test, rest = sorted(order[:count][:limit]), sorted(order[count:][:limit])
    drawn = torch.randperm(len(rest), generator=torch.Generator().manual_seed(seed)).tolist()
    held = {rest[i] for i in drawn[: round(validation * len(rest))]}
    train = [i for i in rest if i not in held]
    if not train or not test:
        raise DataError(f"{name} has {len(rows)} rows; at least 3 are needed to train and to test with.")
    parts = (tuple(rows[i] for i in chosen) for chosen in (train, sorted(held), test))
    one, two, three = parts
    return Parts(name, one, two, three, source)


@arguments.checked
def load_texts(
    path: str | Path,
    *,
    text: str = "text",
    label: str = "label",
    validation: float = 0.1,
    seed: int = 0,
    limit: int | None = None,
) -> Parts[tuple[str, str]]:
    """Loads a CSV file with a column of texts and one of labels (any words).

    Args:
        path: The file, with a header.
        text: The column of texts.
        label: The column of labels.
        validation: Share of the training texts that is held out.
        seed: Of that choice.
        limit: Use at most this many training and test texts.

    Raises:
        DataError: The file is missing or empty, or a text or label is; the message names the line.
        UnknownNameError: A column that there is not, with the nearest.
    """
    names, rows = read_fields(path)
    where = [column_of(names, name, path) for name in (text, label)]
    pairs = [(row[where[0]], row[where[1]].strip()) for _, row in rows]
    for (line, _), pair in zip(rows, pairs, strict=True):
        for name, value in zip((text, label), pair, strict=True):
            if not value.strip():
                raise DataError(f"{path}, line {line}, column {name}: it is empty.")
    return held_out(pairs, Path(path).stem, validation=validation, seed=seed, limit=limit, source=str(path))


@arguments.checked
def load_pairs(
    path: str | Path,
    *,
    texts: tuple[str, str] = ("text1", "text2"),
    score: str = "score",
    validation: float = 0.1,
    seed: int = 0,
    limit: int | None = None,
) -> Parts[tuple[str, str, float]]:
    """Loads a CSV file with two columns of texts and one that says how similar they are, the more the higher.

    Scores are brought to 0…1: the least becomes 0 and the highest 1.

    Args:
        path: The file, with a header.
        texts: The two columns of texts.
        score: The column of scores.
        validation: Share of the training pairs that is held out.
        seed: Of that choice.
        limit: Use at most this many training and test pairs.

    Raises:
        DataError: The file is missing or empty, a score is no number, or all are the same; the message names the line.
        UnknownNameError: A column that there is not, with the nearest.
    """
    names, rows = read_fields(path)
    one, two, number = (column_of(names, name, path) for name in (*texts, score))
    scores = [_score(row[number], f"{path}, line {line}, column {score}") for line, row in rows]
    low, high = min(scores, default=0.0), max(scores, default=0.0)
    if high <= low:
        raise DataError(f"{path}: all scores are the same; there is nothing to learn or to rank by.")
    pairs = [(row[one], row[two], (s - low) / (high - low)) for (_, row), s in zip(rows, scores, strict=True)]
    return held_out(pairs, Path(path).stem, validation=validation, seed=seed, limit=limit, source=str(path))


def _score(field: str, where: str) -> float:
    try:
        value = float(field)
    except ValueError as error:
        raise DataError(f"{where}: wanted a number; got {field[:40]!r}.") from error
    if not math.isfinite(value):
        raise DataError(f"{where}: wanted a finite number; got {field[:40]!r}.")
    return value


@arguments.checked
def cut_text(path: str | Path, *, validation: float = 0.1, limit: int | None = None) -> Parts[str]:
    """A plain text file (UTF-8) in three pieces: the last fifth to test with, before it a share to choose by.

    Args:
        path: The file.
        validation: Share of the training characters that is held out, the last of them.
        limit: Use at most this many characters.

    Raises:
        DataError: The file is missing, no text, or has fewer than 10 characters.
    """
    if not 0 <= validation < 1 or (limit is not None and limit < 1):
        raise InputError(f"validation is a share in [0, 1) and limit at least 1; got {validation} and {limit}.")
    text = read_text(path, DataError, largest=_LARGEST)[:limit]
    if len(text) < 10:
        raise DataError(f"{path} has {len(text)} characters: too few to train and to test with.")
    test = round(0.2 * len(text))
    held = round(validation * (len(text) - test))
    train = len(text) - test - held
    return Parts(Path(path).stem, (text[:train],), (text[train : train + held],), (text[train + held :],), str(path))
