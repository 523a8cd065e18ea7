"""torchvision's detectors trained, cut with their heads to half of the MACs, and trained on; toy size.

    python benchmarks/torchvision_detectors.py [NAME ...]     one after the other; what is recorded already is left out

Sixteen images of digits on a canvas, 64×64 (SSD scales them up), two epochs before and two after the cut, fresh
weights, one seed, one thread. Writes results/torchvision_detectors.json after every network, and the table of
docs/detection.md.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from records import into_docs, read, table, write

import secateur
from secateur.data.boxes import digits_on_canvas
from secateur.models import TorchvisionDetector, create
from secateur.task import Detection
from secateur.train import TrainConfig

DOCS = Path(__file__).resolve().parents[1] / "docs/detection.md"
NAMES = (
    "ssdlite320_mobilenet_v3_large", "ssd300_vgg16", "fcos_resnet50_fpn", "retinanet_resnet50_fpn",
    "retinanet_resnet50_fpn_v2", "fasterrcnn_mobilenet_v3_large_320_fpn", "fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
)  # fmt: skip
CONFIG = TrainConfig(epochs=2, batch_size=4, lr=2e-4, optimizer="adamw")


def measured(name: str) -> dict[str, Any]:
    """One detector from fresh weights to the cut one that trained on."""
    torch.manual_seed(0)
    task = Detection(digits_on_canvas(16, 4, 4), size=64, flip=0.0, mosaic=0.0)
    size = {} if name.startswith("ssd") else {"min_size": 64, "max_size": 64}
    model = create(f"torchvision:{name}", **task.options(f"torchvision:{name}"), **size).eval()
    started = time.perf_counter()
    before = secateur.fit(model, task, CONFIG, seed=0)
    small = secateur.prune(model, task.sample(2), macs=0.5)
    assert isinstance(small.model, TorchvisionDetector)
    heads = [sum(p.numel() for n, p in m.named_parameters() if "head" in n) for m in (model, small.model)]
    after = secateur.fit(small.model, task, CONFIG, seed=0)
    scored = secateur.evaluate(small.model, task)
    assert small.verification is not None
    return {
        "network": name,
        "params": [small.before.params, small.after.params],
        "macs": [small.before.macs, small.after.macs],
        "heads": heads,
        "back_end": small.backend,
        "class": type(small.model.detector).__name__,
        "verified": small.verification.max_relative_error,
        "proven": small.verification.proven,
        "losses": [[round(epoch.train["loss"], 3) for epoch in history.epochs] for history in (before, after)],
        "map50": scored.map50,
        "seconds": round(time.perf_counter() - started, 1),
        "threads": torch.get_num_threads(),
    }


def write_table() -> None:
    """What is recorded, into docs/detection.md."""
    rows = []
    for row in read("torchvision_detectors"):
        share = [100 * after / before for before, after in (row["params"], row["macs"], row["heads"])]
        losses = [" → ".join(f"{loss:.2f}" for loss in values) for values in row["losses"]]
        rows.append(
            [row["network"], row["class"], *(f"{value:.0f} %" for value in share), f"{row['verified']:.0e}", *losses]
        )
    head = ["Network", "Class after the cut", "Parameters left", "MACs left", "Heads left", "Verified to",
            "Loss of two epochs before", "… and after the cut"]  # fmt: skip
    into_docs(DOCS, "torchvision", table(head, rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=NAMES)
    torch.set_num_threads(1)
    for name in parser.parse_args().names:
        known = read("torchvision_detectors")
        if any(row["network"] == name for row in known):
            continue
        found = measured(name)
        print(found, flush=True)
        order = {one: number for number, one in enumerate(NAMES)}
        write("torchvision_detectors", sorted([*known, found], key=lambda row: order.get(row["network"], 99)))
        write_table()
    write_table()


if __name__ == "__main__":
    main()
