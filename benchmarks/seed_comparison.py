"""Seed 000's comparison on CIFAR-10: its pruned network beside LiteRT (once TF-Lite) float and int8, and both together.

    python benchmarks/seed_comparison.py --run FOLDER      of benchmarks/transfer_channel.py: WORK/transfer-resnet50

Dense and pruned network of that run are written for LiteRT in float32 and int8 (calibrated on 256 training images) and
timed beside PyTorch: batch 1, one thread, shuffled interleaved rounds, fresh processes. Accuracy and loss of every row
come from the runtime of that row. Writes results/seed_comparison.json and the table in docs/seed-comparison.md.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from records import into_docs, table, write
from torch import nn

import secateur
from secateur.cost.counts import count
from secateur.data import DataSet
from secateur.exports.entered import entered
from secateur.recipe import RunResult
from secateur.task import Classification
from secateur.timing import latency
from secateur.timing.quality import scores
from secateur.timing.results import results

NAME = "seed_comparison"
DOCS = Path(__file__).resolve().parents[1] / "docs/seed-comparison.md"
HEAD = ["Model", "Accuracy", "Loss", "ms per image (quartiles)", "Times as fast", "Parameters", "MB"]
TITLES = {
    ("dense", "pytorch", "float32"): "Dense (PyTorch)",
    ("pruned", "pytorch", "float32"): "Pruned (PyTorch)",
    ("dense", "litert", "float32"): "LiteRT float",
    ("dense", "litert", "int8"): "LiteRT int8",
    ("pruned", "litert", "float32"): "Pruned + LiteRT float",
    ("pruned", "litert", "int8"): "Pruned + LiteRT int8",
}


def networks(folder: Path) -> tuple[DataSet, dict[str, nn.Module], dict[str, Any]]:
    """The data, the dense and the pruned network of a finished run, and which run that was."""
    run = secateur.resume(folder)
    assert isinstance(run, RunResult)
    assert isinstance(run.task, Classification)
    assert run.state.pruned is not None
    models = {"dense": run.state.dense.eval(), "pruned": run.state.pruned.model.eval()}
    return run.task.data, models, {"model": run.results["model"], "data": run.results["data"]}


def rows(args: argparse.Namespace, data: DataSet, models: dict[str, nn.Module]) -> list[dict[str, Any]]:
    images = data.sample(32, split="test")
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {"runtimes": ["pytorch", "litert"], "batches": (1,)}
        found = list(entered(models, images, Path(folder), **options, calibration=data.sample(256, seed=0)))
        entrants = [entrant for entrant in found if not entrant.problem]
        timings = latency(entrants, images[:1], batches=(1,), backward=False, rounds=args.rounds,
                          budget_s=args.seconds, processes=args.processes)  # fmt: skip
        evaluations = scores(found, data, images=args.images)
    params = {role: count(model, images[:2]).params for role, model in models.items()}
    lines = results(found, timings, reference="dense", params=params, evaluations=evaluations)
    order = list(TITLES)
    lines = tuple(sorted(lines, key=lambda line: order.index((line.network, line.runtime, line.precision))))
    return [line.to_json() for line in lines]


def shown(row: dict[str, Any]) -> list[str]:
    """A row of the page; times are compared with the dense network at float32 in the same runtime."""
    title = TITLES[row["network"], row["runtime"], row["precision"]]
    if row["problem"]:
        return [title, f"does not run: {row['problem']}", "–", "–", "–", "–", "–"]
    ms, ratio = row["ms"], row["speedup"]["median"] if row["speedup"] else 1.0
    return [title, f"{row['top1']:.2f} %", f"{row['loss']:.4f}",
            f"{ms['median']:.2f} ({ms['q25']:.2f}–{ms['q75']:.2f})", f"{ratio:.2f}×", f"{row['params']:,}",
            f"{row['bytes'] / 1e6:.2f}"]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="a finished run of transfer-channel")
    parser.add_argument("--images", type=int, default=10_000, help="test images for accuracy and loss")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(1)
    data, models, facts = networks(args.run)
    found = rows(args, data, models)
    write(NAME, found, threads=1, rounds=args.rounds, processes=args.processes, **facts)
    text = table(HEAD, [shown(row) for row in found])
    print(text)
    if DOCS.exists():
        into_docs(DOCS, "TABLE", text)


if __name__ == "__main__":
    main()
