"""Seconds of every stage against the number of operators: a chain of residual blocks, ever longer.

Run: python benchmarks/scaling.py

Linear means that the milliseconds per block stay the same. One thread, the median of three runs each. Writes
results/scaling.json and the table in docs/coverage.md.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from records import into_docs, table, write
from torch import Tensor, nn

from secateur.cost.counts import Costs
from secateur.graph.flow import flow
from secateur.graph.groups import solve
from secateur.graph.trace import trace
from secateur.surgery import prune_module, verify

DOCS = Path(__file__).resolve().parents[1] / "docs/coverage.md"
DEPTHS = (50, 100, 200, 400, 800)


class Block(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.a, self.norm, self.b = (
            nn.Conv2d(width, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.Conv2d(width, width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(torch.relu(self.norm(self.a(x))))


def stages(depth: int) -> dict[str, float]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 1), *(Block() for _ in range(depth)), nn.Conv2d(16, 4, 1)).eval()
    clock = [time.perf_counter()]

    def lap() -> float:
        clock.append(time.perf_counter())
        return clock[-1] - clock[-2]

    found: dict[str, float] = {}
    traced = trace(model, torch.randn(1, 3, 8, 8))
    found["trace"] = lap()
    groups = solve(flow(traced))
    found["flow and groups"] = lap()
    costs = Costs(groups)
    keep = np.arange(groups.units) % 2 == 0
    costs.counts(keep)
    found["costs"] = lap()
    labels = groups.label_keep(keep)
    plan: Any = {n: {d: np.flatnonzero(m).tolist() for d, m in groups.masks(t, labels).items()}
                 for n, t in groups.flow.tensors.items()}  # fmt: skip
    pruned = prune_module(model, plan)
    found["surgery"] = lap()
    verify(pruned, groups, labels, plan)
    found["verification"] = lap()
    return found


def main() -> None:
    stages(5)  # warms up
    rows = []
    for depth in DEPTHS:
        runs = [stages(depth) for _ in range(3)]
        rows.append({"blocks": depth, **{k: median(r[k] for r in runs) for k in runs[0]}})
        print(rows[-1], flush=True)
    write("scaling", rows, threads=1, runs=3)
    names = [k for k in rows[0] if k != "blocks"]
    body = [[r["blocks"], *(f"{1000 * r[k] / r['blocks']:.2f}" for k in names)] for r in rows]
    into_docs(DOCS, "scaling", table(["blocks", *(f"{k}, ms per block" for k in names)], body))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
