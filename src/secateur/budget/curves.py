"""The curves of a sensitivity, and the file that holds them: JSON, which anybody may have written."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from math import isfinite
from os import PathLike
from pathlib import Path
from typing import Any

from secateur.core.errors import DataError, first_line, nearest
from secateur.core.metric import Metric
from secateur.core.reading import parse_json, read_text

__all__ = ["FORMAT", "Curve", "read_fields"]

FORMAT = 1

_LARGEST = 16 * 2**20
"""Bytes of a file of curves: a network of a thousand groups has some hundred kilobytes."""

_MOST_FILES = 1000
"""Files of a folder that are looked at for a name like that of one that is not there."""


@dataclass(frozen=True)
class Curve:
    """What removing more and more units of one group does, while everything else stays.

    Attributes:
        name: The group's name.
        layers: Modules whose output channels the units are.
        units: How many units the group has.
        removed: Units that were removed, ascending; those with the lowest scores go first.
        values: What was measured without them, number by number.
    """

    name: str
    layers: tuple[str, ...]
    units: int
    removed: tuple[int, ...]
    values: tuple[float, ...]

    @property
    def ratios(self) -> tuple[float, ...]:
        """Shares of the units that were removed."""
        return tuple(count / self.units for count in self.removed)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; the ratios are there for readers."""
        return {
            "name": self.name,
            "layers": list(self.layers),
            "units": self.units,
            "removed": list(self.removed),
            "ratios": [round(ratio, 6) for ratio in self.ratios],
            "values": list(self.values),
        }


def read_fields(path: str | PathLike[str]) -> dict[str, Any]:
    """The fields of a :class:`~secateur.budget.sensitivity.Sensitivity`, from its file.

    Raises:
        DataError: Names a file that is missing, no plain file, too large, damaged, or of something else.
    """
    if not Path(path).exists():
        raise DataError(_missing(Path(path)))
    data = parse_json(read_text(path, DataError, largest=_LARGEST), str(path), DataError, finite=True)
    if not isinstance(data, dict) or "curves" not in data:
        raise DataError(
            f"{path} holds no sensitivity: there are no curves in it. `secateur sensitivity … --out FILE` writes one."
        )
    if data.get("format") != FORMAT:
        got = f"{data.get('format')!r:.40}"
        raise DataError(f"{path} is no sensitivity of format {FORMAT} (got {got}); newer ones need a newer Secateur.")
    try:
        return _fields(data)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is damaged: {type(error).__name__}: {first_line(error)}.") from error


def _missing(path: Path) -> str:
    """Words for a file that is not there, with the nearest that are."""
    with contextlib.suppress(OSError, ValueError):
        others = [other.name for other in islice(path.absolute().parent.glob("*.json"), _MOST_FILES)]
        if close := nearest(path.name, others):
            return f"There is no file {path}. Did you mean {' or '.join(str(path.with_name(name)) for name in close)}?"
    return f"There is no file {path} (relative paths start from the working directory, {Path.cwd()})."


def _fields(data: Mapping[str, Any]) -> dict[str, Any]:
    metric = Metric.from_dict({key: _text(data["metric"][key]) for key in ("name", "title", "better", "format")})
    return {
        "curves": tuple(map(_curve, _list(data["curves"]))),
        "metric": metric,
        "dense": _number(data["dense"]),
        "criterion": _text(data["criterion"]),
        "samples": _count(data["samples"]),
        "repaired": data["repaired"] is True,
        "notes": tuple(map(_text, _list(data["notes"]))),
        "target": {_text(name): _number(value) for name, value in dict(data["target"]).items()},
        "chosen": _shares(data["ratios"]),
    }


def _curve(item: Any) -> Curve:
    units, removed = _count(item["units"]), tuple(map(_count, _list(item["removed"])))
    values = tuple(map(_number, _list(item["values"])))
    if len(removed) != len(values) or list(removed) != sorted({*removed}) or units < 1:
        raise ValueError("a curve whose numbers do not belong together")
    if removed and not 0 < removed[0] <= removed[-1] < units:
        raise ValueError(f"a curve removes {removed[-1]} of {units} units")
    return Curve(_text(item["name"]), tuple(map(_text, _list(item["layers"]))), units, removed, values)


def _shares(data: Any) -> dict[str, float]:
    found = {_text(name): _number(value) for name, value in dict(data).items()}
    for name, value in found.items():
        if not 0 <= value < 1:
            raise ValueError(f"the ratio of {name!r:.80} is {value}, and not in [0, 1)")
    return found


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r:.40} is no list")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is no text")
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not isfinite(value):
        raise TypeError(f"{value!r:.40} is no number")
    return float(value)


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**31:
        raise TypeError(f"{value!r:.40} is no count")
    return value
