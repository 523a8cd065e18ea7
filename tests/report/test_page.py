from __future__ import annotations

import builtins
import errno
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jinja2")
pytest.importorskip("jinja2")

from secateur.core.errors import InputError
from secateur.report import Network, Pinned, Results, write_report


class Page(HTMLParser):
    """Sections, tags and visible text of a page, and whether its tags are balanced."""

    VOID = frozenset({"meta", "link", "br", "img"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    @property
    def ids(self) -> set[str | None]:
        return {attributes["id"] for _, attributes in self.tags if "id" in attributes}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.text += data


SECTIONS = {"comparison", "curves", "blocks", "layers", "latency", "exports", "pinned", "reproduce"}


def read(path: Path) -> tuple[str, Page]:
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    return text, page


def test_whole_report(results: Results, tmp_path: Path) -> None:
    text, page = read(write_report(results.model_dump(mode="json"), tmp_path / "report.html"))
    assert page.ids >= SECTIONS
    for shown in (
        "Pruning resnet56 on digits",
        "compression ratio 2.00×",
        "1,000,000",
        "A processor",
        "A note.",
        "digits: 100 images",
    ):
        assert shown in page.text
    assert "FLOPs = 2 × MACs" in page.text
    assert "secateur run transfer-channel --out runs/first" in page.text
    figures = re.search(r'<script type="application/json" id="figures">(.*?)</script>', text, re.DOTALL)
    assert figures is not None
    assert set(json.loads(figures[1])) == {"metric", "loss", "times"}
    assert len(text.encode()) < 1_500_000
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]


def test_nothing_is_loaded(results: Results, tmp_path: Path) -> None:
    text, page = read(write_report(results, tmp_path / "report.html"))
    assert "default-src 'none'" in text
    for tag, attributes in page.tags:
        assert tag not in {"link", "iframe", "img", "object", "embed"}
        assert "src" not in attributes
        assert "href" not in attributes
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]


def test_empty_report_has_no_sections_and_no_plotly(tmp_path: Path) -> None:
    text, page = read(write_report({}, tmp_path / "report.html"))
    assert not page.ids & SECTIONS
    assert "Pruning report" in page.text
    assert len(text) < 20_000


@pytest.mark.parametrize("part", sorted(set(Results.model_fields) - {"seeds"}))
def test_any_part_may_be_missing(results: Results, tmp_path: Path, part: str) -> None:
    without = Results.model_validate({**results.__dict__, part: Results.model_fields[part].get_default()})
    _, page = read(write_report(without, tmp_path / "report.html"))
    section = {"networks": "comparison", "recipe_yaml": "", "command": ""}.get(part, part)
    assert section not in page.ids or section == "pinned"  # unsupported operators are shown there too


def test_everything_is_escaped(results: Results, tmp_path: Path) -> None:
    evil = "</script><script>alert('x')</script><img src=x onerror=alert(1)>&{{ 7 * 7 }}"
    data = results.model_dump(mode="json")

    def poison(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: poison(entry, name) for name, entry in value.items()}
        if isinstance(value, list):
            return [poison(entry, key) for entry in value]
        keep = {"role", "direction", "runtime", "model", "better", "format"} if key != "" else set()
        return evil if isinstance(value, str) and key not in keep else value

    poisoned = poison(data)
    poisoned["seeds"] = {evil: 1}
    poisoned["model"] = evil
    poisoned["machine"]["versions"] = {evil: evil}
    for entry in poisoned["latency"]:
        entry["model"] += evil
    text, page = read(write_report(poisoned, tmp_path / "report.html"))
    scripts = [attributes for tag, attributes in page.tags if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "figures"}, {}, {}]
    assert all(tag != "img" for tag, _ in page.tags)
    assert "{{ 7 * 7 }}" in page.text  # shown as it is, not evaluated
    assert "<script>alert" not in text


def test_bad_results_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"blocks\.0\.before"):
        write_report({"blocks": [{"block": "a", "before": -1, "after": 0}]}, tmp_path / "r.html")
    with pytest.raises(InputError, match="colour: Extra inputs are not permitted"):
        write_report({"colour": "red"}, tmp_path / "r.html")
    assert not list(tmp_path.iterdir())


def test_full_disk_keeps_the_old_report(results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")

    def full(self: Path, content: bytes) -> int:
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        write_report(results, path)
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_missing_package_names_the_install_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "jinja2":
            raise ImportError(name, name=name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r'needs jinja2: pip install "secateur\[report\]"'):
        write_report({}, tmp_path / "report.html")


def test_results_come_back_from_json(results: Results) -> None:
    assert Results.model_validate(json.loads(results.model_dump_json())) == results


def test_roles_find_networks() -> None:
    results = Results(networks=(Network(label="a"), Network(label="b", role="pruned")))
    assert results.network("pruned") == results.networks[1]
    assert results.network("dense") is None
    assert Pinned(layer="a", reason="b") == Pinned(layer="a", reason="b")
