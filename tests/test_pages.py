"""The pages that teach are true: their blocks run, what they print is what they say, and the errors are the code's."""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

import secateur
from page_blocks import DOCS, ROOT, blocks, commands, run_command, run_page
from page_setups import FRESH, SETUPS
from secateur.models import import_torchvision

_SHORT = (
    "--epochs", "1", "--set", "steps.measure.budget_s=0.1", "--set", "steps.measure.rounds=1",
    "--set", "steps.measure.processes=0", "--quiet",
)  # fmt: skip
QUICK = {"run slimming": _SHORT, "run quickstart": _SHORT}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import_torchvision()  # transformers imports it, and would fail the way it does
    monkeypatch.chdir(tmp_path)
    source = str(ROOT / "src")  # for the processes of a comparison, wherever they start
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (source, os.environ.get("PYTHONPATH", "")))))
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path / "cache"))


SECONDS = ("index.md", "your-model.md", "migrating.md")
CONCEPTS = tuple(f"concepts/{name}.md" for name in ("label-flow", "units", "proof", "recovery", "latency-tables"))
MORE_THAN_TEN_SECONDS = (
    "quickstart.md", "targets.md", "recovering.md", "exporting.md", "comparing.md", "transformers.md",
)  # fmt: skip


@pytest.mark.parametrize(
    "page", [*SECONDS, *CONCEPTS, *(pytest.param(page, marks=pytest.mark.slow) for page in MORE_THAN_TEN_SECONDS)]
)
def test_blocks_run(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    if page == "transformers.md":
        pytest.importorskip("transformers")
    run_page(page, quick=QUICK, setup=SETUPS.get(page, ""))
    said = _plain(capsys.readouterr().out)
    for block in blocks(page, "text"):
        assert _plain(block.code) in said, block.code


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in SETUPS if page not in (*FRESH, *MORE_THAN_TEN_SECONDS)])
def test_blocks_run_on_what_the_page_takes_for_granted(page: str) -> None:
    if page in ("alive.md", "layer-pruning.md"):
        pytest.importorskip("transformers")
    run_page(page, ("python",), setup=SETUPS[page])


@pytest.mark.slow
def test_blocks_that_register_something_run_in_a_process_of_their_own() -> None:
    code = "import sys; from page_blocks import run_page; from page_setups import FRESH, SETUPS\n"
    code += "for page in FRESH: run_page(page, ('python',), setup=SETUPS[page])"
    paths = os.pathsep.join((str(ROOT / "tests"), os.environ["PYTHONPATH"]))
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_every_page_with_python_is_run_by_some_test() -> None:
    elsewhere = {"detection.md", "ecosystem.md", "series-sound-tables.md", "tasks.md"}  # beside what they are about
    known = {*SECONDS, *CONCEPTS, *MORE_THAN_TEN_SECONDS, *SETUPS, *elsewhere}
    found = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert {page for page in found if blocks(page, "python")} <= known


def test_the_shell_of_all_pages_names_options_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    wanted: dict[str, set[str]] = {}
    for path in DOCS.rglob("*.md"):
        for block in blocks(path.relative_to(DOCS).as_posix()):
            for command, *words in commands(block) if block.kind in ("bash", "sh", "") else ():
                wanted.setdefault(command, set()).update(w for w in words if w.startswith("--"))
    assert {"run", "prune", "export", "measure", "compare"} <= set(wanted)
    for command, options in wanted.items():
        if command not in ("recipes", "criteria", "--help"):  # these two have commands of their own
            run_command([command, "--help"])
            known = set(re.findall(r"--[a-z0-9-]+", capsys.readouterr().out))
            assert options <= known, command


def test_the_python_of_the_readme_runs() -> None:
    run_page("../README.md", kinds=("python",))
    assert Path("small.onnx").is_file()


def test_the_shell_of_the_readme_names_options_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line for block in blocks("../README.md", "bash") for line in commands(block)]
    assert len(lines) >= 5
    for command, *words in lines:
        run_command([command, "--help"])
        known = set(re.findall(r"--[a-z0-9-]+", capsys.readouterr().out))
        assert {word for word in words if word.startswith("--")} <= known, command


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


def test_the_entries_of_the_reference_are_all_that_is_public() -> None:
    entries = re.findall(
        r"^::: (\S+)$", "\n".join(page.read_text() for page in (DOCS / "api").glob("*.md")), re.MULTILINE
    )
    assert len(entries) == len(set(entries))
    modules = {"criteria", "data", "models"}  # their names have entries of their own
    assert {f"secateur.{name}" for name in secateur.__all__ if name not in modules} <= set(entries)
    for entry in entries:
        home, _, name = entry.rpartition(".")
        found = getattr(importlib.import_module(home), name, None) or importlib.import_module(entry)
        assert found.__doc__, entry


def test_every_page_has_its_place_in_the_site() -> None:
    nav = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2]
    named = set(re.findall(r"([\w/-]+\.md)$", nav, re.MULTILINE))
    made = {"contributing.md", "changelog.md"}
    assert named - made == {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}


def test_drawings_say_what_they_show_and_fit_any_scheme() -> None:
    for path in sorted((DOCS / "concepts").glob("*.svg")):
        drawing = ElementTree.parse(path).getroot()
        assert drawing.get("class") == "fig"
        assert drawing.find("{http://www.w3.org/2000/svg}title") is not None
        text = path.read_text()
        assert "prefers-color-scheme: dark" in text
        assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
        page = path.with_suffix(".md").read_text()
        assert re.search(rf"^!\[.{{40,}}\]\({path.name}\)$", page, re.MULTILINE)
