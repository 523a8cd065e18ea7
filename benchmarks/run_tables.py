"""Tables and picture of docs/half-the-time.md from the folder of a finished run.

    python benchmarks/run_tables.py RUN_FOLDER

The results are kept as benchmarks/results/half_the_time.json. benchmarks/transfer_channel.py makes its tables with the
functions below.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from networks import SHARED
from records import RESULTS, into_docs, table

from secateur.report import picture

DOCS = Path(__file__).resolve().parents[1] / "docs"


ROWS = [("test top-1, %", "top1", "{:.2f}"), ("test top-5, %", "top5", "{:.2f}"), ("test loss", "loss", "{:.4f}"),
        ("seconds per image", "seconds_per_sample", "{:.5f}"), ("parameters", "params", "{:,}"),
        ("MACs per image", "macs", "{:,}"), ("bytes of weights", "weight_bytes", "{:,}"),
        ("peak memory of one forward pass, bytes", "peak_memory_bytes", "{:,}")]  # fmt: skip


def headline(results: dict[str, Any]) -> str:
    """Dense, control and pruned beside each other."""
    networks = results["networks"]
    found = [{**n["measurement"], **n["measurement"]["quality"]} for n in networks]
    body = [[label, *(_cell(one.get(key), form) for one in found)] for label, key, form in ROWS]
    return table(["", *(n["label"] for n in networks)], body)


def _cell(value: Any, form: str) -> str:
    return "–" if value is None else form.format(value)


def times(results: dict[str, Any]) -> str:
    """Median milliseconds with quartiles, dense and pruned, and the median of the ratios of the same round."""
    groups: dict[tuple[Any, ...], dict[str, list[float]]] = {}
    for t in results["latency"]:
        groups.setdefault((t["runtime"], t["direction"], t["batch"]), {})[t["model"]] = t["samples_ms"]
    body = []
    for (runtime, direction, batch), found in groups.items():
        dense, pruned = found["dense"], found["pruned"]
        ratio = median(a / b for a, b in zip(dense, pruned, strict=True))
        body.append([runtime, direction, batch, _spread(dense), _spread(pruned), f"{ratio:.2f}×"])
    return table(["runtime", "pass", "batch", "dense, ms", "pruned, ms", "speed-up"], body)


def _spread(samples: list[float]) -> str:
    low, middle, high = quantiles(samples, n=4)
    return f"{middle:.2f} ({low:.2f}–{high:.2f})"


def comparison(runs: dict[str, Any]) -> str:
    """One row a run: what was asked, what is left, accuracy of the pruned network and of the control."""
    body = []
    for name, results in runs.items():
        by = {n["role"]: {**n["measurement"], **n["measurement"]["quality"]} for n in results["networks"]}
        control = by.get("control", by["dense"])
        dense, pruned = by["dense"], by["pruned"]
        left = [f"{pruned[key] / dense[key]:.1%}" for key in ("params", "macs")]
        top1 = [f"{n['top1']:.2f}" for n in (dense, control, pruned)]
        gap, minutes = pruned["top1"] - control["top1"], results["duration_s"] / 60
        body.append([name, *left, *top1, f"{gap:+.2f}", f"{minutes:.1f}"])
    head = ["run", "parameters left", "MACs left", "dense, adapted", "control", "pruned", "difference", "minutes"]
    return table(head, body)


def stages(results: dict[str, Any]) -> str:
    """Quality after each step that changed the pruned network; the first row is the dense one."""
    found = [s for s in results["stages"] if s["role"] in ("dense", "pruned") and not s["step"].endswith("score")]
    keys = {"top1": "{:.2f}", "top5": "{:.2f}", "loss": "{:.4f}"}
    body = [
        [s["step"].partition("-")[2], *(_cell(s["quality"].get(k), form) for k, form in keys.items())] for s in found
    ]
    return table(["step", "test top-1, %", "test top-5, %", "test loss"], body)


def main(folder: str) -> None:
    results = json.loads((Path(folder) / "results.json").read_text())
    RESULTS.mkdir(exist_ok=True)
    kept = {Path(folder).name: {k: v for k, v in results.items() if k != "command"}}
    text = json.dumps(kept).replace(str(SHARED), "../shared")  # no path of this machine
    (RESULTS / "half_the_time.json").write_text(text + "\n")
    document = DOCS / "half-the-time.md"
    into_docs(document, "headline", headline(results))
    into_docs(document, "times", times(results))
    into_docs(document, "stages", stages(results))
    picture(results, DOCS / "resnet56-half-the-time.svg")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="of a finished run")
    main(parser.parse_args().folder)
