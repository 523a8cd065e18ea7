"""An optimizer is carried through three cuts: does the loss go on where it was?

Run: python benchmarks/carried_optimizer.py [--seeds 3] [--steps 30] [--images 6000]

ResNet-20 with public CIFAR-10 weights (../shared) is trained further (real images, first ones of the training set), by
SGD with momentum and by AdamW. After every ``steps`` steps a tenth of the channels goes (criterion l2), three times.
Three ways after each cut: the optimizer is carried along, a new one is made, and, for comparison, no cut at all. The
same batches in the same order for all. Written down is the training loss of every step, in train mode. Writes
results/carried_optimizer.json and docs/alive.md.
"""

from __future__ import annotations

import argparse
from functools import cache
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from networks import SHARED
from records import into_docs, read, table, write
from torch import Tensor, nn

import secateur
from secateur.data import load
from secateur.models import create

DOCS = Path(__file__).resolve().parents[1] / "docs/alive.md"
CUTS, RATIO, BATCH = 3, 0.1, 64
OPTIMIZERS = {
    "SGD, momentum 0.9": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, weight_decay=5e-4),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=1e-2),
}
WAYS = ("carried", "new", "no cut")


@cache
def pixels(images: int) -> tuple[Tensor, Tensor]:
    data = load(f"cifar10:{SHARED}/data/cifar10-jpeg.tar.xz", normalise="imagenet", limit=images)
    given = list(data.labelled(images))
    return torch.cat([a for a, _ in given]), torch.cat([b for _, b in given])


def batches(seed: int, steps: int, images: int) -> list[tuple[Tensor, Tensor]]:
    x, y = pixels(images)
    generator = torch.Generator().manual_seed(seed)
    picks = [torch.randint(len(x), (BATCH,), generator=generator) for _ in range(steps)]
    return [(x[pick], y[pick]) for pick in picks]


def losses(way: str, optimizer: str, seed: int, steps: int, images: int) -> list[float]:
    torch.manual_seed(seed)
    net: nn.Module = create("resnet20", weights=SHARED / "models/resnet20-cifar10.safetensors")
    step = OPTIMIZERS[optimizer](net.parameters())
    found = []
    for number, (x, y) in enumerate(batches(seed, steps * (CUTS + 1), images)):
        if number and number % steps == 0 and way != "no cut":
            pruned = secateur.prune(net, x[:2], ratio=RATIO)
            net = pruned.model
            step = pruned.carry(step) if way == "carried" else OPTIMIZERS[optimizer](net.parameters())
        net.train()
        loss = nn.functional.cross_entropy(net(x), y)
        step.zero_grad()
        loss.backward()
        step.step()
        found.append(loss.item())
    return found


def after_cuts(row: dict[str, Any], first: int, count: int) -> float:
    """Mean loss over ``count`` steps, from ``first`` steps after each cut on."""
    steps = row["steps"]
    marks = [steps * (k + 1) + first for k in range(CUTS)]
    return mean(row["losses"][m + i] for m in marks for i in range(count))


def render(rows: list[dict[str, Any]]) -> str:
    head = ["optimizer", "after each cut", "loss in steps 1–5", "steps 6–20", "last 20 steps before the next cut"]
    lines = []
    for optimizer in OPTIMIZERS:
        for way in WAYS:
            own = [r for r in rows if (r["optimizer"], r["way"]) == (optimizer, way)]
            spans = [(0, 5), (5, 15), (max(0, own[0]["steps"] - 20), 20)] if own else []
            cells = [_spread([after_cuts(r, *span) for r in own]) for span in spans]
            lines.append([optimizer, way, *cells])
    return table(head, lines)


def _spread(values: list[float]) -> str:
    return f"{mean(values):.3f} ± {stdev(values) if len(values) > 1 else 0:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--images", type=int, default=6000)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = read("carried_optimizer")
    known = {(r["optimizer"], r["way"], r["seed"]) for r in rows}
    for seed in range(given.seeds):
        for optimizer in OPTIMIZERS:
            for way in WAYS:
                if (optimizer, way, seed) not in known:
                    made = losses(way, optimizer, seed, given.steps, given.images)
                    rows.append({"optimizer": optimizer, "way": way, "seed": seed, "steps": given.steps,
                                 "images": given.images, "losses": [round(x, 4) for x in made]})  # fmt: skip
                    print(optimizer, way, seed, f"{mean(made):.3f}", flush=True)
                    write("carried_optimizer", rows)
    into_docs(DOCS, "carried-optimizer", render(rows))


if __name__ == "__main__":
    main()
