"""Accuracy after a cut without any training: no repair, batch-norm statistics, least squares, chosen channels.

Run: python benchmarks/recovery.py WEIGHTS DATA [--adapted WEIGHTS] [--limit TEST_IMAGES]

ResNet-56 (option A); inner channels of every block go, half or two thirds of them or as many MACs as that saves.
Calibration images are unlabelled training images, each with its mirror image. Rows that are there are not done again.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from records import into_docs, read, table, write
from torch import Tensor, nn

import secateur
from secateur.data import DataSet, load
from secateur.models import create, normalisation
from secateur.recipe.steps.weights import load_weights_into
from secateur.train import evaluate

NAME = "recovery"
SHARES = {"half": 1 / 2, "two thirds": 2 / 3}
# Hand-made figures that were to be beaten, per network and share (before the repair was a part of the library).
BY_HAND = {("as it comes", "half"): "78.2", ("as it comes", "two thirds"): "71.5",
           ("adapted", "half"): "85.8", ("adapted", "two thirds"): "79.6"}  # fmt: skip


def inner(model: nn.Module) -> list[str]:
    """What keeps its output channels: everything but the first convolution of each block."""
    return [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and not n.endswith(".conv1")] + ["conv1"]


def uniform(model: nn.Module, x: Tensor, share: float) -> Any:
    """The same share of every block's inner channels, lowest L1 norm first."""
    return secateur.prune(model, x[:2], criterion="l1", ratio=share, ignore=inner(model))


def mirrored(x: Tensor) -> Tensor:
    """Each image and its mirror image."""
    return torch.cat([x, x.flip(3)])


def jobs(networks: list[str]) -> list[dict[str, Any]]:
    """All rows that there should be, the most telling ones first."""
    rows = [("chosen", "least_squares", 512), ("l1", "least_squares", 512), ("l1", "none", 512)]
    rows += [("l1", "batch_norm", 512), ("chosen", "least_squares", 128), ("chosen", "least_squares", 2048)]
    rows += [("l1", "scale", 512), ("l1", "bias", 512)]
    return [
        {"network": network, "share": share, "channels": channels, "method": method, "images": images}
        for channels, method, images in rows
        for network in networks
        for share in (SHARES if method not in ("scale", "bias") else ["half"])
    ]


def measured(job: dict[str, Any], model: nn.Module, data: DataSet) -> dict[str, Any]:
    """Cuts, repairs and scores."""
    x = mirrored(data.sample(job["images"], seed=0))
    began, cpu = time.perf_counter(), time.process_time()
    cut = uniform(model, x, SHARES[job["share"]])
    if job["channels"] == "chosen":
        macs = cut.after.macs
        began, cpu = time.perf_counter(), time.process_time()
        cut = secateur.prune(model, x[:2], macs=macs, criterion="reconstruction", data=x, ignore=inner(model))
    if job["method"] != "none":
        cut = secateur.recover(cut, x, dense=model, method=job["method"])
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    top1 = evaluate(cut.model, data, batch_size=100).top1
    return job | {"top1": round(top1, 2), "macs": cut.after.macs, "params": cut.after.params,
                  "seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1)}  # fmt: skip


def page(rows: list[dict[str, Any]], dense: dict[str, float]) -> str:
    """The table of docs/recovery.md."""
    body = []
    for network in dict.fromkeys(r["network"] for r in rows):
        for share in SHARES:
            for r in sorted((r for r in rows if (r["network"], r["share"]) == (network, share)), key=_place):
                body.append([network, share, r["channels"], r["method"].replace("_", " "), r["images"],
                             f"{r['macs']:,}", f"{r['top1']:.2f}", f"{dense[network]:.2f}",
                             BY_HAND[network, share] if r["channels"] == "chosen" and r["images"] == 512 else "",
                             r["seconds"], r["cpu_seconds"]])  # fmt: skip
    head = ["network", "removed", "channels", "repair", "images", "MACs", "top-1, %", "dense, %", "by hand, %",
            "seconds", "CPU seconds"]  # fmt: skip
    return table(head, body)


def _place(row: dict[str, Any]) -> tuple[int, int]:
    order = ["none", "bias", "batch_norm", "scale", "least_squares"]
    return order.index(row["method"]) + 10 * (row["channels"] == "chosen"), row["images"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--adapted", type=Path, help="weights of the same network trained on the data")
    parser.add_argument("--limit", type=int, help="test images")
    arguments = parser.parse_args()
    known = normalisation("resnet56")
    data = load(str(arguments.data), validation=0.05, limit=arguments.limit)
    data = data.with_normalisation(*known) if known else data
    networks = {"as it comes": create("resnet56", weights=arguments.weights).eval()}
    if arguments.adapted:
        networks["adapted"] = create("resnet56").eval()
        load_weights_into(networks["adapted"], arguments.adapted)
    rows = read(NAME)
    dense = {n: round(evaluate(m, data, batch_size=100).top1, 2) for n, m in networks.items()}
    for job in jobs(list(networks)):
        if not any(all(r[k] == v for k, v in job.items()) for r in rows):
            rows.append(measured(job, networks[job["network"]], data))
            write(NAME, rows, dense=dense, threads=torch.get_num_threads(), test_images=len(data.test))
            print(rows[-1], flush=True)
    docs = Path(__file__).resolve().parents[1] / "docs" / "recovery.md"
    if docs.exists() and arguments.limit is None:
        into_docs(docs, "table", page(rows, dense))


if __name__ == "__main__":
    main()
