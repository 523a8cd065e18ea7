"""Network trimming on CIFAR-10: six rounds with rising compression, accuracy before and after fine-tuning.

Run: python benchmarks/network_trimming.py --data ARCHIVE --weights RESNET20 [--work FOLDER] [--limit IMAGES]

One run of the built-in recipe `network-trimming` on ResNet-20, compressed as in Table 1 of Hu et al. 2016; started
again, the script goes on with a run that was stopped. It writes benchmarks/results/network_trimming.json and the
table of docs/network-trimming.md. `--limit 500 --no-docs` is a quick trial.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from records import into_docs, table, write

from secateur.recipe import RunResult, load_recipe, override, resume, run

DOCS = Path(__file__).resolve().parents[1] / "docs"

SETTINGS = [
    "model.name=resnet20", "steps.adapt.epochs=2", "steps.adapt.lr=0.02", "steps.finetune.epochs=1",
    "steps.finetune.lr=0.02", "steps.prune.std=null", f"steps.prune.params={1 / 2.59:.4f}",
    "steps.prune.scope=block", "steps.prune.calibration=1024", "steps.measure.runtimes=[]", "seed=0",
]  # fmt: skip


def trimmed(arguments: argparse.Namespace) -> RunResult:
    """Runs the recipe, or goes on with it."""
    folder = arguments.work
    if (folder / "recipe.yaml").exists():
        return resume(folder)
    settings = [*SETTINGS, f"data.name={arguments.data}", f"model.weights={arguments.weights}"]
    settings += [f"data.limit={arguments.limit}"] if arguments.limit else []
    recipe = load_recipe("network-trimming", edit=lambda tree: override(tree, settings))
    return run(recipe, folder, on_event=lambda e: print(e.what, e.step, dict(e.summary), flush=True))


def rounds(done: RunResult) -> list[dict[str, Any]]:
    """One row per network: dense, then each round's, before and after its fine-tuning."""
    dense = done.results["networks"][0]["measurement"]
    quality = {key: dense[key] for key in ("top1", "top5")}
    rows = [_row("dense", dense, dense, quality, quality)]
    files = sorted((done.folder / "steps").glob("*/result.json"))
    results = [(f.parent.name.partition("-")[2], json.loads(f.read_text())["result"]) for f in files]
    for (kind, cut), (then, tuned) in pairwise(results):
        if (kind, then) == ("prune", "finetune"):
            before, after = (r["evaluations"]["pruned"] for r in (cut, tuned))
            rows.append(_row(f"round {len(rows)}", cut["summary"], dense, before, after))
    return rows


def _row(
    name: str, size: Mapping[str, Any], dense: Mapping[str, Any], before: Mapping[str, Any], after: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "network": name,
        "params": size["params"],
        "macs": size["macs"],
        "compression": dense["params"] / size["params"],
        **{f"{key}_before": before[key] for key in ("top1", "top5")},
        **{f"{key}_after": after[key] for key in ("top1", "top5")},
    }


HEAD = [
    "",
    "parameters",
    "compression",
    "MACs",
    "top-1 before, %",
    "top-5 before, %",
    "top-1 after, %",
    "top-5 after, %",
]


def page(rows: list[dict[str, Any]]) -> str:
    """The table, in the columns of the paper's."""
    quality = ("top1_before", "top5_before", "top1_after", "top5_after")
    body = [
        [
            r["network"],
            f"{r['params']:,}",
            f"{r['compression']:.2f}",
            f"{r['macs']:,}",
            *(f"{r[k]:.2f}" for k in quality),
        ]
        for r in rows
    ]
    return table(HEAD, body)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True, help="the CIFAR-10 archive")
    parser.add_argument("--weights", required=True, help="weights of ResNet-20")
    parser.add_argument("--work", type=Path, default=Path("runs/network-trimming"))
    parser.add_argument("--limit", type=int, help="images per split, for less time")
    parser.add_argument("--no-docs", action="store_true", help="print the table and write nothing")
    arguments = parser.parse_args()
    done = trimmed(arguments)
    rows = rounds(done)
    if arguments.no_docs:
        print(page(rows))
        return
    write("network_trimming", rows, data=done.results["data"], settings=SETTINGS, duration_s=done.results["duration_s"])
    into_docs(DOCS / "network-trimming.md", "rounds", f"{page(rows)}\n\n{done.results['data']}.")


if __name__ == "__main__":
    main()
