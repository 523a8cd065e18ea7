"""Seed 000's comparison on CIFAR-10: a pruned network beside LiteRT (once TF-Lite) float and int8, and both together.

Run: python benchmarks/seed_comparison.py --weights RESNET56 --data CIFAR10_ARCHIVE --work FOLDER

ResNet-56, cut to half of its MACs (channels chosen by `reconstruction`) and repaired by least squares on 512
unlabelled images with their mirror images; no training. Dense and pruned are written for LiteRT in float32 and int8
(calibrated on 256 training images) and timed beside PyTorch: batch 1, one thread, shuffled interleaved rounds, fresh
processes. Accuracy and loss of every row come from the runtime of that row. Goes on where it was stopped (FOLDER
keeps the pruned network); writes results/seed_comparison.json and the table in docs/seed-comparison.md.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from records import into_docs, table, write
from secateur.timing.candidates import candidates
from secateur.timing.deployment import deployments
from secateur.timing.quality import scores
from torch import nn

import secateur
from secateur.cost.counts import count
from secateur.data import DataSet, load
from secateur.models import create, normalisation
from secateur.recipe.steps.weights import load_weights_into
from secateur.timing import latency

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


def networks(args: argparse.Namespace) -> tuple[DataSet, dict[str, nn.Module], dict[str, Any]]:
    """The data, the dense and the pruned network, and what is known about how they came to be."""
    known = normalisation("resnet56")
    assert known is not None
    data = load(args.data, limit=args.limit, seed=0).with_normalisation(*known)
    dense = create("resnet56").eval()
    load_weights_into(dense, args.weights)
    folder = args.work / "pruned"
    if not folder.exists():
        make_pruned(dense, data).save(folder)
    pruned = secateur.load(folder, model=create("resnet56")).eval()
    return data, {"dense": dense, "pruned": pruned}, {"calibration": 512}


def make_pruned(dense: nn.Module, data: DataSet) -> secateur.Pruned:
    """Half of the MACs gone by channels that the rest can make good, and the rest repaired; no training."""
    x = data.sample(512, seed=0)
    x = torch.cat([x, x.flip(3)])
    cut = secateur.prune(dense, x[:2], macs=0.5, criterion="reconstruction", data=x, seed=0)
    return secateur.recover(cut, x, dense=dense, seed=0)


def rows(args: argparse.Namespace, data: DataSet, models: dict[str, nn.Module]) -> list[dict[str, Any]]:
    images = data.sample(32, split="test")
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {"runtimes": ["pytorch", "litert"], "batches": (1,)}
        found = list(candidates(models, images, Path(folder), **options, calibration=data.sample(256, seed=0)))
        entrants = [entrant for one in found for entrant in one.entrants]
        timings = latency(entrants, images[:1], batches=(1,), backward=False, rounds=args.rounds,
                          budget_s=args.seconds, processes=args.processes)  # fmt: skip
        evaluations = scores(found, data, images=args.images)
    params = {role: count(model, images[:2]).params for role, model in models.items()}
    lines = deployments(found, timings, reference="dense", params=params, evaluations=evaluations)
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
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--limit", type=int, help="images of the data set, training and test each")
    parser.add_argument("--images", type=int, default=10_000, help="test images for accuracy and loss")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    data, models, facts = networks(args)
    found = rows(args, data, models)
    write(NAME, found, threads=1, rounds=args.rounds, processes=args.processes, **facts)
    text = table(HEAD, [shown(row) for row in found])
    print(text)
    if DOCS.exists():
        into_docs(DOCS, "TABLE", text)


if __name__ == "__main__":
    main()
