"""One job of a comparison, in a process of its own: begins or goes on with a run, and tells its parent about it.

Started as ``python -m secateur.recipe.comparison.worker RECIPE FOLDER [trust [LOGGER …]]``. Its parent has seen to
it that the recipe may name what it names and that the loggers may be written to; a run that was begun elsewhere needs
``trust`` (else that argument is empty). Every event is one JSON line on standard
output. Standard input stays open as long as the parent lives; when it closes, however the parent died, the job stops
at once, and what it was writing is made good by the next start.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from secateur.core.processes import TERMINATED, Terminated, end_on_sigterm, forks_follow

__all__ = ["main"]


def main(recipe: str, folder: str, trust: str = "", *loggers: str) -> int:
    """Runs the job; returns the exit status."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to deal with
    threading.Thread(target=_die_with_parent, daemon=True).start()
    try:
        end_on_sigterm()
        forks_follow()
        return _work(recipe, folder, loggers, trust=bool(trust))
    except Terminated:
        return TERMINATED


def _work(recipe: str, folder: str, loggers: Sequence[str], *, trust: bool) -> int:
    from secateur.core.errors import SecateurError
    from secateur.recipe import load_recipe, resume, run

    def tell(event: Any) -> None:
        _say(**asdict(event))

    _send_warnings()
    try:
        if (Path(folder) / "recipe.yaml").exists():
            resume(folder, on_event=tell, progress=False, trust=trust)
        else:
            loaded = load_recipe(Path(recipe), trust=True)
            run(loaded, folder, log=loggers, on_event=tell, progress=False, trust=True)
    except SecateurError as error:
        _say(what="failed", reason=str(error))
        return 2
    except Exception as error:
        _say(what="failed", reason=f"{type(error).__name__}: {error}")
        raise
    _say(what="done")
    return 0


def _send_warnings() -> None:
    """What a logger missed is for whoever watches the comparison; other warnings go to the job's log."""
    from secateur.loggers import LoggerWarning

    print_it = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, LoggerWarning):
            _say(what="warning", reason=str(message))
        else:
            print_it(message, category, *where, **more)

    warnings.showwarning = show


def _die_with_parent() -> None:
    os.read(0, 1)  # not through sys.stdin, whose lock a thread may not hold when Python shuts down
    os._exit(1)


def _say(**event: Any) -> None:
    print(json.dumps(event, default=str), flush=True)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
