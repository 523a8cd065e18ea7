"""One job of a comparison, in a process of its own: begins or goes on with a run, and tells its parent about it.

Started as ``python -m secateur.recipe.comparison.worker RECIPE FOLDER [MODE [LOGGER …]]``. Its parent has seen to
it that the recipe may name what it names and that the loggers may be written to. A run that was begun elsewhere needs
the mode ``trust``, or ``shared`` if it may have been begun by the same comparison on another machine. Every event is
one JSON line on standard output. Standard input stays open as long as the parent lives; when it closes, however the
parent died, the job stops at once, and what it was writing is made good by the next start.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from secateur.core.processes import TERMINATED, Terminated, end_on_sigterm, forks_follow

__all__ = ["main"]

_PATIENCE_S = 60.0


def main(recipe: str, folder: str, mode: str = "", *loggers: str) -> int:
    """Runs the job; returns the exit status."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to deal with
    threading.Thread(target=_die_with_parent, daemon=True).start()
    try:
        end_on_sigterm()
        forks_follow()
        return _work(recipe, folder, loggers, mode)
    except Terminated:
        return TERMINATED


def _work(recipe: str, folder: str, loggers: Sequence[str], mode: str) -> int:
    from secateur.core.errors import SecateurError
    from secateur.recipe import load_recipe, resume, run
    from secateur.recipe.comparison.jobs import adopt

    def tell(event: Any) -> None:
        _say(**asdict(event))

    _send_warnings()
    try:
        _wait_for(Path(folder))
        if mode == "shared":
            adopt(Path(recipe), Path(folder), Path.cwd())
        if (Path(folder) / "recipe.yaml").exists():
            resume(folder, on_event=tell, progress=False, trust=mode == "trust")
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


def _wait_for(folder: Path) -> None:
    """Waits for a process that did this job before and is about to die with its parent or its machine's connection."""
    from secateur.core.errors import InputError
    from secateur.core.files import lock

    end = time.monotonic() + _PATIENCE_S
    for place in (folder.with_name(f".{folder.name}.begin"), folder):
        while (place / ".lock").exists() and time.monotonic() < end:
            try:
                with lock(place):
                    break
            except InputError:
                time.sleep(0.2)


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
