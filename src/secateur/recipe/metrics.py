"""The numbers of a run as JSON lines: one line per epoch and per finished step, each exactly once."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from secateur.core.errors import DataError
from secateur.core.files import write_text
from secateur.core.reading import LARGEST_JSON, parse_json, read_text

__all__ = ["Metrics"]

Line = Mapping[str, Any]


class Metrics:
    """A ``metrics.jsonl`` whose lines are known by step and epoch.

    The file is replaced as a whole on every change: it is short, and so a killed process leaves neither
    half a line nor, when its epoch is done again after a resume, the same line twice.
    """

    def __init__(self, path: Path, follow: Callable[[tuple[Line, ...]], None] | None = None) -> None:
        """Reads the lines that are there; ``path`` need not exist. ``follow`` gets all lines when some change."""
        self.path, self._follow = path, follow
        self._lines: dict[tuple[str, int | None], Line] = {}
        text = read_text(path, DataError, largest=LARGEST_JSON) if os.path.lexists(path) else ""
        for number, line in enumerate(text.splitlines(), start=1):
            self._add(line, f"Line {number} of {path}")

    def _add(self, line: str, what: str) -> None:
        try:
            record = parse_json(line, what, DataError)
            if not _is_line(record):
                raise DataError(f"{what} is damaged: it is not an object with a step and an epoch.")
        except DataError as error:
            raise DataError(
                f"{error} Delete the file and resume: it is written again from the steps' results."
            ) from error
        self._lines[_key(record)] = record

    def __contains__(self, step: str) -> bool:
        """Whether a step's closing line is there."""
        return (step, None) in self._lines

    @property
    def lines(self) -> tuple[Line, ...]:
        """All lines in order."""
        return tuple(self._lines.values())

    def put(self, records: Iterable[Line]) -> None:
        """Adds lines, or replaces those of the same step and epoch; writes only what changed."""
        before = list(self._lines.items())
        for record in records:
            self._lines[_key(record)] = dict(record)
        self._write_if_other_than(before)

    def finish(self, step: str, epochs: Iterable[Line], summary: Line) -> None:
        """Puts a step's epochs and its closing line, and drops epochs that the step does not have."""
        before = list(self._lines.items())
        for key in [key for key in self._lines if key[0] == step]:
            del self._lines[key]
        for record in (*epochs, summary):
            self._lines[_key(record)] = dict(record)
        self._write_if_other_than(before)

    def _write_if_other_than(self, before: list[tuple[Any, Line]]) -> None:
        if list(self._lines.items()) != before:
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in self._lines.values())
            write_text(self.path, text)
            if self._follow is not None:
                self._follow(self.lines)


def _is_line(record: Any) -> bool:
    if not isinstance(record, dict) or not isinstance(record.get("step"), str):
        return False
    return type(record.get("epoch")) in (int, type(None))


def _key(line: Line) -> tuple[str, int | None]:
    return line["step"], line.get("epoch")
