"""The shell completes names, at once from the second time on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from secateur.cli import completion
from secateur.criteria import CRITERIA
from secateur.models import MODELS


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "secateur"


def asked(words: str) -> list[str]:
    """What bash is answered when somebody presses the tab key behind ``words``."""
    about = {"_SECATEUR_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}
    code = "from secateur.cli.main import main; main([])"
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **about}, capture_output=True, text=True,
                          check=False)  # fmt: skip
    return done.stdout.split()


def test_names_by_command_and_option() -> None:
    assert asked("secateur run trans") == ["transfer-channel"]
    assert asked("secateur recipes show thi") == ["thinet", "thinet-gap", "thinet-tiny"]
    assert {"prune", "sparsify"} <= set(asked("secateur "))


def test_names_are_those_of_the_registries_and_are_remembered(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert completion.models("") == list(MODELS)
    assert completion.criteria("bn_") == [name for name in CRITERIA if name.startswith("bn_")]
    monkeypatch.setattr(completion, "import_module", None)
    assert completion.models("resnet5") == ["resnet56", "resnet56b"]
    (cache / "names-model.json").write_text("{")
    assert completion.models("resnet5") == [], "what goes wrong is not told in the middle of a line"
    monkeypatch.undo()
    assert completion.datasets("dig") == ["digits"]


def test_pytorch_is_not_imported_for_what_is_remembered() -> None:
    completion.models("")
    code = "import sys\nfrom secateur.cli import completion\nprint(completion.models('lenet5'), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["['lenet5']", "False"], done.stderr
