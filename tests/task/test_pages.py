"""The blocks of docs/tasks.md and docs/series-sound-tables.md run as they stand there, and the pages say what is so."""

from __future__ import annotations

from pathlib import Path

import pytest

from page_blocks import DOCS, blocks, run_page
from secateur.task import TASKS


@pytest.mark.parametrize(("page", "said"), [("tasks.md", "'close'"), ("series-sound-tables.md", "predicts price")])
def test_their_blocks_run(
    page: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert all(len(block.code.splitlines()) <= 40 for block in blocks(page, "python"))
    run_page(page, ("python",))
    assert said in capsys.readouterr().out


def test_every_task_is_listed_with_its_defaults() -> None:
    page = (DOCS / "tasks.md").read_text()
    for name in TASKS:
        assert f"| `{name}` |" in page
        assert not TASKS[name].model or f"`{TASKS[name].model}` |" in page
