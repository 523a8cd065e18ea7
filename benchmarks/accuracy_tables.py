"""The tables of docs/accuracy.md, made of the rows that benchmarks/accuracy.py wrote."""

from __future__ import annotations

from pathlib import Path
from statistics import mean, stdev
from typing import Any

from records import RESULTS, into_docs, read, table

DOCS = Path(__file__).resolve().parents[1] / "docs/accuracy.md"
STAGES = ("none", "batch norm", "repaired", "1 epochs", "3 epochs")

Row = dict[str, Any]


def spread(values: list[float], *, signed: bool = False) -> str:
    """Mean ± standard deviation, and the number of seeds where there are not three."""
    if not values:
        return "–"
    text = f"{mean(values):+.2f}" if signed else f"{mean(values):.2f}"
    text += f" ± {stdev(values):.2f}" if len(values) > 1 else ""
    return text if len(values) == 3 else f"{text} ({len(values)})"


def by_network(rows: list[Row]) -> str:
    """One table per network on which both tools run."""
    parts = []
    for name in dict.fromkeys(r["network"] for r in rows if "Torch-Pruning" in r["way"]):
        mine = [r for r in rows if r["network"] == name]
        body = []
        for reduction in sorted({r["reduction"] for r in mine}):
            for way in dict.fromkeys(r["way"] for r in mine if r["reduction"] == reduction):
                these = [r for r in mine if r["reduction"] == reduction and r["way"] == way]
                cells = [spread([r["top1"] for r in these if r["stage"] == stage]) for stage in STAGES]
                macs = mean(r["macs"] for r in these) / 1e6
                body.append([f"{reduction}×", way, f"{macs:.2f} M", *cells])
        head = ["fewer MACs", "tool", "MACs", "as cut, %", "batch-norm statistics, %", "repaired, %", "1 epoch, %",
                "3 epochs, %"]  # fmt: skip
        parts.append(f"**{name}** ({mine[0]['train_images']:,} images of fine-tuning)\n\n{table(head, body)}")
    return "\n\n".join(parts)


def ahead(rows: list[Row]) -> str:
    """Secateur less the better of Torch-Pruning's two criteria, seed by seed, at every point."""
    body = []
    keys = [(r["network"], r["reduction"]) for r in rows if "Torch-Pruning" in r["way"]]
    for name, reduction in dict.fromkeys(keys):
        cells = []
        for stage, other in (("repaired", "batch norm"), ("1 epochs", "1 epochs"), ("3 epochs", "3 epochs")):
            cells.append(spread(_gaps(rows, name, reduction, stage, other), signed=True))
        body.append([name, f"{reduction}×", *cells])
    head = ["network", "fewer MACs", "before training, points", "1 epoch, points", "3 epochs, points"]
    return table(head, body)


def _gaps(rows: list[Row], name: str, reduction: float, stage: str, other: str) -> list[float]:
    here = [r for r in rows if (r["network"], r["reduction"]) == (name, reduction)]
    gaps = []
    for seed in sorted({r["seed"] for r in here}):
        mine = [r["top1"] for r in here if r["seed"] == seed and r["way"] == "Secateur" and r["stage"] == stage]
        peers = [r["top1"] for r in here if r["seed"] == seed and "Torch" in r["way"] and r["stage"] == other]
        if mine and len(peers) == 2:
            gaps.append(mine[0] - max(peers))
    return gaps


def against_dense(rows: list[Row]) -> str:
    """The networks that Torch-Pruning cannot cut: beside the dense one, trained on for as long."""
    names = dict.fromkeys(r["network"] for r in rows if r["way"] == "dense")
    body = []
    for name in names:
        mine = [r for r in rows if r["network"] == name]
        for way in dict.fromkeys(r["way"] for r in mine):
            these = [r for r in mine if r["way"] == way]
            cells = [spread([r["top1"] for r in these if r["stage"] == stage]) for stage in STAGES]
            size = [f"{mean(r[k] for r in these) / 1e6:.3f} M" for k in ("macs", "params")]
            body.append([name, way, *size, *cells])
    head = ["network", "", "MACs", "parameters", "as it is, %", "batch-norm statistics, %", "repaired, %",
            "1 epoch, %", "3 epochs, %"]  # fmt: skip
    return table(head, body)


def into_page() -> None:
    """Writes the three tables into the page, of all rows that there are."""
    rows = [row for path in sorted(RESULTS.glob("accuracy-*.json")) for row in read(path.stem)]
    into_docs(DOCS, "dense", against_dense(rows))
    into_docs(DOCS, "ahead", ahead(rows))
    into_docs(DOCS, "networks", by_network(rows))
