"""Double pruning (Network Slimming, then single weights) of VGG-16, ResNet-20 and MobileNetV3-small, with NetScores.

    python benchmarks/double_pruning.py [--only NETWORK …] [--data CIFAR10_ARCHIVE_OR_MNIST_FOLDER] [--work FOLDER]
    python benchmarks/double_pruning.py --limit 300      a trial: nothing is written

Every network begins as the dense one of benchmarks/dense.py and is trained on with the L1 penalty on its batch-norm
scales; then channels go in six steps (VGG-16: four) and single weights by magnitude in as many, with fine-tuning after
each: the steps of the built-in recipe `double-pruning`. All networks are trained alike. Runs go on where they were
stopped. Writes results/double_pruning.json, and for CIFAR-10 the tables and the chart of docs/double-pruning.md.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dense import from_dense, images, parser, trained
from records import into_docs, read, table, write

from secateur.core.files import write_text

NAME = "double_pruning"
DOCS = Path(__file__).resolve().parents[1] / "docs"
NETWORKS = {"vgg16": ("VGG-16", 4), "resnet20": ("ResNet-20", 6), "mobilenetv3": ("MobileNetV3-small", 6)}
"""Title, and steps of each kind."""
SPARSE, EPOCHS = 5, 2

RECIPE = """
name: double-pruning
description: Double pruning in {rounds} and {rounds} steps.
seed: 0
model: {{name: given}}
steps:
- adapt: {{lr: 0.02, epochs: {sparse}, penalty: {{name: bn_l1, weight: 0.001}}}}
- score:
- iterate:
    rounds: {rounds}
    steps:
    - prune: {{criterion: bn_scale, scope: global, ratio: 0.6, min_units: 4}}
    - finetune: {{lr: 0.02, epochs: {epochs}}}
    - score:
- iterate:
    rounds: {rounds}
    steps:
    - sparsify: {{ratio: 0.8, scope: global, criterion: magnitude}}
    - finetune: {{lr: 0.02, epochs: {epochs}}}
    - score:
- measure: {{runtimes: []}}
- report:
"""


def points(name: str, given: Any) -> list[dict[str, Any]]:
    """Runs the recipe, or goes on with it, and returns one row per scored network."""
    short = 1 if given.limit else None
    data = images(given.data, given.limit).name
    model = trained(name, data=given.data, work=given.work, limit=given.limit, epochs=short)
    folder = given.work / f"double-{data}-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    text = RECIPE.format(rounds=NETWORKS[name][1], sparse=short or SPARSE, epochs=short or EPOCHS)
    write_text(folder / "given.yaml", text)
    done = from_dense(folder / "given.yaml", model, folder / "run", data=given.data, limit=given.limit, adapt=True)
    seconds = done.results["duration_s"]
    return [{"data": data, "network": name, **point, "run_s": seconds} for point in done.results["points"]]


HEAD = ["", "Parameters", "Not zero", "MACs", "Top-1, %", "NetScore"]


def rows_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table of one network."""
    first = rows[0]
    body = []
    for row in rows:
        left = f"{row['nonzero_params']:,} ({first['nonzero_params'] / row['nonzero_params']:.1f}×)"
        macs = f"{row['macs']:,} ({first['macs'] / row['macs']:.2f}×)"
        change = f"{row['netscore']:.2f} ({row['netscore'] - first['netscore']:+.2f})"
        body.append([row["label"], f"{row['params']:,}", left, macs, f"{row['value']:.2f}", change])
    return table(HEAD, body)


def highest(rows: Sequence[Mapping[str, Any]]) -> str:
    """Each network dense, with its highest NetScore, and where it loses at most a point."""
    body = []
    for name in dict.fromkeys(row["network"] for row in rows):
        mine = [row for row in rows if row["network"] == name and not row.get("at_chance")]
        kept = [row for row in mine if row["value"] >= mine[0]["value"] - 1]
        chosen = (mine[0], max(mine, key=lambda r: r["netscore"]), max(kept, key=lambda r: r["netscore"]))
        body.append([NETWORKS[name][0], *(f"{r['netscore']:.2f} at {r['value']:.2f} % ({r['label']})" for r in chosen)])
    return table(["", "Dense", "Highest NetScore", "Highest with at most a point lost"], body)


