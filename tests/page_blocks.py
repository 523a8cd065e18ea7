"""Runs what stands in the pages of docs/: their Python as it is, their `secateur` commands in this process.

A block that follows `<!-- file: NAME -->` becomes a file of that name. Shell lines other than `secateur …` (installing,
`cd`) are left out. Blocks in other languages (`py`, `sh`, `text`) are not run.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

import pytest

from secateur.cli.main import main

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
_BLOCK = re.compile(r"^( *)(?:<!-- file: (?P<file>\S+) -->\n+ *)?```(?P<kind>\w*)\n(?P<code>.*?)^ *```$", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, its text, and the file that it becomes, if any."""

    kind: str
    code: str
    file: str | None = None


def blocks(page: str, *kinds: str) -> list[Block]:
    """The blocks of ``docs/page`` in their order, of ``kinds`` alone if any are given."""
    found = [Block(m["kind"], dedent(m["code"]), m["file"]) for m in _BLOCK.finditer((DOCS / page).read_text())]
    return [block for block in found if not kinds or block.kind in kinds]


def commands(block: Block) -> list[list[str]]:
    """The `secateur` commands of a shell block, each as its arguments."""
    lines = [line.strip() for line in block.code.replace("\\\n", " ").splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("secateur ")]


def run_command(arguments: Sequence[str]) -> None:
    """Runs one command in this process; it has to end well."""
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    assert stopped.value.code == 0, f"secateur {shlex.join(arguments)}"


def run_page(
    page: str,
    kinds: Sequence[str] = ("python", "bash"),
    quick: Mapping[str, Sequence[str]] | None = None,
    setup: str = "",
) -> None:
    """Runs the blocks of a page in the working directory, one after the other, in one namespace.

    ``quick`` has further arguments by command and what it is given first (``run slimming``), which make it short: fewer
    epochs, less timing. ``setup`` is run first: what the page takes for granted.
    """
    space: dict[str, object] = {"__name__": "page"}
    exec(compile(setup, f"docs/{page}, setup", "exec"), space)
    for number, block in enumerate(blocks(page)):
        if block.file:
            Path(block.file).write_text(block.code)
        elif block.kind == "python" and block.kind in kinds:
            exec(compile(block.code, f"docs/{page}, block {number}", "exec"), space)
        elif block.kind == "bash" and block.kind in kinds:
            for arguments in commands(block):
                run_command([*arguments, *(quick or {}).get(" ".join(arguments[:2]), ())])
