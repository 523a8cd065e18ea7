"""Network trimming on CIFAR-10: six rounds on VGG-16, accuracy before and after fine-tuning.

Run: python benchmarks/network_trimming.py [--data ARCHIVE] [--work FOLDER] [--limit IMAGES]

Table 1 of Hu et al. 2016: CONV5-3 and FC6 of VGG-16 lose, in every round, the neurons whose APoZ is above the mean of
their layer by more than one standard deviation, and the network is trained on from the weights that survived. The dense
network is that of benchmarks/dense.py; the run is the built-in recipe `network-trimming`. Both go on where they were
stopped. It writes results/network_trimming.json and the table of docs/network-trimming.md. `--limit 500` is a
quick trial.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from dense import from_dense, parser, trained
from records import into_docs, table, write

from secateur.recipe import RunResult

DOCS = Path(__file__).resolve().parents[1] / "docs"
EPOCHS = 2
TRIMMED = {"features.40": "CONV5-3", "classifier.0": "FC6"}
PAPER = [
    ((512, 4096), 1.00, 68.36, 88.44, 68.36, 88.44), ((488, 3477), 1.19, 64.09, 85.90, 71.17, 90.28),
    ((451, 2937), 1.45, 66.77, 87.57, 71.08, 90.44), ((430, 2479), 1.71, 68.67, 89.17, 71.06, 90.34),
    ((420, 2121), 1.96, 69.53, 89.49, 71.05, 90.30), ((400, 1787), 2.28, 68.58, 88.92, 70.64, 89.97),
    ((390, 1513), 2.59, 69.29, 89.07, 70.44, 89.79),
]  # fmt: skip
"""Table 1 of Hu et al.: widths, compression rate, top-1 and top-5 before and after fine-tuning, in per cent."""


def trimmed(data: Path, work: Path, limit: int | None) -> RunResult:
    """Runs the recipe on the dense network, or goes on with it."""
    model = trained("vgg16", data=data, work=work, limit=limit, epochs=1 if limit else None)
    settings = [f"steps.prune.only=[{', '.join(TRIMMED)}]", f"steps.finetune.epochs={EPOCHS}"]
    return from_dense("network-trimming", model, work / "trimming", settings=settings, data=data, limit=limit)


def rounds(done: RunResult) -> list[dict[str, Any]]:
    """One row per network: dense, then each round's, before and after its fine-tuning."""
    dense = done.results["networks"][0]["measurement"]
    widths = {name: 512 if name == "features.40" else 4096 for name in TRIMMED}
    rows = [_row("dense", dense, dense, widths, dense["quality"], dense["quality"])]
    points = [point["widths"] for point in done.results["points"]]
    files = sorted((done.folder / "steps").glob("*/result.json"))
    results = [(f.parent.name.partition("-")[2], json.loads(f.read_text())["result"]) for f in files]
    for (kind, cut), (then, tuned) in pairwise(results):
        if (kind, then) == ("prune", "finetune"):
            before, after = (r["evaluations"]["pruned"] for r in (cut, tuned))
            now = {name: points[len(rows) - 1].get(name, widths[name]) for name in TRIMMED}
            rows.append(_row(f"round {len(rows)}", cut["summary"], dense, now, before, after))
    return rows


def _row(
    name: str, size: Mapping[str, Any], dense: Mapping[str, Any], widths: Mapping[str, int],
    before: Mapping[str, Any], after: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    return {
        "network": name,
        "widths": {TRIMMED[layer]: width for layer, width in widths.items()},
        "params": size["params"],
        "macs": size["macs"],
        "compression": dense["params"] / size["params"],
        **{f"{key}_before": before[key] for key in ("top1", "top5")},
        **{f"{key}_after": after[key] for key in ("top1", "top5")},
    }


HEAD = ["(CONV5-3, FC6)", "Compression", "Before: top-1, %", "top-5, %", "After: top-1, %", "top-5, %", "Parameters",
        "The paper's: widths", "Compression", "Before: top-1, %", "After: top-1, %"]  # fmt: skip


def page(rows: list[dict[str, Any]]) -> str:
    """The table, in the columns of the paper's and with its figures beside ours."""
    body = []
    for row, paper in zip(rows, PAPER, strict=True):
        widths, rate, top1_before, _, top1_after, _ = paper
        quality = (f"{row[key]:.2f}" for key in ("top1_before", "top5_before", "top1_after", "top5_after"))
        own = tuple(row["widths"].values())
        body.append([own, f"{row['compression']:.2f}", *quality, f"{row['params']:,}",
                     widths, f"{rate:.2f}", f"{top1_before:.2f}", f"{top1_after:.2f}"])  # fmt: skip
    return table(HEAD, body)


def main() -> None:
    given = parser(__doc__, "source-systems").parse_args()
    done = trimmed(given.data, given.work, given.limit)
    rows = rounds(done)
    print(page(rows))
    if given.limit is None:
        write("network_trimming", rows, data=done.results["data"], duration_s=done.results["duration_s"], seeds=1,
              finetune_epochs=EPOCHS)  # fmt: skip
        into_docs(DOCS / "network-trimming.md", "rounds", f"{page(rows)}\n\n{done.results['data']}.")


if __name__ == "__main__":
    main()
