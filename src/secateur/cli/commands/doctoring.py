"""`secateur doctor`: what was found, as a table or as JSON."""

from __future__ import annotations

import dataclasses
import json

import typer

from secateur.cli.commands.show import console, say, table
from secateur.doctor import examine, is_fit

__all__ = ["doctor"]

_MARKS = {"ok": "ok", "note": "note", "missing": "not there", "broken": "BROKEN"}


def doctor(*, as_json: bool) -> None:
    """Shows what was found; ends with status 1 if something is broken."""
    found = examine()
    fit = is_fit(found)
    if as_json:
        print(json.dumps({"fit": fit, "findings": [dataclasses.asdict(one) for one in found]}, indent=2))
    else:
        rows = [[one.what, _MARKS[one.state], one.said] for one in found]
        console().print(table(["What", "State", "Found"], rows, words=(0, 1, 2), fold=(2,)))
        for one in found:
            if one.fix:
                say(f"{one.what}: {one.fix}")
        say("All that is installed works." if fit else "Something that is installed is broken.")
    if not fit:
        raise typer.Exit(1)
