"""The blocks of docs/tasks.md and docs/series-sound-tables.md run as they stand there, and the pages say what is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from secateur.task import TASKS

DOCS = Path(__file__).resolve().parents[2] / "docs"


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


@pytest.mark.parametrize(("page", "said"), [("tasks.md", "'close'"), ("series-sound-tables.md", "predicts price")])
def test_their_blocks_run(
    page: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    space: dict[str, object] = {"__name__": "page"}
    for number, block in enumerate(blocks(page)):
        assert len(block.splitlines()) <= 40
        exec(compile(block, f"docs/{page}, block {number}", "exec"), space)
    assert said in capsys.readouterr().out


def test_every_task_is_listed_with_its_defaults() -> None:
    page = (DOCS / "tasks.md").read_text()
    for name in TASKS:
        assert f"| `{name}` |" in page
        assert not TASKS[name].model or f"`{TASKS[name].model}` |" in page
