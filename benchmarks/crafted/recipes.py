"""Recipes, as text."""

from __future__ import annotations

from collections.abc import Iterator

from tests.recipe.test_hostile_text import HEAD, TEXTS

from secateur.recipe import load_recipe

from . import Crafted, holding, no_files

COMMANDS = (
    ("run", "{}", "--out", "out"),
    ("compare", "{}", "--out", "out"),
    ("sweep", "{}", "--ratios", "0.2", "--out", "out"),
)


def crafted() -> Iterator[Crafted]:
    yield Crafted("a good one", holding("good.yaml", HEAD), load_recipe, fine=True)
    for name, (text, _) in TEXTS.items():
        yield Crafted(name, holding("bad.yaml", text), load_recipe, COMMANDS)
    yield Crafted("no text", holding("bad.yaml", b"name: \xe9\n"), load_recipe, COMMANDS)
    yield Crafted("another encoding", holding("bad.yaml", HEAD.encode("utf-16")), load_recipe, COMMANDS)
    for name, make in no_files("bad.yaml").items():
        yield Crafted(name, make, load_recipe, COMMANDS)
