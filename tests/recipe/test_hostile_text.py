"""Recipes from strangers, as text: one sentence each, at once, and nothing that they name is made."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from secateur.core.errors import DataError, InputError, SecateurError
from secateur.recipe import load_recipe

HEAD = "name: x\nmodel: {name: lenet300}\ndata: {name: digits}\nsteps: [measure]\n"
LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)

TEXTS = {
    "brackets": ("[" * 20_000, "levels deep"),
    "closed brackets": ("a: " + "[" * 20_000 + "]" * 20_000, "levels deep"),
    "braces": ("{a: " * 20_000, "levels deep"),
    "dashes": ("- " * 20_000 + "x", "levels deep"),
    "indents": ("\n".join(" " * i + "a:" for i in range(500)), "levels deep"),
    "keys of keys": ("? " * 20_000 + "x", "levels deep"),
    "a billion laughs": (LAUGHS, "anchors and aliases"),
    "an unknown anchor": (HEAD + "a: *a\n", "line 5: recipes cannot use anchors"),
    "merged": ("a: &a {b: 1}\nc:\n  <<: *a\n", "anchors and aliases"),
    "itself": ("&a [*a]", "anchors and aliases"),
    "python object": (HEAD + "x: !!python/object/apply:os.system [echo]\n", "line 5: could not determine"),
    "python name": (HEAD + "x: !!python/name:os.system\n", "line 5: could not determine"),
    "another tag": (HEAD + "x: !os.system [echo]\n", "line 5: could not determine"),
    "bytes": (HEAD + "x: !!binary aGVsbG8=\n", "line 5: a recipe holds"),
    "a set": (HEAD + "x: !!set {a, b}\n", "line 5: a recipe holds"),
    "pairs": (HEAD + "x: !!pairs [a: 1]\n", "line 5: a recipe holds"),
    "a date": (HEAD + "x: 2001-01-01\n", "line 5: a recipe holds"),
    "no date": (HEAD + "x: 2001-99-99\n", "month"),
    "many digits": (HEAD + "x: " + "9" * 10_000 + "\n", "not a usable"),
    "digits of a long number": (HEAD + "x: " + "9" * 4000 + "\n", "line 5: a number of 13288 bits"),
    "hexadecimal": (HEAD + "x: 0x" + "f" * 50_000 + "\n", "line 5: a number of 200000 bits"),
    "base sixty": (HEAD + "x: 1" + ":59" * 20_000 + "\n", "line 5: a number of"),
    "a broken number": (HEAD + "x: !!int abc\n", "not a usable"),
    "a broken float": (HEAD + "x: !!float abc\n", "not a usable"),
    "a broken truth value": (HEAD + "x: !!bool abc\n", "not a usable"),
    "twice": (HEAD + "name: y\n", "'name' is given twice"),
    "NUL": (HEAD + "x: \0\n", "cannot be read"),
    "two documents": (HEAD + "---\n" + HEAD, "cannot be read"),
    "another version": ("%YAML 9.9\n---\n" + HEAD, "cannot be read"),
    "a list as a key": (HEAD + "? [a, b]\n: 1\n", "cannot be read"),
    "nothing": ("", "a recipe is a mapping"),
    "too long": (HEAD + "# " + "x" * 300_000, "at most"),
}


@pytest.mark.parametrize(("text", "words"), TEXTS.values(), ids=TEXTS)
def test_texts_that_were_made_to_harm(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(SecateurError, match=words) as error:
        load_recipe(tmp_path / "bad.yaml")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500
    assert "bad.yaml" in str(error.value)


def test_files_that_are_no_text_or_no_files(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe9\n")
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    (tmp_path / "folder.yaml").mkdir()
    for name, words in [
        ("latin.yaml", "not a text file"),
        ("pipe.yaml", "named pipe"),
        ("loop.yaml", "symbolic links"),
        ("folder.yaml", "a folder"),
        ("missing.yaml", "There is no recipe file"),
    ]:
        with pytest.raises(DataError, match=words):
            load_recipe(tmp_path / name)


def test_names_that_are_too_long_for_a_file(tmp_path: Path) -> None:
    with pytest.raises(SecateurError):
        load_recipe("x" * 5000)
    with pytest.raises((DataError, InputError)):
        load_recipe(str(tmp_path / ("x" * 300 + ".yaml")))
