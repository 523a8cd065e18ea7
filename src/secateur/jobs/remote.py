"""What runs on another machine: a look at what it has, and a job's process with what that says.

Ray imports this file there, so it needs nothing but Secateur's core; PyTorch is the business of the job's process.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from secateur.core.errors import SecateurError
from secateur.core.files import is_full
from secateur.core.processes import scratch, with_scratch
from secateur.jobs.alike import code_print, differences
from secateur.jobs.process import Command, Process, ended

__all__ = ["Place", "look", "place_of", "watch"]

Place = tuple[str, str, str]
"""A file that all machines see, the digest of its content, and the working directory."""


def place_of(file: Path, home: Path) -> Place:
    """Notes what other machines have to see."""
    return str(file), _digest(file), str(home)


def look(code: Mapping[str, str], place: Place) -> str:
    """What is wrong with this machine, in words that go on after its name; empty if jobs can run on it."""
    file, digest, home = Path(place[0]), place[1], Path(place[2])
    if found := differences(code_print(), code):
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        return f"has other code than this process: {', '.join(found[:3])}{more}. Install the same on every machine"
    if _digest(file) != digest:
        return (
            f"does not see {file} as it is here. Give an --out folder on a disk that all machines share, under the "
            "same path"
        )
    if not home.is_dir():
        return f"has no folder {home}, from which the recipes' paths start. Start from a folder that all machines share"
    return ""


def watch(command: Command, code: Mapping[str, str], place: Place, environment: Mapping[str, str]) -> Iterator[Any]:
    """Runs a job here, and yields its events; the last says how it ended."""
    if wrong := look(code, place):
        yield ended(f"this machine ({os.uname().nodename}) {wrong}.")
        return
    try:
        with scratch():
            yield from Process(command, {**with_scratch(), **environment}).events()
    except (OSError, SecateurError) as error:
        if is_full(error):
            yield ended(f"The disk is full: cannot write in {command.log.parent}. Free some space, then resume.")
        else:
            yield ended(f"its process could not be started: {error}.")


def _digest(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return ""
