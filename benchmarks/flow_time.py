"""Seconds of a trace and of a whole cut beside Torch-Pruning's, network by network, in turn.

Run: python benchmarks/flow_time.py [--only SUBSTRING] [--rounds 3] [--again] [--table]

The networks of docs/coverage.md that both tools cut. Each in a process of its own, one thread: after a round that warms
up, the contenders take turns in shuffled rounds, so what else the machine does falls on all of them. The figure of a
network is the median of the ratios of the same round. Rows are written as they come, so the benchmark can be stopped
and started again. Writes results/flow_time.json and the table in docs/coverage.md.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import random
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from coverage import build
from records import into_docs, read, table, write
from torch import Tensor, nn

DOCS = Path(__file__).resolve().parents[1] / "docs/coverage.md"
LIMIT_S, LIMIT_BYTES, RATIO = 600, 12 << 30, 0.5
RATIOS = {"verified": ("verified", "their cut"), "unverified": ("unverified", "their cut"),
          "trace": ("trace", "their graph")}  # fmt: skip
ASKED = {"verified": 1.5, "unverified": 1.0, "trace": 0.5}


def contenders(model: nn.Module, x: Tensor) -> dict[str, Callable[[], object]]:
    import torch_pruning

    import secateur
    from secateur.graph.trace import trace

    with torch.no_grad():
        outputs = torch.utils._pytree.tree_leaves(model(x))
    classes = outputs[0].shape[-1] if len(outputs) == 1 and outputs[0].ndim == 2 else None

    def their_cut() -> None:
        """As in coverage.py: the head is ignored, nothing else is told; a copy is cut, as Secateur does."""
        twin = copy.deepcopy(model)
        layers = [m for m in twin.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
        ignored = [m for m in layers if getattr(m, "out_features", None) == classes] or layers[-1:]
        importance = torch_pruning.importance.GroupMagnitudeImportance(p=2)
        torch_pruning.pruner.MetaPruner(twin, x, importance, pruning_ratio=RATIO, ignored_layers=ignored).step()

    return {
        "trace": lambda: trace(model, x),
        "their graph": lambda: torch_pruning.DependencyGraph().build_dependency(model, example_inputs=x),
        "verified": lambda: secateur.prune(model, x, ratio=RATIO),
        "unverified": lambda: secateur.prune(model, x, ratio=RATIO, verify=False),
        "their cut": their_cut,
    }


def one(name: str, rounds: int) -> dict[str, Any]:
    """In a process of its own."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
    model, x = build(name)
    runs = contenders(model.eval(), x)
    seconds: dict[str, list[float]] = {label: [] for label in runs}
    order = random.Random(0)
    for turn in range(rounds + 1):
        for label in order.sample(list(runs), len(runs)):
            gc.collect()  # what one leaves behind is not cleared up in another's time
            start = time.perf_counter()
            runs[label]()
            if turn:  # the first round warms up
                seconds[label].append(time.perf_counter() - start)
    ratios = {
        what: median(a / b for a, b in zip(seconds[ours], seconds[theirs], strict=True))
        for what, (ours, theirs) in RATIOS.items()
    }
    params = sum(p.numel() for p in model.parameters())
    return {"params": params, "seconds": {k: [round(s, 4) for s in v] for k, v in seconds.items()}, "ratios": ratios}


def wanted() -> list[str]:
    """Networks that both tools cut."""
    rows = read("coverage")
    return [
        r["network"]
        for r in rows
        if r.get("secateur", {}).get("outcome", "").startswith("exact")
        and r.get("torch_pruning", {}).get("outcome", "").startswith("runs")
    ]


def render(rows: Sequence[dict[str, Any]]) -> str:
    done = [r for r in rows if "ratios" in r]
    head = ["", "networks", *(f"{what} (asked: at most {most})" for what, most in ASKED.items())]
    body = []
    for library in ("torchvision", "timm", ""):
        of = [r for r in done if r["network"].startswith(library)]
        if of:
            body.append([library or "all", str(len(of)), *(_spread([r["ratios"][what] for r in of]) for what in ASKED)])
    cells = [
        [r["network"], f"{r['params'] / 1e6:.1f}", *(f"{r['ratios'][what]:.2f}" for what in ASKED),
         *(f"{median(r['seconds'][k]):.3f}" for k in ("trace", "verified", "unverified", "their graph", "their cut"))]
        for r in done
    ]  # fmt: skip
    columns = ["network", "parameters, M", "verified", "unverified", "trace", "trace, s", "verified, s",
               "unverified, s", "their graph, s", "their cut, s"]  # fmt: skip
    failed = [f"{r['network']} ({r['error']})" for r in rows if "error" in r]
    words = f"\n\nNot measured: {'; '.join(failed)}." if failed else ""
    if left := len(wanted()) - len(done) - len(failed):
        words += f"\n\n{left} networks, drawn at random, are not measured yet."
    return f"{table(head, body)}{words}\n\n{table(columns, cells)}"


def _spread(ratios: Sequence[float]) -> str:
    quarters = quantiles(ratios) if len(ratios) > 1 else [ratios[0]] * 3
    return f"{median(ratios):.2f} (quartiles {quarters[0]:.2f}–{quarters[2]:.2f}, {min(ratios):.2f}–{max(ratios):.2f})"


def in_a_process(name: str, rounds: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", name, str(rounds)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"over {LIMIT_S} s"}
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        last = ([line for line in done.stderr.splitlines() if line.strip()] or ["killed"])[-1]
        return {"error": last.strip()[:200]}
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="networks whose name contains this")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--again", action="store_true", help="measure again what is there")
    parser.add_argument("--table", action="store_true", help="write the table alone")
    options = parser.parse_args()
    names = wanted()
    rows = {r["network"]: r for r in read("flow_time")}
    todo = [n for n in names if options.only in n and (options.again or n not in rows)]
    random.Random(0).shuffle(todo)  # what is there when it is stopped is no selection
    for name in [] if options.table else todo:
        rows[name] = {"network": name, **in_a_process(name, options.rounds)}
        print(name, rows[name].get("ratios", rows[name].get("error")), flush=True)
        write("flow_time", [rows[n] for n in names if n in rows], rounds=options.rounds, threads=1, ratio=RATIO)
    into_docs(DOCS, "flow_time", render([rows[n] for n in names if n in rows]))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(one(sys.argv[2], int(sys.argv[3]))))
    else:
        main()
