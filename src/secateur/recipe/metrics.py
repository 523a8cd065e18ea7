"""The numbers of a run as JSON lines: one line per epoch and per finished step, each exactly once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from secateur.errors import DataError
from secateur.recipe.files import write_text

__all__ = ["Metrics"]

Line = Mapping[str, Any]


class Metrics:
    """A ``metrics.jsonl`` whose lines are known by step and epoch.

    The file is replaced as a whole on every change: it is short, and so a killed process leaves neither
    half a line nor, when its epoch is done again after a resume, the same line twice.
    """

    def __init__(self, path: Path) -> None:
        """Reads the lines that are there; ``path`` need not exist."""
        self.path = path
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        self._lines: dict[tuple[str, int | None], Line] = {}
        try:
            for line in text.splitlines():
                record = json.loads(line)
                self._lines[_key(record)] = record
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} was changed by hand or damaged: {error}. Start the run again.") from error

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


def _key(line: Line) -> tuple[str, int | None]:
    return line["step"], line.get("epoch")
