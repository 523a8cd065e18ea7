"""Old names say the new ones."""

from __future__ import annotations

import importlib

import pytest

import secateur
from secateur.core.moved import MOVED


@pytest.mark.parametrize("name", sorted(MOVED))
def test_an_old_name_says_where_it_went(name: str) -> None:
    with pytest.raises(AttributeError, match="has moved: it is"):
        getattr(secateur, name)
    with pytest.raises(ModuleNotFoundError, match="has moved: it is in"):
        importlib.import_module(f"secateur.{name}.anything")
    with pytest.raises(ImportError, match=r"moved|cannot import name"):
        exec(f"from secateur import {name}", {})


def test_the_sentence_comes_through() -> None:
    with pytest.raises(ImportError, match=r"secateur\.errors has moved: it is in secateur\.core\.errors"):
        from secateur.errors import SecateurError  # noqa: F401
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'secateur\.nothing'"):
        importlib.import_module("secateur.nothing")


def test_a_function_stays_one_when_it_is_used_twice() -> None:
    for name in secateur.__all__:
        first, second = getattr(secateur, name), getattr(secateur, name)
        assert first is second, name
    assert callable(secateur.export)
    assert callable(secateur.sparsify)
