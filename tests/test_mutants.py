"""One network of the benchmark that plants mistakes: the right cut is proven, what shows is caught."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks/mutants.py"


def rows(network: str, variant: str) -> list[dict[str, Any]]:
    command = [sys.executable, str(SCRIPT), "--child", network, "--variant", variant]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()][1:]


def test_planted_mistakes_are_caught() -> None:
    graph, module = rows("gates", "settled")
    assert graph["right"] == module["right"] == "proven"
    assert graph["shown"]  # by zeros in the dense network, which the judge relies on
    for row in (graph, module):
        kinds = {kind: dict(part.split() for part in words.split(", ")) for kind, words in row["kinds"].items()}
        for kind in ("removed index instead of a kept one", "kept indices moved by one"):
            assert kinds[kind]["counting"] == kinds[kind]["caught"] == kinds[kind]["planted"]
        assert sum(int(k["planted"]) for k in kinds.values()) >= 15
