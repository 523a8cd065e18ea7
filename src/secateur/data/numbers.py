"""Tables of numbers in CSV files: a header, and a number in every field."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import torch
from torch import Tensor

from secateur.core.errors import DataError, UnknownNameError, first_line
from secateur.core.reading import read_text

__all__ = ["column_of", "read_fields", "read_numbers"]

_LARGEST = 2**30
"""Bytes of a table that is read into memory."""


def read_fields(path: str | Path) -> tuple[tuple[str, ...], list[tuple[int, list[str]]]]:
    """The column names of a CSV file with a header, and its rows with the line that each ends in.

    Fields are separated by commas, or by semicolons or tabs where the header has these and no comma.

    Raises:
        DataError: The file is missing, no text, empty, has a column without a name or two of one name, or a row of
            another length than the header; the message names the line.
    """
    text = read_text(path, DataError, largest=_LARGEST).removeprefix("\ufeff")
    head = text.partition("\n")[0]
    mark = next((m for m in ",;\t" if m in head), ",")
    reader = csv.reader(io.StringIO(text), delimiter=mark, strict=True)
    try:
        rows = [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {first_line(error)}.") from error
    if not rows:
        raise DataError(f"{path} is empty: wanted a header with the columns' names, and rows of numbers.")
    (_, header), *body = rows
    names = tuple(name.strip() for name in header)
    if "" in names or len(set(names)) != len(names):
        odd = next(name for name in names if not name or names.count(name) > 1)
        raise DataError(f"{path}, line 1: the column name {odd!r} is {'there twice' if odd else 'empty'}.")
    for line, row in body:
        if len(row) != len(names):
            raise DataError(f"{path}, line {line}: {len(row)} fields, where the header has {len(names)}.")
    return names, body


def read_numbers(path: str | Path) -> tuple[tuple[str, ...], Tensor]:
    """The column names of a CSV file, and its numbers: float64, (rows, columns).

    Raises:
        DataError: What :func:`read_fields` raises; no rows; a field that is empty or no finite number; the message
            names line and column.
    """
    names, rows = read_fields(path)
    if all(_is_number(name) for name in names):
        raise DataError(f"{path}, line 1: these are numbers; wanted a header with the columns' names.")
    if not rows:
        raise DataError(f"{path} has a header and no rows.")
    values = [[_number(field, f"{path}, line {line}, column {name}") for name, field in zip(names, row, strict=True)]
              for line, row in rows]  # fmt: skip
    return names, torch.tensor(values, dtype=torch.float64)


def column_of(names: tuple[str, ...], wanted: str, path: str | Path) -> int:
    """Where a column is.

    Raises:
        UnknownNameError: With the nearest names.
    """
    if wanted not in names:
        raise UnknownNameError(f"column of {path}", wanted, names)
    return names.index(wanted)


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _number(field: str, where: str) -> float:
    if not field.strip():
        raise DataError(f"{where}: the value is missing. Fill it in or leave the row out.")
    try:
        value = float(field)
    except ValueError as error:
        raise DataError(f"{where}: wanted a number; got {field[:40]!r}.") from error
    if not math.isfinite(value) or abs(value) > 3e38:
        raise DataError(f"{where}: wanted a finite number; got {field[:40]!r}.")
    return value
