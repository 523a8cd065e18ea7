"""What the proof costs: its share of the seconds of a verified cut, now and with another checkout's proof.

Run: python benchmarks/proof_cost.py [--proof PATH] [--rounds 3] [NETWORK ...]

Each measurement is a process of its own (one thread, a cut of the same network before it as a warm-up); the proofs
take turns, network by network. Share = seconds in ``verify`` ÷ seconds of ``prune``; the median over the rounds, with
the smallest and largest. PATH is the ``src`` folder of the other checkout. Writes results/proof_cost.json and the
table in docs/coverage.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from records import into_docs, table, write

DOCS = Path(__file__).resolve().parents[1] / "docs/coverage.md"
SOURCE = Path(__file__).resolve().parents[1] / "src"
NETWORKS = ["resnet56", "torchvision:resnet50", "torchvision:mobilenet_v3_large", "torchvision:densenet121",
            "torchvision:convnext_tiny", "torchvision:vit_b_16", "torchvision:vgg16_bn"]  # fmt: skip


def one(name: str) -> None:
    """In a process of its own: prints one line of JSON."""
    import torch
    from networks import build

    import secateur
    import secateur.cut.prune as api

    torch.set_num_threads(1)
    spent = [0.0]
    inner: Any = api.verified

    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return inner(*args, **kwargs)
        finally:
            spent[0] += time.perf_counter() - start

    api.verified = timed
    model, x = build(name)
    for _ in range(2):  # the first one warms up
        spent[0], start = 0.0, time.perf_counter()
        secateur.prune(model, x, ratio=0.5)
        whole = time.perf_counter() - start
    print(json.dumps({"whole_s": whole, "proof_s": spent[0]}))


def measured(name: str, source: Path) -> dict[str, float]:
    done = subprocess.run([sys.executable, __file__, "--one", name], env={**os.environ, "PYTHONPATH": str(source)},
                          capture_output=True, text=True, check=True)  # fmt: skip
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def summary(runs: list[dict[str, float]]) -> dict[str, Any]:
    shares = [r["proof_s"] / r["whole_s"] for r in runs]
    return {"whole_s": median(r["whole_s"] for r in runs), "proof_s": median(r["proof_s"] for r in runs),
            "share": median(shares), "lowest": min(shares), "highest": max(shares), "rounds": len(runs)}  # fmt: skip


def render(rows: list[dict[str, Any]]) -> str:
    head = ["network", "proof", "cut, s", "of it the proof, s", "share", "over the rounds"]
    body = [
        [r["network"], which, f"{r[which]['whole_s']:.2f}", f"{r[which]['proof_s']:.2f}", f"{r[which]['share']:.0%}",
         f"{r[which]['lowest']:.0%}–{r[which]['highest']:.0%}"]
        for r in rows for which in ("before", "now") if which in r
    ]  # fmt: skip
    return table(head, body)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--proof", type=Path, help="src folder of the checkout with the other proof")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    options = parser.parse_args()
    sources = {"now": SOURCE} | ({"before": options.proof.resolve()} if options.proof else {})
    rows: list[dict[str, Any]] = []
    for name in options.networks or NETWORKS:
        runs: dict[str, list[dict[str, float]]] = {which: [] for which in sources}
        for _ in range(options.rounds):
            for which, source in sources.items():
                runs[which].append(measured(name, source))
        rows.append({"network": name, **{which: summary(found) for which, found in runs.items()}})
        print(rows[-1], flush=True)
        write("proof_cost", rows, threads=1)
    into_docs(DOCS, "proof_cost", render(rows))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        one(sys.argv[2])
    else:
        main()
