"""The README's first command, three times in new environments: MACs, measured speed, points, seconds.

    python benchmarks/first_run.py [RUN …]        RUN: folders that the README's command made (its --out)

Without folders it clones the checkout into a temporary folder, once a run, and types the README's command there word
for word. The machine should be quiet; where it was not, the run itself says so instead of a speed, and so does the row.
Writes results/first_run.json and the table in docs/quickstart.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from records import into_docs, table, write

from secateur.timing import Timing, speedups

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs/quickstart.md"
RUNS = 3


def command() -> str:
    """What the README tells a newcomer to type."""
    after = (ROOT / "README.md").read_text().partition("<!-- command: run -->")[2]
    return after.partition("```bash\n")[2].partition("```")[0].strip()


def made(folder: Path) -> Iterator[Path]:
    """Runs of the command, each in a clone with an environment of its own."""
    for k in range(RUNS):
        subprocess.run(["git", "clone", "-q", str(ROOT), str(folder / str(k))], check=True)
        subprocess.run(command(), shell=True, cwd=folder / str(k), check=True, stdout=subprocess.DEVNULL)
        yield folder / str(k) / "runs/first"


def row(run: Path) -> dict[str, Any]:
    """What a run found, from its results."""
    found = json.loads((run / "results.json").read_text())
    stages = {s["step"].partition("-")[2]: s["quality"]["top1"] for s in found["stages"] if s.get("quality")}
    dense, pruned = (network["measurement"] for network in found["networks"])
    return {
        "machine": found["machine"]["cpu"], "cores": found["machine"]["cores"], "seconds": found["duration_s"],
        "macs": [dense["macs"], pruned["macs"]], "top1": stages, "times": speeds(found["latency"]),
        "report_bytes": (run / "report.html").stat().st_size,
    }  # fmt: skip


def speeds(latency: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Lower quartile, median and upper quartile of every pass, and why not to believe them, as the page has them."""
    found = speedups([Timing.from_json(entry) for entry in latency])
    return {f"{s.runtime} {s.direction}": {"ratio": [s.ratio.q25, s.ratio.median, s.ratio.q75], "doubt": s.doubt}
            for s in found}  # fmt: skip


def page(rows: list[dict[str, Any]]) -> str:
    """The table of docs/quickstart.md."""
    head = ["run", "fewer MACs", "test accuracy: dense → cut → repaired → fine-tuned, %",
            "faster in ONNX Runtime, batch 1 (quartiles)", "seconds", "report"]  # fmt: skip
    body = []
    for number, r in enumerate(rows, 1):
        times = r["times"]["onnxruntime forward"]
        low, middle, high = times["ratio"]
        fast = times["doubt"] or f"{middle:.2f}× ({low:.2f}–{high:.2f})"
        top1 = " → ".join(f"{r['top1'][step]:.2f}" for step in ("adapt", "prune", "recover", "finetune"))
        body.append([number, f"{r['macs'][0] / r['macs'][1]:.2f}×", top1, fast, f"{r['seconds']:.0f}",
                     f"{r['report_bytes'] / 1e6:.2f} MB"])  # fmt: skip
    return table(head, body)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [row(run) for run in options.runs or made(Path(folder))]
    write("first_run", rows, command=command())
    into_docs(DOCS, "first run", page(rows))
    print(page(rows))


if __name__ == "__main__":
    main()
