"""Values that fit hardly anywhere, made afresh for every use: for the tests and for benchmarks/hostile.py."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn


def opened() -> Any:
    """An open file, which is an iterator over lines as well."""
    return Path(__file__).open()


WRONG: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "object()": object,
    "-1": lambda: -1,
    "0": lambda: 0,
    "2.5": lambda: 2.5,
    "nan": lambda: float("nan"),
    "inf": lambda: float("inf"),
    "True": lambda: True,
    "''": lambda: "",
    "'nope'": lambda: "nope",
    "b'x'": lambda: b"x",
    "'a\\0b'": lambda: "a\0b",
    "'x' * 5000": lambda: "x" * 5000,
    "[]": list,
    "[None]": lambda: [None],
    "{}": dict,
    "{'0': 0.5}": lambda: {"0": 0.5},
    "{3: None}": lambda: {3: None},
    "set()": set,
    "a function": lambda: lambda *given, **named: None,
    "the class int": lambda: int,
    "Path('nope')": lambda: Path("nope"),
    "an array": lambda: np.zeros((2, 3)),
    "a tensor with NaN": lambda: torch.tensor([[1.0, float("nan")]]),
    "a complex tensor": lambda: torch.zeros(2, 4, dtype=torch.complex64),
    "a tensor without samples": lambda: torch.zeros(0, 4),
    "a tensor of another shape": lambda: torch.zeros(3, 1, 5),
    "a generator": lambda: (value for value in (1, "a", None)),
    "10 ** 400": lambda: 10**400,
    "2 ** 63": lambda: 2**63,
    "nested lists": lambda: [[[1], []], [[]]],
    "the class nn.Linear": lambda: nn.Linear,
    "a network": lambda: nn.Linear(3, 3),
    "an open file": opened,
    "1 + 2j": lambda: 1 + 2j,
    "range(0)": lambda: range(0),
    "a date": lambda: datetime.date(2020, 1, 1),
    "an exception": lambda: ValueError("x"),
}
