"""`secateur doctor` on healthy and broken installations, the broken ones made up."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from secateur.cli.main import main
from secateur.doctor import Finding, examine, is_fit
from secateur.doctor.extras import Extra, extras, import_names
from secateur.doctor.imports import failed_imports

LINES = [
    "numpy>=1.26",
    "no-such.thing==1 ; python_version > '3'",
    'torchvision>=0.24; extra == "zoo"',
    "no_such_zoo; extra == 'zoo'",
    'secateur[zoo]; extra == "run"',
]


@pytest.fixture
def rooms(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of what is looked at, with nothing installed and no runtime to try."""
    module = sys.modules["secateur.doctor.examine"]
    monkeypatch.setattr(module, "extras", lambda: (Extra("", {"torch": "2"}, ()),))
    monkeypatch.setattr(module, "failed_imports", lambda names: {})
    monkeypatch.setattr(module, "installed", lambda runtime: False)
    return module


def state(findings: tuple[Finding, ...], what: str) -> str:
    (found,) = [finding for finding in findings if finding.what == what]
    return found.state


def test_extras_are_read_from_metadata() -> None:
    always, zoo = extras(LINES)
    assert (always.name, set(always.installed), always.missing) == ("", {"numpy"}, ("no-such.thing",))
    assert (zoo.name, set(zoo.installed), zoo.missing) == ("zoo", {"torchvision"}, ("no_such_zoo",))


def test_names_of_imports_are_those_of_the_distributions() -> None:
    pytest.importorskip("sklearn")
    wanted = {"scikit-learn": "sklearn", "Pillow": "PIL", "numpy": "numpy"}
    assert import_names([*wanted, "no-such-thing"]) == wanted


def test_a_package_that_takes_its_process_down_is_one_of_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {"good": "print('loud')", "raises": "raise RuntimeError('no\\nmore')", "dies": "import os; os._exit(3)",
             "leaves": "raise SystemExit(0)", "fine": ""}  # fmt: skip
    for name, text in texts.items():
        (tmp_path / f"doctored_{name}.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert failed_imports([f"doctored_{name}" for name in texts]) == {
        "doctored_raises": "RuntimeError: no",
        "doctored_dies": "its process ended with 3",
        "doctored_leaves": "SystemExit: 0",
    }


def test_what_is_installed_and_does_not_import_is_broken(rooms: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    every = (
        Extra("", {"torch": "2"}, ()),
        Extra("zoo", {"timm": "1", "torchvision": "0.2"}, ()),
        Extra("x", {}, ("y",)),
    )
    monkeypatch.setattr(rooms, "extras", lambda: every)
    monkeypatch.setattr(rooms, "failed_imports", lambda names: {"timm": "ImportError: no libz"})
    found = examine()
    assert not is_fit(found)
    assert (state(found, "required packages"), state(found, "extra zoo")) == ("ok", "broken")
    (zoo,) = [finding for finding in found if finding.what == "extra zoo"]
    assert zoo.said == "timm 1 does not import: ImportError: no libz"
    (missing,) = [finding for finding in found if finding.state == "missing"]
    assert (missing.what, missing.said) == ("extra x", "not installed: y")
    assert missing.fix.startswith("pip install torch==")
    assert missing.fix.endswith('"secateur[x]"')


def test_torchvision_without_its_operators_is_a_note(rooms: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchvision")
    said = "RuntimeError: operator torchvision::nms does not exist"
    monkeypatch.setattr(
        rooms, "extras", lambda: (Extra("", {"torch": "2"}, ()), Extra("zoo", {"torchvision": "0.2"}, ()))
    )
    monkeypatch.setattr(rooms, "failed_imports", lambda names: {"torchvision": said})

    class Vision:
        class ops:
            @staticmethod
            def nms(*_: Any) -> Any:
                raise RuntimeError("Couldn't load custom C++ ops. This can happen if")

    monkeypatch.setattr(rooms, "import_torchvision", lambda: Vision)
    found = examine()
    assert is_fit(found)
    assert (state(found, "extra zoo"), state(found, "operators of torchvision")) == ("ok", "note")


def test_what_is_always_needed_and_missing_is_broken(rooms: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "extras", lambda: (Extra("", {}, ("scipy",)),))
    assert state(examine(), "required packages") == "broken"
    monkeypatch.setattr(rooms, "extras", lambda: ())
    assert state(examine(), "packages") == "note"


def test_a_runtime_that_computes_something_else_is_broken(rooms: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")

    def fails(name: str, runtime: Any) -> None:
        raise OSError("no\nlibrary")

    monkeypatch.setattr(rooms, "installed", lambda runtime: runtime.name == "onnxruntime")
    assert state(examine(), "runtime onnxruntime") == "ok"
    monkeypatch.setattr(rooms, "check_runtime", fails)
    found = examine()
    assert state(found, "runtime onnxruntime") == "broken"
    assert not is_fit(found)


def test_folders_disk_threads_and_load(rooms: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", full)
    monkeypatch.setattr(os, "getloadavg", lambda: (100.0, 0.0, 0.0))
    monkeypatch.setattr(rooms.shutil, "disk_usage", lambda place: type("Usage", (), {"free": 10**9})())
    monkeypatch.setattr(rooms.torch, "get_num_threads", lambda: 1000)
    found = examine()
    assert state(found, "temporary folder") == "broken"
    assert [state(found, what) for what in ("load", "threads", "disk of the working folder")] == ["note"] * 3


def test_the_command_ends_with_one_where_something_is_broken(
    rooms: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rooms, "failed_imports", lambda names: {"torch": "ImportError: no libtorch"})
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--json"])
    assert ended.value.code == 1
    said = json.loads(capsys.readouterr().out)
    assert said["fit"] is False
    assert {"what": "required packages", "state": "broken", "said": "torch 2 does not import: ImportError: no libtorch",
            "fix": "pip install --force-reinstall --no-deps torch"} in said["findings"]  # fmt: skip
    monkeypatch.setattr(rooms, "failed_imports", lambda names: {})
    with pytest.raises(SystemExit) as ended:
        main(["doctor"])
    assert not ended.value.code
    assert "All that is installed works." in capsys.readouterr().out


@pytest.mark.slow
def test_this_installation_is_fit() -> None:
    found = examine()
    assert is_fit(found), [finding for finding in found if finding.state == "broken"]
    assert state(found, "PyTorch") == "ok"
