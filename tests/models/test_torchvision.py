"""The import that works around missing operators, and only around those."""

from __future__ import annotations

import importlib
import subprocess
import sys
from types import ModuleType

import pytest

from secateur.core.errors import InputError
from secateur.models import _torchvision
from secateur.models._torchvision import import_torchvision


def test_imports_in_a_new_process() -> None:
    code = (
        "from secateur.models._torchvision import import_torchvision as i; t = i(); "
        "assert t is i(); assert t.models.resnet18().fc.out_features == 1000; print('fine')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "fine", done.stderr


def _failing(monkeypatch: pytest.MonkeyPatch, *errors: BaseException) -> list[str]:
    """Makes the import raise ``errors`` in turn, then succeed; returns the list of declared operators."""
    left, declared = list(errors), []

    def fake(name: str) -> ModuleType:
        if left:
            raise left.pop(0)
        return ModuleType(name)

    monkeypatch.setattr(importlib, "import_module", fake)
    monkeypatch.setattr(_torchvision, "_declare", declared.append)
    monkeypatch.setattr(_torchvision, "_purge", lambda: None)
    return declared


def test_declares_what_is_missing_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = [RuntimeError(f"operator torchvision::{name} does not exist") for name in ("nms", "roi_align")]
    declared = _failing(monkeypatch, *missing)
    assert import_torchvision().__name__ == "torchvision"
    assert declared == ["nms", "roi_align"]


def test_other_errors_pass_or_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = _failing(monkeypatch, RuntimeError("something else"))
    with pytest.raises(RuntimeError, match="something else"):
        import_torchvision()
    assert not declared
    _failing(monkeypatch, ModuleNotFoundError("No module named 'torchvision'", name="torchvision"))
    with pytest.raises(InputError, match=r"secateur\[zoo\]"):
        import_torchvision()
