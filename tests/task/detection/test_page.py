"""The blocks of docs/detection.md run as they stand there, and the page says what is so."""

from __future__ import annotations

import json
import tarfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from box_files import voc
from page_blocks import blocks, run_page
from secateur.models import create

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs/detection.md"

ROWS = {
    "train": {
        "a": [("red", (0, 0, 64, 40)), ("white", (8, 4, 24, 12)), ("red", (30, 5, 40, 30)), ("red", (2, 2, 9, 9))],
        "b": [("white", (1, 2, 31, 30)), ("white", (4, 6, 19, 28)), ("red", (10, 10, 30, 17))],
    },
    "val": {"c": [("red", (3, 4, 20, 25))]},
    "test": {"d": [("white", (40, 0, 80, 16))]},
}


@pytest.mark.skipif(
    any(find_spec(name) is None for name in ("torchmetrics", "faster_coco_eval", "onnxruntime")),
    reason='the extra is not installed: pip install "secateur[onnx,detection]"',
)
def test_its_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with tarfile.open(tmp_path / "cells.tar", "w") as out:
        out.add(voc(tmp_path / "cells", ROWS), "cells")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path / "cache"))
    assert len(blocks("detection.md", "python")) == 7
    run_page("detection.md", ("python",))
    said = capsys.readouterr().out
    assert "BoxSplit(2 images, 7 boxes)" in said
    assert {"small.cfg", "small.weights", "detector.onnx"} <= {path.name for path in tmp_path.iterdir()}


def test_its_counts() -> None:
    page = PAGE.read_text()
    for name in ("yolov3_tiny", "mini_yolov3"):
        count = sum(p.numel() for p in create(name).parameters())
        assert f"| `{name}` | {count:,} |" in page


def test_its_toy_is_the_record() -> None:
    records = json.loads((ROOT / "benchmarks/results/detection_toy.json").read_text())
    page = PAGE.read_text().partition("<!-- toy -->")[2].splitlines()
    bccd, digits = records["bccd-voc"], records["digits"]
    rows = [
        [f"{r['steps']} ({len(r['losses'])})" for r in (bccd, digits)],
        [f"{r['losses'][0]:.2f}, {r['losses'][-1]:.2f}" for r in (bccd, digits)],
        *([f"{100 * r[when]['map50']:.1f} %" for r in (bccd, digits)] for when in ("before", "after")),
    ]
    for row in rows:
        assert any(line.endswith(f"| {row[0]} | {row[1]} |") for line in page), row


def test_its_fastestdet_is_the_record() -> None:
    record = json.loads((ROOT / "benchmarks/results/fastestdet.json").read_text())
    lines = PAGE.read_text().partition("<!-- fastestdet -->")[2].partition("<!-- /fastestdet -->")[0].splitlines()
    assert f"| {100 * record['dense']['map50']:.1f} |" in lines[4]
    ways: dict[tuple[str, ...], list[float]] = {}
    for row in record["rows"]:
        way = (f"{row['tool']}, {row['criterion']}, {row['scope']}", row["blocks"], row["repair"].replace("_", " "))
        ways.setdefault((*way, f"{row['target']:.0%}"), []).append(row["map50"])
    found = {tuple(cells[:4]): cells for line in lines[5:] if len(cells := line.strip("| ").split(" | ")) == 8}
    assert found.keys() == ways.keys()
    for way, scores in ways.items():
        assert found[way][6].startswith(f"{sum(scores) / len(scores):.1f}")
        assert found[way][7] == str(len(scores))
