"""The pages that teach are true: their blocks run, what they print is what they say, and the errors are the code's."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from page_blocks import DOCS, ROOT, blocks, commands, run_page
from secateur.models import import_torchvision

QUICK = {
    "run slimming": (
        "--epochs", "1", "--set", "steps.measure.budget_s=0.1", "--set", "steps.measure.rounds=1",
        "--set", "steps.measure.processes=0", "--quiet",
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import_torchvision()  # transformers imports it, and would fail the way it does
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("page", ["quickstart.md", "your-model.md", "recovering.md", "targets.md", "exporting.md", "comparing.md", "transformers.md", "index.md", "migrating.md", "concepts/label-flow.md", "concepts/units.md", "concepts/proof.md", "concepts/recovery.md", "concepts/latency-tables.md"])
def test_blocks_run(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    run_page(page, quick=QUICK)
    said = _plain(capsys.readouterr().out)
    for block in blocks(page, "text"):
        assert _plain(block.code) in said, block.code


def _plain(text: str) -> str:
    """Without the spaces at the ends of lines, which tables have."""
    return "\n".join(line.rstrip() for line in text.splitlines())


def _templates() -> Iterator[str]:
    """Every text of the source as a reader meets it: the values of an f-string are `…`."""
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_the_quoted_errors_are_those_of_the_code() -> None:
    quoted = re.findall(r"^### `(.+)`$", (DOCS / "troubleshooting.md").read_text(), re.MULTILINE)
    assert len(quoted) >= 20
    known = "\n".join(_templates())
    assert [text for text in quoted if text not in known] == []
