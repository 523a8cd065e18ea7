"""Seed 000 at real size: a network adapted to CIFAR-10 with an added dense layer, 10 % of every block gone, trained on.

    python benchmarks/transfer_channel.py [--only resnet50 mobilenetv2 resnet56] [--data ARCHIVE] [--work FOLDER]
    python benchmarks/transfer_channel.py --limit 300      a trial: nothing is written

The built-in recipe `transfer-channel` on torchvision's ResNet-50 (weights trained here, from fresh ones: ImageNet's
cannot be had), on MobileNetV2 with torchvision's ImageNet weights (the transfer that really is one) and on ResNet-56
with public CIFAR-10 weights. The first two see images of 64×64. Runs go on where they were stopped. Writes
results/transfer.json and the tables of docs/transfer-channel.md; benchmarks/seed_comparison.py --run
WORK/transfer-resnet50 puts that pruned network beside LiteRT.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dense import parser
from networks import SHARED
from records import into_docs, read, table, write
from run_tables import comparison, headline

import secateur
from secateur.recipe import RunResult

NAME = "transfer"
DOCS = Path(__file__).resolve().parents[1] / "docs/transfer-channel.md"
HIDDEN = ["model.head.replace=always", "model.head.hidden=256", "data.image_size=64"]
TITLES = {
    "resnet50": "ResNet-50, 64×64, trained here on 20,000 images",
    "mobilenetv2": "MobileNetV2, 64×64, ImageNet weights",
    "resnet56": "ResNet-56, 32×32, public CIFAR-10 weights",
}
RUNS = {
    "resnet50": ["model.name=torchvision:resnet50", *HIDDEN, "data.limit=20000", "steps.adapt.epochs=12",
                 "steps.adapt.lr=0.1", "steps.control.epochs=3", "steps.finetune.epochs=3"],
    "mobilenetv2": ["model.name=torchvision:mobilenet_v2", *HIDDEN, "data.limit=20000", "steps.adapt.epochs=6",
                    f"model.weights={SHARED / 'models/mobilenet_v2-imagenet.safetensors'}",
                    "steps.control.epochs=3", "steps.finetune.epochs=3"],
    "resnet56": ["model.name=resnet56", f"model.weights={SHARED / 'models/resnet56-cifar10.safetensors'}"],
}  # fmt: skip
PAPER = {"1": (183_506, 165_155), "2": (107_336, 96_602), "3": (197_436, 177_692),
         "4 to N": (233_867_308, 210_480_578), "Total": (234_355_586, 210_920_027)}  # fmt: skip
"""Table 1 of seed 000: parameters per block, dense and pruned."""


def run(name: str, given: Any) -> RunResult:
    """Runs the recipe, or goes on with it."""
    folder = given.work / f"transfer-{name}"
    if (folder / "recipe.yaml").exists():
        found = secateur.resume(folder)
        assert isinstance(found, RunResult)
        return found
    settings = [*RUNS[name], "steps.measure.runtimes=[]"]
    if given.limit:
        settings += [f"data.limit={given.limit}", *(f"steps.{s}.epochs=1" for s in ("adapt", "control", "finetune"))]
    return secateur.run("transfer-channel", folder, data=str(given.data), set=settings)


def curves(results: dict[str, Any]) -> str:
    """Figure 3: training and validation accuracy of the dense networks and of the pruned one, by epoch."""
    found = {curve["label"]: {point["epoch"]: point for point in curve["points"]} for curve in results["curves"]}
    body = []
    for epoch in sorted({epoch for points in found.values() for epoch in points}):
        cells = [
            points[epoch][part].get("top1") if epoch in points else None
            for points in found.values()
            for part in ("train", "validation")
        ]
        body.append([epoch, *("–" if cell is None else f"{cell:.1f}" for cell in cells)])
    return table(["Epoch", *(f"{label}, {part}" for label in found for part in ("train", "validation"))], body)


def blocks(results: dict[str, Any]) -> str:
    """Table 1: parameters of every block, and the share that went."""
    body = []
    for block in results["blocks"]:
        name, dense, pruned = block.values()
        body.append([name, f"{dense:,}", f"{pruned:,}", f"{1 - pruned / dense:.1%}"])
    return table(["Block", "Dense", "Pruned", "Gone"], body)


def main() -> None:
    options = parser(__doc__, "source-systems")
    options.add_argument("--only", nargs="+", choices=list(RUNS), default=list(RUNS))
    given = options.parse_args()
    for name in given.only:
        results = run(name, given).results
        print(headline(results), blocks(results), curves(results), sep="\n\n")
        if given.limit is None:
            kept = {k: v for k, v in results.items() if k not in ("command", "recipe_yaml")}
            others = [row for row in read(NAME) if row["network"] != name]
            rows = sorted([*others, {"network": name, **kept}], key=lambda row: list(RUNS).index(row["network"]))
            write(NAME, rows, seeds=1)
            into_docs(DOCS, "comparison", comparison({TITLES[row["network"]]: row for row in rows}))
            first = rows[0]
            into_docs(DOCS, "headline", f"{TITLES[first['network']]}:\n\n{headline(first)}")
            into_docs(DOCS, "blocks", blocks(first))
            into_docs(DOCS, "curves", curves(first))


if __name__ == "__main__":
    main()
