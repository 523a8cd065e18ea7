"""Toy: segmentation and regression on the embedded data: dense, half the MACs, with and without fine-tuning.

Run: python benchmarks/other_tasks.py

For three seeds (of the weights, the order, and what is held out): a dense network is trained, half of its
multiply-accumulates are removed by the L2 norm, it is repaired on training samples without their targets, and
fine-tuned for half the dense network's epochs. The control is the dense network, trained on for as long. Every network
is that of the best epoch by the validation samples, and scored on test samples, which no decision is based on. The
networks and the data are small (toy): 100 canvases of 64×64 pixels, 88 rows and 352 windows to test with. One thread.
Rows are written as they come, so the benchmark can be stopped and started again. Writes results/other_tasks.json and
the table in docs/tasks.md.
"""

from __future__ import annotations

import copy
import time
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from records import into_docs, read, table, write
from torch import nn

import secateur
from secateur.models import create
from secateur.task import TASKS, Request, Task
from secateur.train import TrainConfig, evaluate, fit

DOCS = Path(__file__).resolve().parents[1] / "docs/tasks.md"
SEEDS = (0, 1, 2)
STAGES = ("dense", "pruned", "repaired", "fine-tuned", "control")
SIZES: dict[str, dict[str, Any]] = {
    "segmentation": {"validation": 0.1, "network": {"width": 8, "depth": 3},
                     "training": {"epochs": 30, "batch_size": 8, "lr": 4e-3}},
    "regression": {"validation": 0.2, "network": {},
                   "training": {"epochs": 60, "batch_size": 32, "lr": 2e-3}},
    "series": {"validation": 0.1, "network": {},
               "training": {"epochs": 20, "batch_size": 32, "lr": 2e-3}},
}  # fmt: skip


def config(name: str, share: float = 1.0) -> TrainConfig:
    """The training of a task, or a share of its epochs."""
    training = dict(SIZES[name]["training"])
    training["epochs"] = round(share * training["epochs"])
    return TrainConfig(**training, optimizer="adamw", weight_decay=0.01, keep="best")


def scores(network: nn.Module, task: Task) -> dict[str, float]:
    return evaluate(network, task, batch_size=64).metrics


def one(name: str, seed: int) -> dict[str, Any]:
    """All stages of a task for one seed."""
    start, kind = time.monotonic(), TASKS[name]
    task = kind.open(Request(kind.data, validation=SIZES[name]["validation"], seed=seed))
    torch.manual_seed(seed)
    dense = create(kind.model, **task.options(kind.model), **SIZES[name]["network"])
    fit(dense, task, config(name), seed=seed, progress=False)
    found = {"dense": scores(dense, task)}
    pruned = secateur.prune(dense, task.sample(64), criterion="l2", macs=0.5)
    found["pruned"] = scores(pruned.model, task)
    repaired = secateur.recover(pruned, task.sample(512), dense=dense)
    found["repaired"] = scores(repaired.model, task)
    fit(repaired.model, task, config(name, 0.5), seed=seed, name="fine-tune", progress=False)
    found["fine-tuned"] = scores(repaired.model, task)
    control = copy.deepcopy(dense)
    fit(control, task, config(name, 0.5), seed=seed, name="fine-tune", progress=False)
    found["control"] = scores(control, task)
    before, after = pruned.before, pruned.after
    return {
        "task": name, "seed": seed, "network": kind.model, "params": [before.params, after.params],
        "macs": [before.macs, after.macs], "samples": {s: task.samples(s) for s in ("train", "validation", "test")},
        "epochs": [config(name).epochs, config(name, 0.5).epochs], "scores": found,
        "seconds": round(time.monotonic() - start, 1),
    }  # fmt: skip


def summary(rows: list[dict[str, Any]]) -> str:
    """The table for the page: mean ± standard deviation over the seeds."""
    shown = {"segmentation": ("miou", 1, " %"), "regression": ("r2", 3, ""), "series": ("r2", 3, "")}
    words = {"miou": "mIoU", "r2": "R²"}
    lines = []
    for name, (metric, digits, unit) in shown.items():
        mine = [row for row in rows if row["task"] == name]
        if not mine:
            continue
        macs = mean(row["macs"][1] / row["macs"][0] for row in mine)
        cells = []
        for stage in STAGES:
            values = [row["scores"][stage][metric] for row in mine]
            spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
            cells.append(f"{mean(values):.{digits}f}{spread}{unit}")
        kind = f"{name} ({mine[0]['network']}, {words[metric]}, {len(mine)} seeds)"
        lines.append([kind, f"{macs:.1%}", *cells])
    head = ["toy", "MACs left", "dense", "pruned", "repaired", "fine-tuned", "control: dense, trained on"]
    return table(head, lines)


def main() -> None:
    """Runs what is missing and writes rows and table."""
    torch.set_num_threads(1)
    rows = read("other_tasks")
    done = {(row["task"], row["seed"]) for row in rows}
    for name in ("regression", "series", "segmentation"):
        for seed in SEEDS:
            if (name, seed) not in done:
                rows.append(one(name, seed))
                print(rows[-1], flush=True)
                write("other_tasks", rows, threads=1, sizes=SIZES)
    into_docs(DOCS, "other_tasks", summary(rows))


if __name__ == "__main__":
    main()