COLOURS = {"resnet20": "#15803d", "vgg16": "#b45309", "mobilenetv3": "#7c3aed"}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', Arial, sans-serif"
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 760, 400, 64, 56, 24, 56


def chart(rows: Sequence[Mapping[str, Any]]) -> str:
    """NetScore over compression, one line a network, as SVG."""
    lines = {name: [r for r in rows if r["network"] == name] for name in NETWORKS}
    ratios = {
        n: [found[0]["nonzero_params"] / r["nonzero_params"] for r in found] for n, found in lines.items() if found
    }
    low = 5 * math.floor(min(r["netscore"] for r in rows) / 5)
    high = 5 * math.ceil(max(r["netscore"] for r in rows) / 5)
    end = math.log(1.15 * max(max(found) for found in ratios.values()))

    def x(ratio: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log(ratio) / end

    def y(score: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (score - low) / (high - low)

    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
    frame = f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="10" fill="#fff" stroke="#d8ded9"/>'
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="{FONT}" font-size="13" fill="#55615b">', frame]
    for score in range(low, high + 1, 5):
        out.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(score):.1f}" y2="{y(score):.1f}" stroke="#e1e5e1"/>')
        out.append(f'<text x="{LEFT - 10}" y="{y(score) + 4:.1f}" text-anchor="end">{score}</text>')
    for ratio in (1, 2, 3, 5, 10, 20, 30, 50, 100):
        if math.log(ratio) <= end:
            out.append(f'<text x="{x(ratio):.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{ratio}×</text>')
    caption = "compression: dense / non-zero parameters (logarithmic)"
    out.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 12}" text-anchor="middle">{caption}</text>')
    out.append('<text x="24" y="34" font-size="16" font-weight="600" fill="#17211d">NetScore</text>')
    for place, (name, found) in enumerate(ratios.items()):
        spots = [(x(ratio), y(row["netscore"])) for ratio, row in zip(found, lines[name], strict=True)]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in spots)
        out.append(f'<polyline points="{path}" fill="none" stroke="{COLOURS[name]}" stroke-width="2.5"/>')
        out += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="4.5" fill="{COLOURS[name]}"/>' for a, b in spots]
        at = 150 + 200 * place
        out.append(f'<circle cx="{at}" cy="30" r="5" fill="{COLOURS[name]}"/>')
        out.append(f'<text x="{at + 12}" y="34" fill="#17211d">{html.escape(NETWORKS[name][0])}</text>')
    return "\n".join([*out, "</svg>", ""])


def pages(rows: Sequence[Mapping[str, Any]]) -> None:
    """Puts the tables and the chart into the docs."""
    page = DOCS / "double-pruning.md"
    for name, (title, _) in NETWORKS.items():
        found = [row for row in rows if row["network"] == name]
        if found:
            minutes = f"The run took {found[0]['run_s'] / 60:.1f} minutes."
            into_docs(page, name, f"**{title}.** {minutes}\n\n{rows_of(found)}")
    into_docs(page, "highest", highest(rows))
    (DOCS / "double-pruning.svg").write_text(chart(rows))


def main() -> None:
    options = parser(__doc__, "source-systems")
    options.add_argument("--only", nargs="*", default=list(NETWORKS), choices=list(NETWORKS))
    given = options.parse_args()
    for name in given.only:
        found = points(name, given)
        print(rows_of(found))
        if given.limit is None:
            data = found[0]["data"]
            old = [row for row in read(NAME) if "data" in row]  # not those of the earlier, smaller form
            rows = [row for row in old if (row["data"], row["network"]) != (data, name)] + found
            write(NAME, rows, seed=0, sparse_epochs=SPARSE, finetune_epochs=EPOCHS)
            if data.startswith("cifar"):
                pages([row for row in rows if row["data"] == data])


if __name__ == "__main__":
    main()
