"""One job: the process that does it, what it says line by line, and how it ended."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur.core.processes import TERMINATED

__all__ = ["Command", "Process", "ended"]


@dataclass(frozen=True)
class Command:
    """What a job runs: a module of Secateur's, in a Python of its own.

    The module writes one JSON object a line to its standard output, each with a key ``what``; the last is ``done``, or
    ``failed`` with a ``reason``. It ends when its standard input closes, for then its parent is no more.

    Attributes:
        name: The job's.
        module: The module, as ``python -m`` takes it.
        arguments: What it is called with.
        home: Its working directory.
        log: Where everything goes that is not an event: warnings, the traceback of a crash.
    """

    name: str
    module: str
    arguments: tuple[str, ...]
    home: Path
    log: Path


def ended(reason: str = "") -> dict[str, Any]:
    """The last event of a job: without a reason it did what it had to."""
    return {"what": "ended", "reason": reason}


class Process:
    """The process of a job, at work from the moment it is made.

    Args:
        command: What it does.
        environment: Its environment variables.
    """

    def __init__(self, command: Command, environment: Mapping[str, str]) -> None:
        """Starts it.

        Raises:
            OSError: The log cannot be written, or the working directory is not there.
        """
        # -P: nothing is imported from where one stands but what a recipe names
        words = [sys.executable, "-P", "-m", command.module, *command.arguments]
        self._log = command.log
        with command.log.open("w") as log:
            self._process = subprocess.Popen(
                words, cwd=command.home, env=dict(environment), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=log, text=True,
            )  # fmt: skip

    def events(self) -> Iterator[dict[str, Any]]:
        """What it says until it ends; the last event is that of :func:`ended`."""
        last: dict[str, Any] = {}
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                said = json.loads(line)
            except ValueError:
                continue  # something printed by the network's own code
            if isinstance(said, dict) and "what" in said:
                last = said
                if said["what"] not in ("done", "failed"):
                    yield said
        code = self._process.wait()
        if code == 0 and last.get("what") == "done":
            yield ended()
        else:
            yield ended(str(last["reason"]) if last.get("what") == "failed" else _ending(code, self._log))

    def stop(self) -> None:
        """Asks it to end."""
        self._process.terminate()

    def end(self, seconds: float) -> None:
        """Waits for it to end, and insists when ``seconds`` are over."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()


def _ending(code: int, log: Path) -> str:
    """Words for a process that ended without a word."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    said = f": {lines[-1]}" if lines else ""
    if code < 0 or code == TERMINATED:
        return f"its process was killed ({signal.Signals(-code if code < 0 else signal.SIGTERM).name}){said}"
    return f"its process ended with status {code}{said}"
