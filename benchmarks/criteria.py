"""Every criterion on one network: what it costs to score, and what is left of the accuracy without any training.

Run: python benchmarks/criteria.py [CRITERION ...]

ResNet-20 with public CIFAR-10 weights (../shared), 256 calibration images, 30 % of the channels inside every block
removed, scored on 1,000 test images. Criteria that look at data, and random, run with three seeds. Stops and goes on;
writes results/criteria.json and the table in docs/criteria.md.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from networks import SHARED
from records import into_docs, read, table, write
from torch import Tensor, nn

import secateur
from secateur.criteria import CRITERIA, needed_data
from secateur.criteria.scoring import score
from secateur.data import DataSet

DOCS = Path(__file__).resolve().parents[1] / "docs/criteria.md"
IMAGES, TEST, RATIO = 256, 1000, 0.3


def accuracy(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> float:
    with torch.no_grad():
        right = sum(int((model(images).argmax(1) == labels).sum()) for images, labels in batches)
    return 100 * right / sum(len(labels) for _, labels in batches)


def outcome(model: nn.Module, name: str, seed: int, data: DataSet) -> dict[str, Any]:
    """Seconds of scoring beside those of one forward pass over the same images, and the accuracy that is left."""
    batches = list(data.labelled(IMAGES, seed=seed))
    example = batches[0][0][:2]
    groups = secateur.analyse(model, example).groups
    start = time.perf_counter()
    accuracy(model, batches)
    forward = time.perf_counter() - start
    start = time.perf_counter()
    score(groups, name, data=batches, seed=seed)
    scoring = time.perf_counter() - start
    pruned = secateur.prune(model, example, criterion=name, ratio=RATIO, scope="block", data=batches, seed=seed)
    return {"criterion": name, "seed": seed, "seconds": scoring, "forwards": scoring / forward,
            "top1": accuracy(pruned.model.eval(), list(data.labelled(TEST, split="test"))),
            "macs": pruned.after.macs / pruned.before.macs}  # fmt: skip


def main(names: list[str]) -> None:
    data = secateur.data.load(f"cifar10:{SHARED / 'data/cifar10-jpeg.tar.xz'}", normalise="imagenet")
    model = secateur.models.create("resnet20", weights=SHARED / "models/resnet20-cifar10.safetensors").eval()
    rows = read("criteria")
    facts = {"network": "resnet20", "images": IMAGES, "test": TEST, "ratio": RATIO, "threads": 1,
             "dense": accuracy(model, list(data.labelled(TEST, split="test")))}  # fmt: skip
    done = {(r["criterion"], r["seed"]) for r in rows}
    for name in names:
        for seed in range(3 if needed_data(CRITERIA[name]) or name == "random" else 1):
            if (name, seed) not in done:
                rows.append(outcome(model, name, seed, data))
                print(rows[-1], flush=True)
                write("criteria", rows, **facts)
    into_docs(DOCS, "criteria", table(["criterion", "data", "seconds", "forward passes", "top-1"], body(rows)))
    print(facts)


def body(rows: list[dict[str, Any]]) -> list[list[str]]:
    """One line per criterion, the best accuracy first."""
    found = {name: [r for r in rows if r["criterion"] == name] for name in {r["criterion"] for r in rows}}
    lines = []
    for name, runs in sorted(found.items(), key=lambda item: -mean(r["top1"] for r in item[1])):
        scores = [r["top1"] for r in runs]
        spread = f" ({min(scores):.1f}–{max(scores):.1f})" if len(scores) > 1 else ""
        needs = needed_data(CRITERIA[name]) or "–"
        seconds, forwards = (mean(r[key] for r in runs) for key in ("seconds", "forwards"))
        lines.append([f"`{name}`", needs, f"{seconds:.2f}", f"{forwards:.1f}", f"{mean(scores):.1f}{spread}"])
    return lines


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1:] or [name for name in CRITERIA if "channels" in CRITERIA[name].kinds])
