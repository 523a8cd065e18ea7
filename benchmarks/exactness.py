"""Half of the channels removed: Secateur and Torch-Pruning, each network in a process of its own.

Run: python benchmarks/exactness.py [NETWORK ...]

Writes results/exactness.json and the table in docs/exactness.md. For Torch-Pruning the outcome is whether the
cut network runs and still has outputs of the right shape; it does not verify itself.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from networks import build
from records import into_docs, read, table, write

NETWORKS = ["resnet56", "torchvision:resnet50", "torchvision:vgg16_bn", "torchvision:densenet121",
            "torchvision:mobilenet_v3_large", "torchvision:efficientnet_b0", "torchvision:regnet_y_400mf",
            "torchvision:googlenet", "torchvision:shufflenet_v2_x1_0", "unet", "autoencoder"]  # fmt: skip
DOCS = Path(__file__).resolve().parents[1] / "docs/exactness.md"


def secateur_outcome(name: str) -> dict[str, Any]:
    import secateur

    model, x = build(name)
    start = time.perf_counter()
    pruned = secateur.prune(model, x, ratio=0.5)
    seconds = time.perf_counter() - start
    pruned.model(x)
    assert pruned.verification is not None
    return {"outcome": "exact", "backend": pruned.backend, "difference": pruned.verification.max_relative_error,
            "params": pruned.after.params / pruned.before.params, "macs": pruned.after.macs / pruned.before.macs,
            "seconds": seconds}  # fmt: skip


def torch_pruning_outcome(name: str) -> dict[str, Any]:
    import torch_pruning

    model, x = build(name)
    dense = sum(p.numel() for p in model.parameters())
    shape = model(x).shape
    last = [m for m in model.modules() if isinstance(m, (torch.nn.Linear, torch.nn.Conv2d, torch.nn.ConvTranspose2d))][
        -1
    ]
    start = time.perf_counter()
    pruner = torch_pruning.pruner.MetaPruner(
        model, x, importance=torch_pruning.importance.GroupMagnitudeImportance(p=2), pruning_ratio=0.5,
        ignored_layers=[last],
    )  # fmt: skip
    pruner.step()
    seconds = time.perf_counter() - start
    if model(x).shape != shape:
        return {"outcome": f"outputs of shape {tuple(model(x).shape)}"}
    return {"outcome": "runs", "params": sum(p.numel() for p in model.parameters()) / dense, "seconds": seconds}


def one(tool: str, name: str) -> dict[str, Any]:
    """The outcome in a fresh process; an error is an outcome."""
    command = [sys.executable, __file__, "--one", tool, name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    except subprocess.TimeoutExpired:
        return {"outcome": "over 300 s"}
    if done.returncode:
        last = [line for line in done.stderr.splitlines() if line.strip()][-1]
        return {"outcome": f"fails: {last[:160]}"}
    return json.loads(done.stdout.splitlines()[-1])


def main(names: list[str]) -> None:
    rows = [r for r in read("exactness") if r["network"] not in names]
    for name in names:
        row = {"network": name, "secateur": one("secateur", name), "torch_pruning": one("torch_pruning", name)}
        rows.append(row)
        print(json.dumps(row))
        write("exactness", sorted(rows, key=lambda r: NETWORKS.index(r["network"])), threads=1, ratio=0.5)
    into_docs(DOCS, "exactness", render(read("exactness")))


def render(rows: list[dict[str, Any]]) -> str:
    head = [
        "network",
        "Secateur",
        "verified difference",
        "parameters left",
        "MACs left",
        "Torch-Pruning 1.6.1",
        "parameters left",
    ]
    body = []
    for row in rows:
        ours, theirs = row["secateur"], row["torch_pruning"]
        left = f"{theirs['params']:.1%}" if "params" in theirs else "–"
        body.append([row["network"], f"{ours['outcome']} ({ours.get('backend')})", f"{ours['difference']:.1e}",
                     f"{ours['params']:.1%}", f"{ours['macs']:.1%}", theirs["outcome"], left])  # fmt: skip
    return table(head, body)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["--one"]:
        print(
            json.dumps({"secateur": secateur_outcome, "torch_pruning": torch_pruning_outcome}[sys.argv[2]](sys.argv[3]))
        )
    else:
        main(sys.argv[1:] or NETWORKS)
