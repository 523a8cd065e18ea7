"""What one channel past a multiple of 4, 8, 16 or 32 costs in every runtime: where its steps lie.

Run: python benchmarks/width_steps.py [--runtimes onnxruntime litert …] [--seconds 6]

A 3×3 convolution of 128 inputs at 28×28 with batch norm and ReLU, one image, one thread, at ten widths of its output;
three such layers side by side, as the latency tables measure them; all widths in shuffled rounds. Per pair, the median
over the rounds of time(w + 1) / time(w) and its quartiles. A width that is no step costs 1/w more (about 1 %).
Finished runtimes are kept in results/width_steps.json; docs/runtimes.md gets the table.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from records import into_docs, read, table, write

from secateur.budget.latency.layers import Layer
from secateur.budget.latency.store import Setting
from secateur.budget.latency.table import open_layer
from secateur.runtimes import RUNTIMES, installed
from secateur.timing.rounds import no_gc, rounds, thread_count, timed

DOCS = Path(__file__).resolve().parents[1] / "docs/runtimes.md"
LAYER = Layer("conv", (28, 28), (3, 3), (1, 1), (1, 1), (1, 1), followers=("batch_norm", "relu"))
INNER, COPIES = 128, 3
PAIRS = {"4": 100, "8": 104, "16": 112, "32": 96, "128": 128}
"""Widths by the largest power of two that they are a multiple of; each is compared with one more."""


def measured(runtime: str, seconds: float) -> dict[str, Any]:
    """Ratios of one runtime."""
    setting = Setting(runtime)
    widths = [w + more for w in PAIRS.values() for more in (0, 1)]
    with tempfile.TemporaryDirectory() as folder, thread_count(1), no_gc():
        calls = {str(w): timed(open_layer(setting, LAYER, w, INNER, Path(folder), COPIES)) for w in widths}
        _, samples = rounds(calls, budget_s=seconds, rounds=40, warmup=3)
    ratios = {}
    for multiple, w in PAIRS.items():
        pairs = zip(samples[str(w + 1)], samples[str(w)], strict=True)
        low, middle, high = statistics.quantiles((b / a for b, a in pairs), n=4)
        ratios[multiple] = {"median": middle, "q25": low, "q75": high}
    milliseconds = {w: 1e3 * statistics.median(v) / COPIES for w, v in samples.items()}
    return {"runtime": runtime, "version": RUNTIMES[runtime].version(), "ratios": ratios, "ms": milliseconds}


def document(rows: list[dict[str, Any]]) -> None:
    """One line per runtime."""
    head = ["Runtime", *(f"{w} → {w + 1} (multiple of {m})" for m, w in PAIRS.items()), "Step"]
    lines = [[row["version"], *map(_more, row["ratios"].values()), RUNTIMES[row["runtime"]].step] for row in rows]
    into_docs(DOCS, "steps", table(head, lines))


def _more(ratio: dict[str, float]) -> str:
    middle, low, high = (f"{100 * (ratio[key] - 1):+.0f}".replace("-0", "+0") for key in ("median", "q25", "q75"))
    return f"{middle} % ({low} … {high})"


def main() -> None:
    """Measures what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runtimes", nargs="*")
    parser.add_argument("--seconds", type=float, default=6.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = read("width_steps")
    for runtime in options.runtimes or [
        r for r in RUNTIMES if installed(RUNTIMES[r]) and not RUNTIMES[r].slow_to_start
    ]:
        if any(row["runtime"] == runtime for row in rows):
            continue
        rows.append(measured(runtime, options.seconds))
        write("width_steps", rows, threads=1, layer=LAYER.key, inner=INNER)
        print(runtime, {m: round(r["median"], 3) for m, r in rows[-1]["ratios"].items()}, flush=True)
    if DOCS.exists():
        document(rows)


if __name__ == "__main__":
    main()
