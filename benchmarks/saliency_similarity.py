"""Saliency first and similarity later, against each alone, with and without repair: ResNet-20 and VGG-16 on CIFAR-10.

    python benchmarks/saliency_similarity.py [--networks resnet20 vgg16] [--seeds 0 1 2] [--data …] [--work FOLDER]
    python benchmarks/saliency_similarity.py --limit 300      a trial: nothing is written

The steps of the built-in recipe `saliency-then-similarity`, and the same with one criterion throughout; each also with
repair by least squares between a cut and its fine-tuning. All begin with the dense network of the seed (benchmarks/
dense.py), end at the same MACs and are trained equally long. Runs go on where they were stopped; rows that are done
stay. Writes results/saliency_similarity.json and the tables of docs/saliency-then-similarity.md.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from dense import from_dense, parser, trained
from records import into_docs, read, table, write

from secateur.core.files import write_text

NAME = "saliency_similarity"
DOCS = Path(__file__).resolve().parents[1] / "docs/saliency-then-similarity.md"
WAYS = {
    "saliency, then similarity": "[{until: 2, name: taylor}, {name: map_similarity}]",
    "saliency alone": "taylor",
    "similarity alone": "map_similarity",
}
"""What each way is called, and its criterion by round."""

RECIPE = """
name: saliency-similarity
description: One way of the comparison.
seed: 0
model: {{name: given}}
steps:
- adapt: {{epochs: 0}}
- iterate:
    rounds: 4
    schedule: linear
    steps:
    - prune: {{criterion: {criterion}, macs: {macs}, scope: block, calibration: 512}}{repair}
    - finetune: {{lr: 0.02, epochs: {epochs}}}
- measure: {{runtimes: []}}
- report:
"""
REPAIR = "\n    - recover: {images: 512}"
MACS, EPOCHS = 0.35, 2


def row(network: str, seed: int, way: str, repair: bool, given: Any) -> dict[str, Any]:
    """One way, from the dense network of its seed."""
    short = 1 if given.limit else None
    model = trained(network, seed, data=given.data, work=given.work, limit=given.limit, epochs=short)
    folder = given.work / f"similarity-{network}-{seed}-{way.replace(', ', '-').replace(' ', '-')}-{repair}"
    folder.mkdir(parents=True, exist_ok=True)
    text = RECIPE.format(criterion=WAYS[way], macs=MACS, epochs=short or EPOCHS, repair=REPAIR if repair else "")
    write_text(folder / "given.yaml", text)
    run = from_dense(folder / "given.yaml", model, folder / "run", data=given.data, limit=given.limit, seed=seed)
    files = sorted((run.folder / "steps").glob("*/result.json"))
    results = [(f.parent.name.partition("-")[2], json.loads(f.read_text())["result"]) for f in files]
    after = {kind: [r["evaluations"]["pruned"]["top1"] for k, r in results if k == kind]
             for kind in ("prune", "recover", "finetune")}  # fmt: skip
    networks = {n["role"]: n["measurement"] for n in run.results["networks"]}
    sizes = {role: {k: networks[role][k] for k in ("params", "macs")} for role in ("dense", "pruned")}
    return {
        "network": network, "seed": seed, "way": way, "repair": repair, "dense": networks["dense"]["quality"]["top1"],
        "top1": networks["pruned"]["quality"]["top1"], "after": after, "sizes": sizes,
        "minutes": round(run.results["duration_s"] / 60, 1),
    }  # fmt: skip


def spread(values: list[float]) -> str:
    """Mean ± standard deviation."""
    return f"{mean(values):.2f} ± {stdev(values):.2f}" if len(values) > 1 else f"{values[0]:.2f}"


def summary(rows: list[dict[str, Any]]) -> str:
    """One line a network, way and repair: mean and spread over the seeds, and the difference from saliency alone."""
    by = {(r["network"], r["way"], r["repair"], r["seed"]): r for r in rows}
    body = []
    for network, way, repair in dict.fromkeys(key[:3] for key in by):
        mine = [r for key, r in by.items() if key[:3] == (network, way, repair)]
        others = [by.get((network, "saliency alone", repair, r["seed"])) for r in mine]
        gaps = [r["top1"] - other["top1"] for r, other in zip(mine, others, strict=True) if other]
        lost = [r["after"]["recover" if repair else "prune"][-1] for r in mine]
        sizes = mine[0]["sizes"]
        body.append([
            network, way, "repaired" if repair else "", len(mine),
            *(f"{sizes['pruned'][k]:,} of {sizes['dense'][k]:,}" for k in ("params", "macs")),
            spread([r["dense"] for r in mine]), spread(lost), spread([r["top1"] for r in mine]),
            "–" if way == "saliency alone" or not gaps else spread(gaps),
        ])  # fmt: skip
    head = ["", "Chosen by", "", "Seeds", "Parameters", "MACs", "Dense, top-1, %", "Before the last fine-tuning, %",
            "At the end, %", "Against saliency alone"]  # fmt: skip
    return table(head, body)


def by_round(rows: list[dict[str, Any]]) -> str:
    """Mean accuracy after each round's cut, repair and fine-tuning."""
    body = []
    for network, way, repair in dict.fromkeys((r["network"], r["way"], r["repair"]) for r in rows):
        mine = [r["after"] for r in rows if (r["network"], r["way"], r["repair"]) == (network, way, repair)]
        stages = ("prune", "recover", "finetune") if repair else ("prune", "finetune")
        rounds = [
            " → ".join(f"{mean(r[s][k] for r in mine):.1f}" for s in stages) for k in range(len(mine[0]["prune"]))
        ]
        body.append([network, way, "repaired" if repair else "", *rounds])
    return table(["", "Chosen by", "", *(f"Round {k + 1}" for k in range(len(body[0]) - 3))], body)


def main() -> None:
    options = parser(__doc__, "source-systems")
    options.add_argument("--networks", nargs="+", choices=["resnet20", "vgg16"], default=["resnet20", "vgg16"])
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of ResNet-20; VGG-16 has the first")
    given = options.parse_args()
    rows = [] if given.limit else [r for r in read(NAME) if "repair" in r]  # not those of the earlier, smaller form
    for network in given.networks:
        for seed in given.seeds if network == "resnet20" else given.seeds[:1]:
            for way in WAYS:
                for repair in (False, True):
                    key = (network, seed, way, repair)
                    if key not in {(r["network"], r["seed"], r["way"], r["repair"]) for r in rows}:
                        rows.append(row(network, seed, way, repair, given))
                        if given.limit is None:
                            write(NAME, rows, finetune_epochs=EPOCHS, macs=MACS)
                            into_docs(DOCS, "summary", summary(rows))
                            into_docs(DOCS, "rounds", by_round(rows))
    print(summary(rows), by_round(rows), sep="\n\n")


if __name__ == "__main__":
    main()
