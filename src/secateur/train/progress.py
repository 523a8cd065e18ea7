"""A progress bar with loss, accuracy, images per second and time left; silent off a terminal."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from secateur.core.progress import drawn

__all__ = ["TrainProgress"]


class TrainProgress:
    """Context manager around a whole run; ``None`` means: shown on a terminal and in a notebook."""

    def __init__(self, name: str, steps: int, done: int, *, show: bool | None) -> None:
        """``steps`` are the optimiser steps of the whole run, ``done`` those of epochs restored."""
        shown = drawn() if show is None else show
        self._bar: Progress | None = None
        if shown:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[figures]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task(name, total=steps, completed=done, figures="")

    def __enter__(self) -> TrainProgress:
        """Starts drawing."""
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Leaves the last state on the screen."""
        if self._bar is not None:
            self._bar.stop()

    def describe(self, text: str) -> None:
        """Sets the words before the bar."""
        if self._bar is not None:
            self._bar.update(self._task, description=text)

    def step(self, count: int, loss: float, metric: str, speed: str) -> None:
        """Moves ahead by ``count`` steps; ``metric`` and ``speed`` are words, the first may be empty."""
        if self._bar is not None:
            figures = " · ".join(filter(None, (f"loss {loss:.3f}", metric, speed)))
            self._bar.update(self._task, advance=count, figures=figures)
