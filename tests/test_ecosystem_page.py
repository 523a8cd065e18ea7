"""The blocks of docs/ecosystem.md run as they stand there; those that need a library where it is installed."""

from __future__ import annotations

import contextlib
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from secateur.core.errors import InputError
from secateur.loggers import LOGGERS
from secateur.models import import_torchvision

PAGE = Path(__file__).resolve().parents[1] / "docs/ecosystem.md"
BLOCK = re.compile(r"(?:<!-- needs: ([\w ]+) -->\n)?```python\n(.*?)```", re.DOTALL)


@pytest.mark.filterwarnings("ignore")
def test_its_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    with contextlib.suppress(InputError):
        import_torchvision()  # where its operators are not compiled, Lightning does not import without this
    space: dict[str, object] = {"__name__": "page"}
    ran = []
    try:
        for needs, block in BLOCK.findall(PAGE.read_text()):
            if all(find_spec(name) is not None for name in needs.split()):
                exec(compile(block, f"docs/ecosystem.md: {block[:40]}", "exec"), space)
                ran.append(needs)
    finally:
        with contextlib.suppress(KeyError):
            LOGGERS.remove("printed")
    said = capsys.readouterr().out
    assert ran.count("") == 4
    assert re.search(r"net 1: loss \d.*net 2: loss \d.*complete", said, re.DOTALL)
    assert "8 2\n" in said, "the loop of one's own cut twice, to half"
    assert "transformers accelerate" not in ran or "\n16\n" in said
    assert (tmp_path / "small/README.md").is_file()


def test_every_logger_is_listed() -> None:
    text = PAGE.read_text()
    for name in ("tensorboard", "mlflow", "wandb"):
        assert name in LOGGERS
        assert f"| `{name}` |" in text
