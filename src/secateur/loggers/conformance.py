"""What every logger has to do, tried on a run that lies in a temporary folder."""

from __future__ import annotations

import tempfile
from pathlib import Path

from secateur.core.errors import PluginError
from secateur.loggers.base import LoggedRun, Logger

__all__ = ["check_logger"]


def check_logger(name: str, kind: type[Logger]) -> None:
    """It says what it is, takes numbers, goes on with the run of before, and takes a file at the end.

    Where it sends them is where it is set to send them: a logger of a server makes a run there.

    Raises:
        PluginError: Something of this is not so.
        InputError: A package is missing that it needs; the message holds the install command.
    """
    if not kind.summary:
        raise PluginError("it has no summary, the line that `secateur loggers` shows")
    kind.need()
    with tempfile.TemporaryDirectory() as folder:
        run = LoggedRun("check", Path(folder), {"steps": [{"prune": {"ratio": 0.5}}]})
        first = kind()
        found = first.start(run)
        if not isinstance(found, str) or not found:
            raise PluginError(f"start returns {found!r}, not what the run is called there")
        first.numbers("dense", {"train/loss": 0.5}, 1)
        first.finish(complete=False)
        second = kind()
        if second.start(LoggedRun(run.name, run.folder, run.settings, found, 1)) != found:
            raise PluginError("of a run that goes on, start returns another name than before")
        second.numbers("results", {"params": 12}, 2)
        report = Path(folder) / "report.html"
        report.write_text("<p>report</p>")
        second.finish([report], complete=True)
