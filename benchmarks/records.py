"""What every benchmark writes: machine, versions, rows; and the table made of them."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from secateur.timing import machine

RESULTS = Path(__file__).resolve().parent / "results"


def write(name: str, rows: Sequence[Mapping[str, Any]], **facts: Any) -> Path:
    """Writes ``results/NAME.json`` atomically, so that a benchmark that is stopped can go on."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    record = {"machine": machine().to_json(), "versions": versions(), **facts, "rows": list(rows)}
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(record, indent=1) + "\n")
    temporary.replace(path)
    return path


def read(name: str) -> list[dict[str, Any]]:
    """Rows written so far."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text())["rows"] if path.exists() else []


def versions() -> dict[str, str]:
    """Versions of what was measured."""
    found = {}
    for name in ("secateur", "torch", "torch-pruning", "torchvision", "timm", "onnxruntime", "ultralytics"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(c) for c in line) + " |" for line in lines)


def into_docs(path: Path, marker: str, text: str) -> None:
    """Replaces what stands between ``<!-- MARKER -->`` and ``<!-- /MARKER -->`` in a page."""
    start, end = f"<!-- {marker} -->", f"<!-- /{marker} -->"
    page = path.read_text()
    before, _, rest = page.partition(start)
    _, _, after = rest.partition(end)
    path.write_text(f"{before}{start}\n\n{text}\n\n{end}{after}")
