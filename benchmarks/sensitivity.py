"""Half the MACs without training: the same ratio everywhere, or ratios that come of every group's sensitivity.

Run: python benchmarks/sensitivity.py WEIGHTS DATA [--limit TEST_IMAGES]

ResNet-20 on CIFAR-10, lowest L2 norm first, all 10,000 test images. `all`: every group is cut, the residual streams
too; `inner`: the channels inside the blocks alone. Sensitivity looks at 500 training images (for the output error
without their labels), drawn by three seeds. Every cut is scored as it comes, and once more after repair by least
squares on the same images. Rows that are there are not done again.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from records import into_docs, read, table, write
from torch import Tensor, nn

import secateur
from secateur.data import DataSet, load
from secateur.models import create, normalisation
from secateur.train import evaluate

NAME = "sensitivity"
DOCS = Path(__file__).resolve().parents[1] / "docs" / "sensitivity.md"
IMAGES, MACS = 500, 0.5
WAYS = {"uniform": "the same ratio", "error": "output error", "top1": "top-1"}
SEEDS = {"uniform": 1, "error": 3, "top1": 3}


def kept(model: nn.Module, groups: str) -> list[str]:
    """What keeps its output channels."""
    if groups == "all":
        return []
    return [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and not n.endswith(".conv1")] + ["conv1"]


def ratios(job: dict[str, Any], model: nn.Module, x: Tensor, labels: Tensor) -> dict[str, float]:
    """Ratios by layer of one way."""

    def top1(network: Any) -> float:
        with torch.no_grad():
            hits = sum(
                int((network(a).argmax(1) == b).sum()) for a, b in zip(x.split(100), labels.split(100), strict=True)
            )
        return 100 * hits / len(x)

    score = top1 if job["way"] == "top1" else None
    found = secateur.sensitivity(model, x[:2], data=x, score=score, ignore=kept(model, job["groups"]))
    return found.ratios(macs=MACS)


def measured(job: dict[str, Any], model: nn.Module, data: DataSet) -> dict[str, Any]:
    """Measures, cuts, and scores the cut as it comes and repaired."""
    batches = list(data.labelled(IMAGES, seed=job["seed"]))
    x, labels = torch.cat([a for a, _ in batches]), torch.cat([b for _, b in batches])
    began = time.perf_counter()
    if job["way"] == "uniform":
        amount: dict[str, Any] = {"macs": MACS}
    else:
        amount = {"ratio": ratios(job, model, x, labels)}
    seconds = time.perf_counter() - began
    cut = secateur.prune(model, x[:2], ignore=kept(model, job["groups"]), **amount)
    fixed = secateur.recover(cut, x)
    scored = {name: round(evaluate(one.model, data, "test", batch_size=100).metrics["top1"], 2)
              for name, one in (("top1", cut), ("top1_repaired", fixed))}  # fmt: skip
    sizes = {"macs": cut.after.macs, "macs_dense": cut.before.macs, "params": cut.after.params}
    return job | scored | sizes | {"seconds": round(seconds, 1), "ratio": amount.get("ratio")}


def page(rows: list[dict[str, Any]], dense: float) -> str:
    """The table of docs/sensitivity.md: means over seeds, with the least and the most."""
    body = []
    for groups in ("all", "inner"):
        for way, words in WAYS.items():
            found = [r for r in rows if (r["groups"], r["way"]) == (groups, way)]
            if found:
                macs = mean(r["macs"] / r["macs_dense"] for r in found)
                seconds = "–" if way == "uniform" else f"{mean(r['seconds'] for r in found):.0f}"
                body.append([groups, words, f"{macs:.1%}", _spread(found, "top1"), _spread(found, "top1_repaired"),
                             f"{dense:.2f}", seconds])  # fmt: skip
    head = ["groups", "ratios from", "MACs", "top-1 as cut, %", "repaired, %", "dense, %", "seconds to measure"]
    return table(head, body)


def _spread(rows: list[dict[str, Any]], key: str) -> str:
    values = [r[key] for r in rows]
    return f"{mean(values):.2f}" + (f" ({min(values):.2f}–{max(values):.2f})" if len(values) > 1 else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--limit", type=int, help="test images")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    known = normalisation("resnet20")
    data = load(f"cifar10:{arguments.data}", limit=arguments.limit)
    data = data.with_normalisation(*known) if known else data
    model = create("resnet20", weights=arguments.weights).eval()
    rows = read(NAME)
    dense = round(evaluate(model, data, "test", batch_size=100).metrics["top1"], 2)
    facts = {"network": "resnet20", "dense": dense, "images": IMAGES, "test_images": len(data.test), "threads": 1}
    jobs = [{"groups": groups, "way": way, "seed": seed}
            for way in WAYS for groups in ("all", "inner") for seed in range(SEEDS[way])]  # fmt: skip
    for job in jobs:
        if not any(all(r[k] == v for k, v in job.items()) for r in rows):
            rows.append(measured(job, model, data))
            write(NAME, rows, **facts)
            print({k: v for k, v in rows[-1].items() if k != "ratio"}, flush=True)
    if DOCS.exists() and arguments.limit is None:
        into_docs(DOCS, "table", page(rows, dense))


if __name__ == "__main__":
    main()
