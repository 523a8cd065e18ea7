"""All numbers of a run that have to be the same when it is done again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from secateur.core.files import read_json

__all__ = ["differences", "numbers"]

# What a clock says, and what is named after the folder or the moment of the run.
_CLOCK = frozenset(
    {
        "command",
        "created",
        "duration_s",
        "samples_per_second",
        "latency",
        "ms",
        "notes",
        "seconds",
        "seconds_per_sample",
        "speedup",
        "test_seconds_per_sample",
    }
)


def numbers(folder: str | Path) -> dict[str, Any]:
    """Collects the metrics, the results and digests of the weights of a finished run, timings left out.

    Two runs of the same recipe on the same machine with as many threads give equal numbers, and so does a run
    that was stopped and gone on with.
    """
    folder = Path(folder)
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    weights = [*folder.glob("steps/*/model.safetensors"), *folder.glob("artifact/model.safetensors")]
    return {
        "metrics": [_without_clock(json.loads(line)) for line in lines],
        "results": _without_clock(read_json(folder / "results.json")),
        "plan": read_json(folder / "artifact" / "plan.json") if (folder / "artifact").exists() else None,
        "weights": {str(p.relative_to(folder)): _digest(p) for p in sorted(weights)},
    }


def differences(one: Any, other: Any, place: str = "") -> list[str]:
    """Names the places in which two results of :func:`numbers` differ.

    >>> differences({"a": [1, 2]}, {"a": [1, 3]})
    ['a.1: 2 / 3']
    """
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        pairs = [(key, one.get(key), other.get(key)) for key in {**one, **other}]
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = [(index, a, b) for index, (a, b) in enumerate(zip(one, other, strict=True))]
    else:
        return [] if one == other else [f"{place}: {one!r:.80} / {other!r:.80}"]
    return [d for key, a, b in pairs for d in differences(a, b, f"{place}.{key}".lstrip("."))]


def _without_clock(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_clock(inner) for key, inner in value.items() if key not in _CLOCK}
    return [_without_clock(inner) for inner in value] if isinstance(value, list) else value


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
