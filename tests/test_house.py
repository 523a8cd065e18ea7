"""The house keeps its shape: few rooms, no circles, imports at the top, short lists of arguments."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def house() -> ModuleType:
    spec = importlib.util.spec_from_file_location("house_of_secateur", ROOT / "benchmarks/house.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_no_room_reaches_itself(house: ModuleType) -> None:
    assert house.circles(house.read(ROOT / "src")) == []


def test_rooms_imports_and_arguments_stay_within_what_was_agreed(house: ModuleType) -> None:
    found = house.read(ROOT / "src")
    assert len(set(found.rooms.values()) - {""}) <= 26
    assert found.inner <= 40, "import own modules at the top; the command line has Lazy for what needs PyTorch"
    assert house.longest(found)["more_than_12_arguments"] == ["secateur.cut.prune.prune"]


def test_circles_are_found(house: ModuleType, tmp_path: Path) -> None:
    files = {
        "a/x": "from secateur.b import y",
        "b/y": "def f():\n    import secateur.c.z",
        "c/z": "import os",
        "d/w": "from secateur.a.x import y",
    }
    for name, text in files.items():
        path = tmp_path / f"secateur/{name}.py"
        path.parent.mkdir(parents=True)
        path.write_text(text)
        (path.parent / "__init__.py").touch()
    (tmp_path / "secateur/__init__.py").touch()
    assert house.circles(house.read(tmp_path)) == []
    back = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import secateur.a.x"
    (tmp_path / "secateur/c/z.py").write_text(back)
    found = house.read(tmp_path)
    assert house.circles(found) == [["a", "b", "c"]]
    assert found.inner == 1
