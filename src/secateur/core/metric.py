"""A number that says how well a network does: what it is called, which way is better, and how it is written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from secateur.core import arguments
from secateur.core.errors import InputError, nearest

__all__ = ["LOSS", "TOP1", "TOP5", "Better", "Format", "Metric"]

Better = Literal["higher", "lower"]
Format = Literal["percent", "share", "number"]

_FORMATS = ("percent", "share", "number")


@arguments.checked
@dataclass(frozen=True)
class Metric:
    """How well a network does, as one number over a split.

    Attributes:
        measure: What computes it: a metric of torchmetrics (``update``, ``compute``, ``reset``), or a function of
            outputs and targets of one batch that gives its mean (the mean over a split is weighted by the samples of
            each batch). ``None`` where a task computes it itself, and in records.
        better: Which way is better. A metric of torchmetrics knows (``higher_is_better``); a function cannot.
        format: ``percent`` for a value in 0…100, ``share`` for one in 0…1 that is shown in percent, or ``number``.
        title: What reports call it; by default its name.
        name: The key that it has in results; a task gives it.
        digits: After the decimal point; by default 2 in percent, 4 in numbers.

    Raises:
        InputError: A direction or format that there is not.

    >>> top1 = Metric(better="higher", format="percent", title="Top-1 accuracy", name="top1")
    >>> top1.words(91.234), top1.change(91.2, 90.7), top1.change(91.2, 91.199), top1.improves(91.0, 90.0)
    ('91.23 %', '−0.50 points', '±0.00 points', True)
    """

    measure: Any = field(default=None, compare=False, repr=False)
    better: Better | None = None
    format: Format = "number"
    title: str = ""
    name: str = ""
    digits: int | None = None

    def __post_init__(self) -> None:
        """Checks the words."""
        if self.better not in (None, "higher", "lower"):
            raise InputError(f"Metric(better=…) is 'higher' or 'lower'; got {self.better!r}.")
        if self.format not in _FORMATS:
            close = nearest(str(self.format), _FORMATS)
            raise InputError(
                f"Metric(format=…) is one of {', '.join(map(repr, _FORMATS))}; got {self.format!r}."
                + (f" Did you mean {close[0]!r}?" if close else "")
            )

    @property
    def label(self) -> str:
        """What people read: the title, else the name."""
        return self.title or self.name

    @property
    def within(self) -> str:
        """The label within a sentence: ``top-1 accuracy``, but ``RMSE``."""
        label = self.label
        return label if label[1:2].isupper() else label[:1].lower() + label[1:]

    def improves(self, value: float | None, best: float | None) -> bool:
        """Whether ``value`` is better than ``best``; what is no number never is."""
        if value is None or not math.isfinite(value):
            return False
        if best is None or not math.isfinite(best):
            return True
        return value < best if self.better == "lower" else value > best

    def percent(self, value: float | None) -> float | None:
        """The value in percent where it is a share of something; ``None`` for other numbers."""
        if value is None or self.format == "number" or not math.isfinite(value):
            return None
        return value * (100 if self.format == "share" else 1)

    def words(self, value: float | None) -> str:
        """The value as it is shown; a dash where there is none."""
        if value is None:
            return "–"
        shown = self.percent(value)
        if shown is None:
            return f"{value:.{self._digits}f}".replace("-", "−")
        return f"{shown:.{self._digits}f} %".replace("-", "−")

    def change(self, before: float | None, after: float | None) -> str:
        """The difference as it is shown: points of percentages, else a number."""
        if before is None or after is None:
            return "–"
        one, two = self.percent(before), self.percent(after)
        if one is None or two is None:
            return _signed(after - before, self._digits)
        return f"{_signed(two - one, self._digits)} points"

    @property
    def _digits(self) -> int:
        if self.digits is not None:
            return self.digits
        return 4 if self.format == "number" else 2

    def called(self, name: str) -> Metric:
        """The same metric under a name."""
        return replace(self, name=name)

    def to_dict(self) -> dict[str, Any]:
        """All but what computes it, for JSON."""
        named = {"name": self.name, "title": self.title, "better": self.better, "format": self.format}
        return named if self.digits is None else {**named, "digits": self.digits}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Metric:
        """Reads what :meth:`to_dict` wrote."""
        known = ("name", "title", "better", "format", "digits")
        return cls(**{key: record[key] for key in known if key in record})


def _signed(value: float, digits: int) -> str:
    """A difference with its sign; a true minus, and none on a rounded zero."""
    text = f"{abs(value):.{digits}f}"
    return ("±" if float(text) == 0 else "−" if value < 0 else "+") + text


TOP1 = Metric(better="higher", format="percent", title="Top-1 accuracy", name="top1")
TOP5 = Metric(better="higher", format="percent", title="Top-5 accuracy", name="top5")
LOSS = Metric(better="lower", title="Loss", name="loss")
