"""Rows of numbers with numbers to be predicted: CSV files, arrays, and scikit-learn's diabetes, which is embedded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from secateur.core import arguments
from secateur.core.errors import DataError, InputError
from secateur.data.numbers import column_of, read_numbers

__all__ = ["RowSet", "RowSplit", "diabetes", "load_rows", "rows_of"]


@dataclass(frozen=True, repr=False, eq=False)
class RowSplit:
    """Rows in memory.

    Attributes:
        inputs: float64, (N, columns).
        targets: float64, (N, targets).
    """

    inputs: Tensor
    targets: Tensor

    def __post_init__(self) -> None:
        """Checks shapes and values."""
        for name in ("inputs", "targets"):
            value: Tensor = getattr(self, name)
            if value.ndim != 2 or value.dtype != torch.float64 or len(value) != len(self.inputs):
                got = f"{value.dtype} {tuple(value.shape)}"
                raise InputError(f"RowSplit({name}=…) wants float64 of shape (N, …), one row a sample; got {got}.")
            if not bool(value.isfinite().all()):
                row = int((~value.isfinite().all(1)).nonzero()[0])
                raise InputError(f"RowSplit({name}=…) wants finite numbers; row {row} has NaN or infinity.")

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.inputs)

    def __repr__(self) -> str:
        """Says how many."""
        return f"RowSplit({len(self):,} rows)"

    def take(self, index: Tensor) -> RowSplit:
        """The rows at ``index``."""
        return RowSplit(self.inputs[index], self.targets[index])


@dataclass(frozen=True)
class RowSet:
    """Training, validation and test rows.

    Attributes:
        name: For instance ``diabetes``.
        columns: Names of the inputs.
        targets: Names of what is predicted.
        train: Rows to train on.
        validation: Rows held out of them; may be empty.
        test: Rows that no decision is based on.
        source: Where the rows came from: a path as given, or ``embedded``.
    """

    name: str
    columns: tuple[str, ...]
    targets: tuple[str, ...]
    train: RowSplit
    validation: RowSplit
    test: RowSplit
    source: str = ""


def rows_of(
    inputs: Any,
    targets: Any,
    *,
    columns: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    name: str = "rows",
    validation: float = 0.1,
    seed: int = 0,
    limit: int | None = None,
    source: str = "",
) -> RowSet:
    """Rows from arrays: a fixed fifth is the test part, and a share of the rest is held out by ``seed``.

    Args:
        inputs: (N, columns), numbers.
        targets: (N,) or (N, targets), numbers.
        columns: Names of the inputs.
        names: Names of the targets.
        name: What to call it.
        validation: Share of the training rows that is held out.
        seed: Of that choice.
        limit: Use at most this many training and test rows, the first drawn.
        source: Where they came from.

    Raises:
        InputError: Other shapes, or NaN.
        DataError: Too few rows.

    >>> rows_of(torch.randn(20, 3), torch.randn(20)).train
    RowSplit(14 rows)
    """
    if not 0 <= validation < 1 or (limit is not None and limit < 1):
        raise InputError(f"validation is a share in [0, 1) and limit at least 1; got {validation} and {limit}.")
    x, y = (torch.as_tensor(value).double() for value in (inputs, targets))
    every = RowSplit(x, y[:, None] if y.ndim == 1 else y)
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(0))
    count = round(0.2 * len(every))
    test, rest = order[:count], order[count:]
    test, rest = (part[:limit].sort().values for part in (test, rest))
    held = torch.randperm(len(rest), generator=torch.Generator().manual_seed(seed)) < round(validation * len(rest))
    splits = [every.take(part) for part in (rest[~held], rest[held], test)]
    if min(len(splits[0]), len(splits[2])) < 2:
        raise DataError(f"{name} has {len(splits[0])} rows to train and {len(splits[2])} to test with.")
    inputs_named = tuple(columns or (f"x{i}" for i in range(x.shape[1])))
    targets_named = tuple(names or (f"y{i}" for i in range(every.targets.shape[1])))
    return RowSet(name, inputs_named, targets_named, splits[0], splits[1], splits[2], source)


@arguments.checked
def load_rows(
    path: str | Path,
    *,
    target: str | Sequence[str] | None = None,
    validation: float = 0.1,
    seed: int = 0,
    limit: int | None = None,
) -> RowSet:
    """Loads a CSV file with a header and a number in every field.

    Args:
        path: The file; fields separated by commas, semicolons or tabs.
        target: The column (or columns) to predict; by default the last.
        validation: Share of the training rows that is held out.
        seed: Of that choice.
        limit: Use at most this many training and test rows.

    Raises:
        DataError: The file is missing or empty, or a field is no finite number; the message names line and column.
        UnknownNameError: A column that there is not, with the nearest.
    """
    names, values = read_numbers(path)
    wanted = [names[-1]] if target is None else [target] if isinstance(target, str) else list(target)
    chosen = [column_of(names, name, path) for name in wanted]
    others = [i for i in range(len(names)) if i not in chosen]
    if not others or not chosen:
        raise DataError(f"{path} has {len(names)} columns, {len(chosen)} of them to predict: nothing is left of one.")
    return rows_of(
        values[:, others], values[:, chosen], columns=[names[i] for i in others], names=wanted, name=Path(path).stem,
        validation=validation, seed=seed, limit=limit, source=str(path),
    )  # fmt: skip


def diabetes(*, validation: float = 0.1, seed: int = 0, limit: int | None = None) -> RowSet:
    """scikit-learn's diabetes: 442 patients, ten measurements, the progression of the disease after a year.

    Source: Efron et al. 2004, Least Angle Regression, Annals of Statistics 32(2).

    Args:
        validation: Share of the training rows that is held out.
        seed: Of that choice.
        limit: Use at most this many training and test rows.

    >>> data = diabetes()
    >>> len(data.train), len(data.validation), len(data.test), data.targets
    (319, 35, 88, ('progression',))
    """
    try:
        from sklearn.datasets import load_diabetes
    except ImportError as error:
        raise InputError('The diabetes data need scikit-learn: pip install "secateur[train]".') from error
    found = load_diabetes()
    return rows_of(
        found.data, found.target, columns=found.feature_names, names=["progression"], name="diabetes",
        validation=validation, seed=seed, limit=limit, source="embedded",
    )  # fmt: skip
