"""TensorBoard: event files in the run's folder, in ``tensorboard``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from secateur.loggers.base import LoggedRun, Logger, logger

__all__ = ["TensorBoard"]


@logger("tensorboard")
class TensorBoard(Logger):
    """Every number is a scalar, the settings are a text. ``tensorboard --logdir runs`` shows all runs there."""

    title = "TensorBoard"
    summary = "event files in the run's folder: tensorboard --logdir runs"
    packages, extra = ("tensorboard",), "tensorboard"

    def start(self, run: LoggedRun) -> str:
        """Opens an event file; the run's earlier ones stay beside it, and TensorBoard shows them as one."""
        from torch.utils.tensorboard import SummaryWriter

        self._folder = run.folder / "tensorboard"
        self._known = _points(self._folder) if run.id else set()
        self._writer: Any = SummaryWriter(str(self._folder))
        if not run.id and run.settings:
            text = yaml.safe_dump(dict(run.settings), sort_keys=False, allow_unicode=True)
            self._writer.add_text("settings", "\n".join(f"    {line}" for line in text.splitlines()))  # code
            self._writer.flush()
        return "tensorboard"

    def has(self, tag: str, step: int) -> bool:
        """Whether an event file of before has it."""
        return (tag, step) in self._known

    def numbers(self, group: str, values: Mapping[str, float], step: int) -> None:
        """Writes one scalar each, down to the disk."""
        for name, value in values.items():
            self._writer.add_scalar(f"{group}/{name}", value, step)
        self._writer.flush()

    def finish(self, files: Sequence[Path] = (), *, complete: bool = True) -> None:
        """Closes the file; TensorBoard keeps no files of others."""
        self._writer.close()


def _points(folder: Path) -> set[tuple[str, int]]:
    """The scalars that are there, by tag and step; half a record at the end, of a killed process, is none."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    if not folder.is_dir():
        return set()
    found = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {(tag, event.step) for tag in found.Tags()["scalars"] for event in found.Scalars(tag)}
