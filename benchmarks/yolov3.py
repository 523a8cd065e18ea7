"""YOLOv3 at 416×416: 10 of its 23 residual blocks and half of its channels removed, verified and timed.

Run: python benchmarks/yolov3.py [--size 416] [--rounds 12] [--docs]

Weights are random (batch-norm scales uniform in 0…1, so that there is something to rank), so this says what removal
does to size and time, nothing about accuracy. First the 10 blocks whose last batch norm has the smallest mean scale go,
each with its shortcut and two convolutions; then the half of the channels of every group with the smallest scales. Both
cuts are compared with the masked network, the result is saved and loaded again, and all three networks are timed in
turn: forward and backward, one image, one thread. Writes results/yolov3.json and the table in docs/layer-pruning.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from records import RESULTS, into_docs, table, write
from torch import nn

import secateur
from secateur.cut.pruned import Pruned
from secateur.models import create
from secateur.timing import latency, spread

DOCS = Path(__file__).resolve().parents[1] / "docs/layer-pruning.md"
SEED = 0


def network() -> nn.Module:
    """YOLOv3 for 80 classes with random weights and scales."""
    torch.manual_seed(SEED)
    model = create("yolov3").eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight)
    return model


def difference(pruned: Pruned) -> float:
    assert pruned.verification is not None
    return pruned.verification.max_relative_error


def reloaded(pruned: Pruned, x: torch.Tensor) -> bool:
    """Whether the saved network, loaded into a fresh one of the class, gives the same maps to the bit."""
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        pruned.save(folder)
        loaded = secateur.load(folder, model=create("yolov3"))
        return all(torch.equal(a, b) for a, b in zip(loaded(x), pruned.model.eval()(x), strict=True))


def measure(size: int, rounds: int) -> list[dict[str, Any]]:
    model, x = network(), torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(SEED))
    short = secateur.remove_layers(model, x, count=10, criterion="bn_scale")
    both = secateur.prune(short.model, x, ratio=0.5, criterion="bn_scale")
    print(short, both, sep="\n", flush=True)
    same = reloaded(both, x)
    nets = {"dense": model, "10 of 23 blocks removed": short.model, "and half of the channels": both.model}
    times = latency(nets, x, batches=(1,), backward=True, threads=1, rounds=rounds, warmup=1, budget_s=1500)
    facts = {
        "dense": (short.before, {}),
        "10 of 23 blocks removed": (short.after, {"difference": difference(short), "backend": short.backend}),
        "and half of the channels": (both.after, {"difference": difference(both), "backend": both.backend,
                                                  "reloads exactly": same}),
    }  # fmt: skip
    return [
        {"network": name, "params": counts.params, "macs": counts.macs, **proof,
         **{t.direction: spread(t.samples_ms).to_json() | {"mode": t.mode} for t in times if t.model == name}}
        for name, (counts, proof) in facts.items()
    ]  # fmt: skip


def page(rows: list[dict[str, Any]]) -> str:
    """The table of the page."""
    head = ["YOLOv3, 416×416", "parameters", "MACs", "forward ms", "backward ms", "difference from the masked network"]
    return table(head, [_line(row, rows[0]) for row in rows])


def _line(row: dict[str, Any], dense: dict[str, Any]) -> list[str]:
    times = [f"{_ms(row[d])} ({dense[d]['median'] / row[d]['median']:.2f}×)" for d in ("forward", "backward")]
    return [row["network"], f"{row['params']:,} ({row['params'] / dense['params']:.1%})",
            f"{row['macs'] / 1e9:.2f} G ({row['macs'] / dense['macs']:.1%})", *times,
            f"{row['difference']:.0e}" if "difference" in row else "–"]  # fmt: skip


def _ms(found: dict[str, Any]) -> str:
    return f"{found['median']:,.0f} [{found['q25']:,.0f}–{found['q75']:,.0f}]"


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--size", type=int, default=416)
    options.add_argument("--rounds", type=int, default=12)
    options.add_argument("--docs", action="store_true", help="write the page again from the stored figures")
    args = options.parse_args()
    if not args.docs:
        rows = measure(args.size, args.rounds)
        if args.size != 416:
            print(page(rows))
            return
        write("yolov3", rows, seed=SEED, size=args.size, rounds=args.rounds, threads=1, batch=1)
    into_docs(DOCS, "yolov3", page(json.loads((RESULTS / "yolov3.json").read_text())["rows"]))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
