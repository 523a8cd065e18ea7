"""Double pruning (Network Slimming, then parameter pruning) of a ResNet, a VGG and a MobileNetV3 on CIFAR-10.

Run: python benchmarks/double_pruning.py --data ARCHIVE --weights RESNET20 [--work FOLDER] [--only NETWORK ...]

Every network is one run of the built-in recipe `double-pruning` in a folder of its own below --work; started again,
the script goes on with runs that were stopped. It writes benchmarks/results/double_pruning.json, the tables of
docs/double-pruning.md and docs/double-pruning.svg. `--limit 500 --no-docs` is a quick trial.
"""

from __future__ import annotations

import argparse
import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from records import into_docs, read, table, write
from torch import Tensor, nn

from secateur.recipe import load_recipe, override, resume, run

DOCS = Path(__file__).resolve().parents[1] / "docs"

FROM_SCRATCH = ["steps.adapt.epochs=8", "steps.adapt.lr=0.05", "steps.adapt.penalty.weight=0.001"]
NETWORKS: Mapping[str, tuple[str, list[str]]] = {
    "resnet20": ("ResNet-20, pretrained", ["model.name=resnet20", "steps.adapt.epochs=2", "steps.adapt.lr=0.02",
                                           "steps.adapt.penalty.weight=0.003"]),
    "vgg11": ("VGG-11, half width", ["model.name=double_pruning:VGG11", *FROM_SCRATCH]),
    "mobilenetv3": ("MobileNetV3-small", ["model.name=mobilenetv3_small_cifar", *FROM_SCRATCH]),
}  # fmt: skip
SHARED = ["data.validation=0.02", "steps.prune.ratio=0.5", "steps.prune.min_units=4", "steps.sparsify.ratio=0.8",
          "steps.sparsify.criterion=lamp",
          "steps.finetune.epochs=1", "steps.measure.runtimes=[]", "seed=0"]  # fmt: skip


class VGG11(nn.Module):
    """VGG-11 with batch norm for 32×32 images, half as wide as usual, one linear layer (arXiv:1409.1556, column A)."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for stage in ((32,), (64,), (128, 128), (256, 256), (256, 256)):
            for width in stage:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features, self.classifier = nn.Sequential(*layers), nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))  # type: ignore[no-any-return]


def points(name: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Runs the recipe, or goes on with it, and returns one row per scored network."""
    settings = [*NETWORKS[name][1], *SHARED, f"data.name={arguments.data}"]
    settings += [f"model.weights={arguments.weights}"] if name == "resnet20" and arguments.weights else []
    settings += [f"data.limit={arguments.limit}"] if arguments.limit else []
    settings += arguments.set
    folder = arguments.work / name
    if (folder / "recipe.yaml").exists():
        done = resume(folder)
    else:
        recipe = load_recipe("double-pruning", edit=lambda tree: override(tree, settings))
        done = run(recipe, folder, on_event=lambda e: print(name, e.what, e.step, dict(e.summary), flush=True))
    seconds = done.results["duration_s"]
    return [{"network": name, **point, "run_s": seconds} for point in done.results["points"]]


# ------------------------------------------------------------------------------------------------------- pages

HEAD = ["", "parameters", "not zero", "MACs", "top-1, %", "NetScore"]


def rows_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table of one network."""
    first = rows[0]
    body = []
    for row in rows:
        left = f"{row['nonzero_params']:,} ({first['nonzero_params'] / row['nonzero_params']:.1f}×)"
        macs = f"{row['macs']:,} ({first['macs'] / row['macs']:.2f}×)"
        change = f"{row['netscore']:.2f} ({row['netscore'] - first['netscore']:+.2f})"
        body.append([row["label"], f"{row['params']:,}", left, macs, f"{row['top1']:.2f}", change])
    return table(HEAD, body)


COLOURS = {"resnet20": "#15803d", "vgg11": "#b45309", "mobilenetv3": "#7c3aed"}
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
    for name, (title, _) in NETWORKS.items():
        found = [row for row in rows if row["network"] == name]
        if found:
            minutes = f"The run took {found[0]['run_s'] / 60:.1f} minutes."
            into_docs(DOCS / "double-pruning.md", name, f"**{title}.** {minutes}\n\n{rows_of(found)}")
    (DOCS / "double-pruning.svg").write_text(chart(rows))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--weights")
    parser.add_argument("--work", type=Path, default=Path("double-pruning-runs"))
    parser.add_argument("--only", nargs="*", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--limit", type=int)
    parser.add_argument("--set", nargs="*", default=[], help="further settings, such as steps.finetune.epochs=3")
    parser.add_argument("--no-docs", action="store_true")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    for name in arguments.only:
        found = points(name, arguments)
        if arguments.no_docs:
            print(rows_of(found))
            continue
        rows = [row for row in read("double_pruning") if row["network"] != name] + found
        limit = arguments.limit or "all"
        write("double_pruning", rows, seed=0, threads=torch.get_num_threads(), images=limit,
              settings=[*SHARED, *arguments.set])  # fmt: skip
        pages(rows)


if __name__ == "__main__":
    main()
