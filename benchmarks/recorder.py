"""The recorder beside torch.export: seconds, groups and free sizes, on every network of docs/coverage.md.

Run: python benchmarks/recorder.py [--only SUBSTRING] [--again]

Each network in a process of its own, one thread: both trace it once to warm up and once timed, in turn. Groups are
compared by name, size and members, in order. Rows are written as they come, so the benchmark can be stopped and started
again. Writes results/recorder.json and the table in docs/design.md.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path
from statistics import median
from typing import Any

import torch
from coverage import build, names
from records import into_docs, read, table, write

DOCS = Path(__file__).resolve().parents[1] / "docs/design.md"
LIMIT_S, LIMIT_BYTES, ROUNDS = 300, 12 << 30, 1


def one(name: str) -> dict[str, Any]:
    """Both tracers on one network."""
    from secateur.graph.flow import flow
    from secateur.graph.groups import solve
    from secateur.graph.trace import trace, without_recorder
    from secateur.graph.traced import Traced

    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    model, x = build(name)

    def by(recorder: bool) -> tuple[float, Traced]:
        start = time.perf_counter()
        if recorder:
            found = trace(model, x)
        else:
            with without_recorder():
                found = trace(model, x)
        return time.perf_counter() - start, found

    def units(found: Traced) -> list[Any]:
        items = solve(flow(found)).items
        return [(g.name, len(g), [(m.parameter, m.dim) for m in g.members]) for g in items]

    seconds: dict[bool, list[float]] = {True: [], False: []}
    kept: dict[bool, Traced] = {}
    for turn in range(ROUNDS + 1):
        for recorder in (True, False) if turn % 2 else (False, True):
            took, kept[recorder] = by(recorder)
            if turn:
                seconds[recorder].append(took)
    mine, its = kept[True], kept[False]
    return {
        "recorded": mine.recorded,
        "notes": list(mine.notes),
        "same_groups": units(mine) == units(its),
        "groups": len(units(its)),
        "free": [mine.any_batch, its.any_batch],
        "seconds": [median(seconds[True]), median(seconds[False])],
        "operators": sum(n.op == "call_function" for n in mine.nodes),
    }


def child(name: str) -> dict[str, Any]:
    """One network in a process of its own."""
    command = [sys.executable, __file__, "--one", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        return {"failed": f"more than {LIMIT_S} s"}
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        said = done.stderr.strip().splitlines()
        return {"failed": said[-1][:300] if said else f"status {done.returncode}"}
    return json.loads(lines[-1])  # type: ignore[no-any-return]


def summary(rows: dict[str, dict[str, Any]]) -> str:
    """The table for the page."""
    good = {n: r for n, r in rows.items() if "failed" not in r}
    recorded = [r for r in good.values() if r["recorded"]]
    ratios = sorted(r["seconds"][1] / r["seconds"][0] for r in recorded)
    other = [n for n, r in good.items() if not r["same_groups"]]
    fell = [f"{n} ({r['notes'][-1]})" for n, r in good.items() if not r["recorded"]]
    lines = [
        ["networks", str(len(rows))],
        ["followed by the recorder", str(len(recorded))],
        ["fell back to torch.export", "; ".join(fell) or "none"],
        ["neither", "; ".join(f"{n} ({r['failed']})" for n, r in rows.items() if "failed" in r) or "none"],
        ["groups other than through torch.export", "; ".join(other) or "none"],
        ["free batch with the recorder alone", str(sum(r["free"] == [True, False] for r in recorded))],
        ["free batch with torch.export alone", str(sum(r["free"] == [False, True] for r in recorded))],
    ]
    if ratios:
        spread = f"{median(ratios):.1f} ({ratios[0]:.1f}–{ratios[-1]:.1f})"
        lines.append(["seconds of torch.export over those of the recorder, median (least–most)", spread])
    return table(["", ""], lines)


def main() -> None:
    """Runs what is missing and writes rows and table."""
    options = argparse.ArgumentParser()
    options.add_argument("--one")
    options.add_argument("--only", default="")
    options.add_argument("--again", action="store_true")
    given = options.parse_args()
    if given.one:
        resource.setrlimit(resource.RLIMIT_DATA, (LIMIT_BYTES, LIMIT_BYTES))
        print(json.dumps(one(given.one)))
        return
    rows = {} if given.again else {row["name"]: row for row in read("recorder")}
    for name in names():
        if given.only in name and name not in rows:
            rows[name] = {"name": name, **child(name)}
            print(rows[name], flush=True)
            write("recorder", list(rows.values()), rounds=ROUNDS, threads=1)
            into_docs(DOCS, "recorder", summary(rows))


if __name__ == "__main__":
    main()
