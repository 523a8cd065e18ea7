"""Saliency first and similarity later, against each alone: ResNet-20 on CIFAR-10 at equal MACs, several seeds.

Run: python benchmarks/saliency_similarity.py --data ARCHIVE --weights RESNET20 [--work FOLDER] [--limit IMAGES]

The built-in recipe `saliency-then-similarity` and the same with one criterion throughout, each for every seed: one
comparison per seed, so that all three start from the same dense network. Started again, the script goes on with what
was stopped. It writes benchmarks/results/saliency_similarity.json and the tables of docs/saliency-then-similarity.md.
`--limit 500 --seeds 0 --no-docs` is a quick trial.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from records import into_docs, table, write

from secateur.recipe import Recipe, load_recipe, override
from secateur.recipe.comparison import Comparison, compare_recipes, is_comparison, resume_comparison

DOCS = Path(__file__).resolve().parents[1] / "docs"

WAYS = {
    "saliency, then similarity": "[{until: 2, name: taylor}, {name: map_similarity}]",
    "saliency alone": "taylor",
    "similarity alone": "map_similarity",
}
"""What each way is called, and its criterion by round."""

SETTINGS = ["model.name=resnet20", "steps.adapt.epochs=2", "steps.adapt.lr=0.02", "steps.finetune.epochs=1",
            "steps.finetune.lr=0.02", "steps.prune.calibration=512", "steps.prune.macs=0.35"]  # fmt: skip


def recipes(seed: int, arguments: argparse.Namespace) -> dict[str, Recipe]:
    """The recipes of one comparison."""
    settings = [*SETTINGS, f"seed={seed}", f"data.name={arguments.data}", f"model.weights={arguments.weights}"]
    settings += [f"data.limit={arguments.limit}"] if arguments.limit else []
    made = {}
    for way, criterion in WAYS.items():
        sets = [*settings, f"steps.prune.criterion={criterion}"]
        name = way.replace(",", "").replace(" ", "-")
        recipe = load_recipe("saliency-then-similarity", edit=lambda tree, s=sets: override(tree, s))  # type: ignore[misc]
        made[name] = replace(recipe, name=name, steps=tuple(s for s in recipe.steps if s.kind != "score"))
    return made


def compared(seed: int, arguments: argparse.Namespace) -> Comparison:
    """Runs one seed's comparison, or goes on with it."""
    folder = arguments.work / f"seed-{seed}"
    if is_comparison(folder):
        return resume_comparison(folder, on_event=print)
    return compare_recipes(recipes(seed, arguments), folder, jobs=1, on_event=print)


def rows_of(seed: int, found: Comparison) -> list[dict[str, Any]]:
    """One row per network, with the accuracy after every cut and every fine-tuning."""
    rows = []
    for row in found.rows:
        files = sorted((found.folder / "runs" / row.name / "steps").glob("*/result.json"))
        results = [(f.parent.name.partition("-")[2], json.loads(f.read_text())["result"]) for f in files]
        path = {
            k: [r["evaluations"]["pruned"]["top1"] for kind, r in results if kind == k] for k in ("prune", "finetune")
        }
        numbers = {k: v for k, v in asdict(row).items() if k in ("failed", "top1", "top1_before", "params", "macs")}
        rows.append(
            {"seed": seed, "way": row.name, **numbers, "after_cuts": path["prune"], "after_tuning": path["finetune"]}
        )
    return rows


def spread(values: list[float]) -> str:
    """Mean ± standard deviation."""
    return f"{mean(values):.2f} ± {stdev(values):.2f}" if len(values) > 1 else f"{values[0]:.2f}"


def summary(rows: list[dict[str, Any]]) -> str:
    """One line per way: mean and spread over the seeds, and the difference from saliency alone, seed by seed."""
    by = {(r["way"], r["seed"]): r for r in rows}
    seeds = sorted({r["seed"] for r in rows})
    body = []
    for way in dict.fromkeys(r["way"] for r in rows):
        mine = [by[way, seed] for seed in seeds]
        gaps = [by[way, s]["top1"] - by["saliency-alone", s]["top1"] for s in seeds]
        before = "–" if mine[0]["top1_before"] is None else spread([r["top1_before"] for r in mine])
        gap = "–" if way in ("dense", "saliency-alone") else spread(gaps)
        sizes = [f"{round(mean(r[key] for r in mine)):,}" for key in ("params", "macs")]
        body.append([way.replace("-", " "), *sizes, before, spread([r["top1"] for r in mine]), gap])
    head = ["", "parameters", "MACs", "top-1 after the last cut, %", "top-1 at the end, %", "against saliency alone"]
    return table(head, body)


def by_round(rows: list[dict[str, Any]]) -> str:
    """Mean accuracy after each round's cut and fine-tuning."""
    pruned = [r for r in rows if r["after_cuts"]]
    body = []
    for way in dict.fromkeys(r["way"] for r in pruned):
        mine = [r for r in pruned if r["way"] == way]
        cells = [
            f"{mean(r['after_cuts'][i] for r in mine):.1f} → {mean(r['after_tuning'][i] for r in mine):.1f}"
            for i in range(len(mine[0]["after_cuts"]))
        ]
        body.append([way.replace("-", " "), *cells])
    return table(["", *(f"round {i + 1}" for i in range(len(body[0]) - 1))], body)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True, help="the CIFAR-10 archive")
    parser.add_argument("--weights", required=True, help="weights of ResNet-20")
    parser.add_argument("--work", type=Path, default=Path("runs/saliency-similarity"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--limit", type=int, help="images per split, for less time")
    parser.add_argument("--no-docs", action="store_true", help="print the tables and write nothing")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    facts: dict[str, Any] = {}
    for seed in arguments.seeds:
        found = compared(seed, arguments)
        facts = {"data": found.facts["data"], "settings": SETTINGS}
        rows += rows_of(seed, found)
        if not arguments.no_docs:
            write("saliency_similarity", rows, **facts)
    print(summary(rows), by_round(rows), sep="\n\n")
    if not arguments.no_docs:
        page = DOCS / "saliency-then-similarity.md"
        into_docs(page, "summary", f"{summary(rows)}\n\n{facts['data']}, seeds {', '.join(map(str, arguments.seeds))}.")
        into_docs(page, "rounds", by_round(rows))


if __name__ == "__main__":
    main()
