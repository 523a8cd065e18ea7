"""What .ci/check_site.py finds in a built site, and what the hooks make of pages, drawings and docstrings."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

CI = Path(__file__).resolve().parents[1] / ".ci"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, CI / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def test_bad_links_and_what_is_loaded_from_elsewhere_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "index.html").write_text(
        '<h1 id="top">A</h1><a href="sub/b.html#here">good</a><a href="#top">good</a><a href="https://x.org">good</a>'
        '<a href="gone.html">bad</a><a href="sub/b.html#nowhere">bad</a>'
        '<script src="https://cdn.org/x.js"></script><img src="gone.png">'
    )
    (tmp_path / "sub/b.html").write_text('<h2 id="here">B</h2><a href="../index.html">good</a>')
    (tmp_path / "404.html").write_text('<a href="/sub/b.html">good</a>')
    check = script("check_site")
    assert check.main([str(tmp_path)]) == 1
    said = capsys.readouterr().out
    for fault in (
        "gone.html, which is not there",
        "gone.png, which is not there",
        "no such anchor",
        "cdn.org/x.js from",
    ):
        assert fault in said
    assert "7 links inside the site, 4 faults; 2 links lead elsewhere" in said
    (tmp_path / "index.html").write_text("<p>nothing</p>")
    assert check.main([str(tmp_path)]) == 0
    assert check.main([str(tmp_path / "gone")]) == 2


def test_roles_become_links_and_doctests_blocks() -> None:
    pytest.importorskip("griffe")
    roles = script("docstring_roles")
    known = {"secateur.prune": "secateur.prune", "prune": "secateur.prune"}
    assert roles.linked("see :func:`secateur.prune`", known) == "see [`secateur.prune`][secateur.prune]"
    assert roles.linked("see :func:`~secateur.cut.prune.prune`", known) == "see [`prune`][secateur.prune]"
    assert roles.linked("see :class:`Unknown`", known) == "see `Unknown`"
    assert roles.fenced("A.\n\n>>> f()\n[1]\n\nB.") == "A.\n\n```pycon\n>>> f()\n[1]\n```\n\nB."


def test_drawings_stand_in_their_page(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    from types import SimpleNamespace

    hooks = script("site_hooks")
    (tmp_path / "a.svg").write_text('<?xml version="1.0"?><svg class="fig"></svg>')
    (tmp_path / "b.svg").write_text("<svg></svg>")
    page, config = SimpleNamespace(file=SimpleNamespace(src_uri="p.md")), SimpleNamespace(docs_dir=str(tmp_path))
    pictures = '<p><img alt="An A" src="a.svg" /></p><p><img alt="A B" src="b.svg" /></p>'
    made = hooks.on_page_content(pictures, page, config, None)
    assert made == (
        '<div class="figure"><svg role="img" aria-label="An A" class="fig"></svg></div>'
        '<p><img alt="A B" src="b.svg" /></p>'
    )
    text = "[a](../examples/plugins) [b](../examples/x.py) [c](../CONTRIBUTING.md#style)"
    assert hooks.on_page_markdown(text, page, config, None) == (
        "[a](examples.md) [b](examples/x.py) [c](contributing.md#style)"
    )
