"""For mkdocstrings: the roles of our docstrings (``:func:`secateur.prune```) become links of the API reference.

What has no entry there becomes code, so that no role is ever shown as it is written. Doctests become blocks of code, or
Markdown would take lists of numbers in what they print for links.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import griffe

_ROLE = re.compile(r":(?:func|class|meth|mod|data|attr|exc):`(~?)([^`]+)`")
_DOCTEST = re.compile(r"^>>> (?:.*\n?)(?:.+\n?)*", re.MULTILINE)
_ENTRY = re.compile(r"^::: ([\w.]+)$", re.MULTILINE)
API = Path(__file__).resolve().parents[1] / "docs/api"


def entries() -> dict[str, str]:
    """Every identifier with an entry in the API pages, by its full name and by its last part."""
    found = [name for page in sorted(API.glob("*.md")) for name in _ENTRY.findall(page.read_text())]
    return {name.rpartition(".")[2]: name for name in found} | {name: name for name in found}


def linked(text: str, known: dict[str, str]) -> str:
    """``text`` with every role as a link, or as code."""

    def link(role: re.Match[str]) -> str:
        shown = role[2].rpartition(".")[2] if role[1] else role[2]
        target = known.get(role[2]) or known.get(role[2].rpartition(".")[2])
        return f"[`{shown}`][{target}]" if target else f"`{shown}`"

    return _ROLE.sub(link, text)


def fenced(text: str) -> str:
    """``text`` with its doctests as blocks; one that stands in a section of its own is left to the parser."""
    return _DOCTEST.sub(lambda found: f"```pycon\n{found[0].rstrip()}\n```\n", text)


class DocstringRoles(griffe.Extension):
    """Rewrites the docstring of every object that is read."""

    def __init__(self) -> None:
        """Reads the API pages once."""
        super().__init__()
        self.known = entries()

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called once for every module, class, function and attribute."""
        if obj.docstring:
            obj.docstring.value = fenced(linked(obj.docstring.value, self.known))
