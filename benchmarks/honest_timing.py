"""How often a report would claim a wrong speed: on a quiet machine and beside two busy loops, by several estimators.

    python benchmarks/honest_timing.py measure quiet --trials 20     on a quiet machine
    python benchmarks/honest_timing.py measure loops --trials 20     starts two loops of its own beside it
    python benchmarks/honest_timing.py                               the table of docs/measuring.md

A trial is what `secateur run` does: ResNet-14 for 8×8 digits, dense and cut to 40 % of the MACs, forward at batch 1, in
PyTorch and in ONNX Runtime, 30 interleaved rounds within two seconds each, every network in a process of its own, the
dense one twice. The truth is the median, over the quiet trials, of the median of ratios. All samples are kept in
results/honest_timing.json, so that estimators can be compared on the same trials.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from records import into_docs, read, table, write

import secateur
from secateur.models import create
from secateur.timing import Timing, latency
from secateur.timing.entrants import as_entrants, compared_with
from secateur.timing.timings import doubt

DOCS = Path(__file__).resolve().parents[1] / "docs/measuring.md"
WRONG = 0.1
"""A claim is wrong when it is further than this share from the truth."""

Samples = np.ndarray[Any, np.dtype[np.float64]]


def _quantile_of_pairs(share: float) -> Callable[[Samples, Samples], float]:
    def calmest(a: Samples, b: Samples) -> float:
        """The median ratio of the rounds in which both together took the least."""
        total = a / np.median(a) + b / np.median(b)
        count = max(3, math.ceil(share * len(a)))
        kept = np.argsort(total)[:count]
        return float(np.median(a[kept] / b[kept]))

    return calmest


def _quantiles(q: float) -> Callable[[Samples, Samples], float]:
    return lambda a, b: float(np.quantile(a, q) / np.quantile(b, q))


ESTIMATORS: dict[str, Callable[[Samples, Samples], float]] = {
    "median of ratios": lambda a, b: float(np.median(a / b)),
    "ratio of medians": _quantiles(0.5),
    "ratio of lower quartiles": _quantiles(0.25),
    "ratio of 10 % quantiles": _quantiles(0.1),
    "ratio of minima": _quantiles(0.0),
    "median of ratios, calmest half": _quantile_of_pairs(0.5),
    "median of ratios, calmest quarter": _quantile_of_pairs(0.25),
}


@contextmanager
def loops(count: int) -> Iterator[None]:
    """So many processes that only compute."""
    with ExitStack() as stack:
        for _ in range(count):
            process = subprocess.Popen([sys.executable, "-c", "while True: sum(range(100000))"])
            stack.callback(process.wait)
            stack.callback(process.kill)
        yield


def measure(condition: str, trials: int) -> None:
    """Runs trials and keeps all samples."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dense, x = create("resnet_digits").eval(), torch.randn(1, 1, 8, 8)
    small = secateur.prune(dense, x, macs=0.4, scope="global").model
    with tempfile.TemporaryDirectory() as folder, loops(2 if condition == "loops" else 0):
        files = {"dense.onnx": dense, "pruned.onnx": small}
        for name, model in files.items():
            secateur.export(model, x, Path(folder) / name)
        networks: dict[str, Any] = {"dense": dense, "pruned": small, **{n: Path(folder) / n for n in files}}
        entrants = compared_with("dense", as_entrants(networks, ["pytorch"]))
        for trial in range(trials):
            options: dict[str, Any] = {"batches": (1,), "backward": False, "rounds": 30, "budget_s": 4, "processes": 1}
            timings = latency(entrants, x, seed=trial, **options)
            rows = [{"condition": condition, "trial": trial, **timing.to_json()} for timing in timings]
            write("honest_timing", [*read("honest_timing"), *rows])
            print(condition, trial, [(t.runtime, doubt(t)) for t in timings if t.model == "dense"], flush=True)


def write_tables() -> None:
    """Errors of the estimators, and how often a page would have been wrong, into docs/measuring.md."""
    pairs = list(_pairs(read("honest_timing")))
    truths = {
        runtime: median(ESTIMATORS["median of ratios"](_of(d), _of(p)) for c, d, p in pairs
                        if c == "quiet" and d.runtime == runtime)
        for runtime in {d.runtime for _, d, _ in pairs}
    }  # fmt: skip
    rows, claims = [], []
    for condition in dict.fromkeys(c for c, _, _ in pairs):
        here = [(d, p) for c, d, p in pairs if c == condition]
        for name, estimate in ESTIMATORS.items():
            itself = [abs(math.log(estimate(_of(d), np.array(d.again_ms)))) for d, _ in here]
            pruned = [abs(math.log(estimate(_of(d), _of(p)) / truths[d.runtime])) for d, p in here]
            rows.append([condition, name, *(_errors(found) for found in (itself, pruned))])
        for runtime in truths:
            mine = [(d, p) for d, p in here if d.runtime == runtime]
            wrong = [abs(ESTIMATORS["median of ratios"](_of(d), _of(p)) / truths[runtime] - 1) > WRONG for d, p in mine]
            told = [not doubt(d) for d, _ in mine]
            claims.append([
                condition, runtime, f"{truths[runtime]:.2f}×", str(len(mine)), f"{sum(wrong)}",
                f"{sum(told)}", f"{sum(w and t for w, t in zip(wrong, told, strict=True))}",
            ])  # fmt: skip
    into_docs(
        DOCS, "estimators", table(["Machine", "Estimator", "dense against itself", "pruned against the truth"], rows)
    )
    head = ["Machine", "Runtime", "Truth", "Trials", "Wrong by more than 10 %, all of which were claimed before",
            "Claimed now", "… and wrong"]  # fmt: skip
    into_docs(DOCS, "claims", table(head, claims))


def _pairs(rows: Sequence[dict[str, Any]]) -> Iterator[tuple[str, Timing, Timing]]:
    """Dense and pruned of one trial in one runtime."""
    found: dict[tuple[Any, ...], dict[str, Timing]] = {}
    for row in rows:
        key = row["condition"], row["trial"], row["runtime"]
        plain = {k: v for k, v in row.items() if k not in ("condition", "trial")}
        found.setdefault(key, {})[row["model"]] = Timing.from_json(plain)
    for (condition, *_), pair in found.items():
        yield condition, pair["dense"], pair["pruned"]


def _of(timing: Timing) -> Samples:
    return np.array(timing.samples_ms)


def _errors(found: Sequence[float]) -> str:
    middle, high = np.quantile(found, [0.5, 0.95])
    return f"{100 * math.expm1(middle):.1f} % ({100 * math.expm1(high):.0f} %)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["measure"])
    parser.add_argument("condition", nargs="?", choices=["quiet", "loops"], default="quiet")
    parser.add_argument("--trials", type=int, default=20)
    given = parser.parse_args()
    if given.what:
        measure(given.condition, given.trials)
    write_tables()


if __name__ == "__main__":
    main()
