from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from secateur.core.errors import InputError
from secateur.report import Results, picture

SVG = "{http://www.w3.org/2000/svg}"


def drawing(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    root = ET.fromstring(path.read_text(encoding="utf-8"))
    texts = ["".join(node.itertext()) for node in root.iter(f"{SVG}text")]
    return texts, [dict(node.attrib) for node in root.iter(f"{SVG}rect")]


def test_bars_are_as_long_as_what_they_show(results: Results, tmp_path: Path) -> None:
    texts, boxes = drawing(picture(results, tmp_path / "a.svg"))
    assert {"1.00 M", "500 k", "2.00× smaller", "2.50× less work", "1.50× as fast", "−0.50 points"} <= set(texts)
    bars = [float(box["width"]) for box in boxes[3:]]  # after the page and the two keys
    shares = [pruned / dense for dense, pruned in zip(bars[::2], bars[1::2], strict=True)]
    assert shares == pytest.approx([0.5, 0.4, 4 / 6, 89.5 / 90], abs=1e-3)


def test_everything_lies_inside(results: Results, tmp_path: Path) -> None:
    path = picture(results, tmp_path / "a.svg")
    size = re.search(r'viewBox="0 0 (\d+) (\d+)"', path.read_text(encoding="utf-8"))
    assert size is not None
    width, height = float(size[1]), float(size[2])
    for box in drawing(path)[1]:
        assert float(box["x"]) + float(box["width"]) <= width
        assert float(box["y"]) + float(box["height"]) <= height


def test_names_are_escaped(results: Results, tmp_path: Path) -> None:
    evil = results.model_copy(update={"model": "<script>alert(1)</script>&"})
    path = picture(evil, tmp_path / "a.svg")
    assert "<script>" not in path.read_text(encoding="utf-8")
    assert any("<script>alert(1)</script>&" in text for text in drawing(path)[0])


def test_png_is_twice_as_large(results: Results, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    with image.open(picture(results, tmp_path / "a.png")) as opened:
        assert opened.format == "PNG"
        assert opened.width == 2 * 760
        colours = {colour for _, colour in opened.getcolors(maxcolors=1 << 20)}
    assert (0x15, 0x80, 0x3D) in colours  # the pruned bars


def test_nothing_to_draw(results: Results, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to draw"):
        picture({}, tmp_path / "a.svg")
    with pytest.raises(InputError, match=r"as \.svg or \.png; got '.*a\.gif'"):
        picture(results, tmp_path / "a.gif")
    assert not list(tmp_path.iterdir())
