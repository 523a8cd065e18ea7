"""Recipes, as text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import yaml
from tests.recipe.test_hostile_text import HEAD, TEXTS

from secateur.recipe import load_recipe

from . import MARK, Crafted, holding, no_files

COMMANDS = (
    ("run", "{}", "--out", "out"),
    ("compare", "{}", "--out", "out"),
    ("sweep", "{}", "--ratios", "0.2", "--out", "out"),
)


PLUGINS = ("evil", "evil.py", "./evil.py", "{}/evil.py", "~/evil.py", "inner/../evil.py", "antigravity", "evil.deeper",
           "a.b/../evil.py", "torch.hub", "evil\0.py", "x" * 5000)  # fmt: skip


def using(plugin: str) -> Callable[[Path], Path]:
    """A recipe that names a plug-in which lies beside it."""

    def make(folder: Path) -> Path:
        (folder / "evil.py").write_text(f"from pathlib import Path\nPath({MARK!r}).touch()\n")
        (folder / "inner").mkdir()
        path = folder / "bad.yaml"
        path.write_text(HEAD + yaml.safe_dump({"use": [plugin.replace("{}", str(folder))]}))
        return path

    return make


def crafted() -> Iterator[Crafted]:
    yield Crafted("a good one", holding("good.yaml", HEAD), load_recipe, fine=True)
    for name, (text, _) in TEXTS.items():
        yield Crafted(name, holding("bad.yaml", text), load_recipe, COMMANDS)
    for plugin in PLUGINS:
        yield Crafted(f"use {plugin[:40]!r}", using(plugin), load_recipe, COMMANDS)
    yield Crafted("no text", holding("bad.yaml", b"name: \xe9\n"), load_recipe, COMMANDS)
    yield Crafted("another encoding", holding("bad.yaml", HEAD.encode("utf-16")), load_recipe, COMMANDS)
    for name, make in no_files("bad.yaml").items():
        yield Crafted(name, make, load_recipe, COMMANDS)
