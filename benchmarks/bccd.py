"""YOLOv3-tiny on BCCD (364 images of blood cells, 416×416): trained dense, pruned by layers and channels, from scratch.

    python benchmarks/bccd.py --seed 0                 everything of one seed; goes on where it was stopped
    python benchmarks/bccd.py --model yolov3 --seed 0  the full YOLOv3 (Darknet-53): layers and channels
    python benchmarks/bccd.py --table                  writes the table of docs/detection.md alone
    python benchmarks/bccd.py --so-far                 writes what unfinished seeds have come to

Trained on the 205 training images of the data set's own splits; judged on its validation and test images together
(159), which no decision is based on: the weights of the last epoch are kept. The dense network of a seed is trained
for 70 epochs on images of 256×256 and 30 on 416×416 (so that a seed of YOLOv3-tiny takes hours, not a day), and
20 more with an L1 penalty on the batch-norm scales. Then the recipe goes on from it: residual branches (YOLOv3
alone), four fifths of the parameters by the smallest scales of the whole network, the constant part of what went
folded into the next layer, 24 epochs of fine-tuning with the dense network as teacher; and the same form trained from
fresh weights at 416×416 on as many pixels as the dense network with its penalty ("scratch-E", arXiv:1810.05270). What
the dense network gains by being trained on is in the row with the penalty. One thread. Weights stay in ``--work``;
what a seed came to goes to results/bccd.json.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from records import into_docs, read, table, write
from torch import nn

import secateur
from secateur.core.files import write_text
from secateur.data.boxes import BoxSet, BoxSplit, load_boxes
from secateur.models import create
from secateur.recipe.steps.weights import load_weights_into, save_weights
from secateur.sparsity import PENALTIES
from secateur.task import Detection
from secateur.timing import Timing
from secateur.train import TrainConfig

HERE = Path(__file__).resolve().parent
SMALL, SIZE = 256, 416
STAGES = ("small", "dense", "penalty", "finetune")
EPOCHS = (70, 30, 20, 24)

SETTINGS: dict[str, Any] = {
    "batch_size": 8, "optimizer": "adamw", "lr": 1e-3, "weight_decay": 5e-4, "schedule": "cosine", "warmup": 0.05,
    "gradient_clip": 10.0, "average": 0.995,
}  # fmt: skip

RECIPE = """
name: bccd
description: Layers, then channels, of a detector of blood cells.
seed: {seed}
model: {{name: given}}
steps:
- remove_layers: {{criterion: bn_scale, count: 10, if_any: true}}
- prune: {{criterion: bn_scale, scope: global, params: 0.2, of: dense, min_units: 4}}
- score: {{label: cut}}
- recover: {{method: bias, images: 0}}
- score: {{label: folded}}
- finetune: {{{train}, epochs: {finetune}, distill: {{teacher: dense, weight: 0.5}}}}
- scratch: {{{train}, epochs: {scratch}}}
- measure: {{runtimes: [pytorch, onnxruntime], images: 0, batches: [1], rounds: 30, budget_s: 120}}
- export: {{to: [onnx], images: 8}}
- report:
"""


def open_task(path: Path, size: int) -> Detection:
    """The data set's own splits, with its validation and test images as one."""
    found = load_boxes(path, faulty="mend")
    held = [found.validation, found.test]
    judged = BoxSplit(
        *(tuple(x for split in held for x in getattr(split, name)) for name in ("images", "boxes", "sizes"))
    )
    nothing = BoxSplit((), (), ())
    data = BoxSet(found.name, found.classes, found.train, nothing, judged, found.source, found.mended)
    return Detection(data, size=size)


def dense(small: Detection, task: Detection, name: str, seed: int, epochs: tuple[int, ...], work: Path) -> nn.Module:
    """The network after its epochs on small images and on those of full size."""
    torch.manual_seed(seed)
    model = create(name, **task.options(name))
    again = {**SETTINGS, "lr": SETTINGS["lr"] / 2}
    secateur.fit(model, small, TrainConfig(epochs=epochs[0], **SETTINGS), folder=work / "small", seed=seed)
    secateur.fit(model, task, TrainConfig(epochs=epochs[1], **again), folder=work / "dense", seed=seed, name="dense")
    return model


def penalised(task: Detection, model: nn.Module, seed: int, epochs: int, work: Path) -> nn.Module:
    """The same network, trained on with the penalty."""
    path = work / "penalised.safetensors"
    if not path.exists():
        config = TrainConfig(epochs=epochs, **{**SETTINGS, "lr": SETTINGS["lr"] / 2})
        penalty = PENALTIES["bn_l1"](weight=0.001).bind(model, task.sample(2))
        secateur.fit(model, task, config, folder=work / "penalised", seed=seed, name="penalised", extras=[penalty])
        save_weights(model, path)
    load_weights_into(model, path)
    return model


def of_equal_pixels(epochs: tuple[int, ...], size: int) -> int:
    """Epochs of full size that show a network as many pixels as the dense one saw before it was cut."""
    return round(epochs[0] * (SMALL / size) ** 2) + sum(epochs[1:3])


def judged(model: nn.Module, task: Detection, path: Path) -> dict[str, Any]:
    """What the network does on the images that nothing was decided on; kept, for it is not trained again."""
    if not path.exists():
        write_text(path, json.dumps(secateur.evaluate(model, task).to_dict()))
    return dict(json.loads(path.read_text()))


def pruned(task: Detection, model: nn.Module, seed: int, epochs: tuple[int, ...], work: Path) -> dict[str, Any]:
    """The recipe from the dense network on; goes on with a run that was stopped."""
    train = ", ".join(f"{key}: {value}" for key, value in SETTINGS.items() if key != "lr")
    longest = of_equal_pixels(epochs, task.size)
    text = RECIPE.format(seed=seed, train=train, finetune=epochs[3], scratch=longest)
    write_text(work / "bccd.yaml", text)
    folder = work / "run"
    if (folder / "recipe.yaml").exists():
        run = secateur.resume(folder, model=model, task=task)
    else:
        run = secateur.run(work / "bccd.yaml", folder, model=model, task=task)
    assert isinstance(run, secateur.recipe.RunResult)
    return dict(run.results)


def record(
    task: Detection, dense: dict[str, Any], results: dict[str, Any], epochs: tuple[int, ...], name: str, seed: int
) -> dict[str, Any]:
    """The numbers of one seed."""
    networks = {n["role"]: n["measurement"] for n in results["networks"]}
    sizes = {role: {k: networks[role][k] for k in ("params", "macs", "weight_bytes")} for role in ("dense", "pruned")}
    times = [Timing.from_json(one) for one in results["latency"]]
    return {
        "network": name,
        "seed": seed,
        "epochs": {
            **dict(zip(STAGES, epochs, strict=True)),
            "scratch": of_equal_pixels(epochs, SIZE),
        },
        "dense": {**dense, **sizes["dense"]},
        "penalised": networks["dense"]["quality"],
        "pruned": {**networks["pruned"]["quality"], **sizes["pruned"]},
        "scratch": networks["scratch"]["quality"],
        "points": results["points"],
        "ms": {f"{t.model}, {t.runtime} {t.direction}": t.median_ms for t in times},
        "minutes": round(results["duration_s"] / 60, 1),
        "threads": 1,
        "test_images": task.samples("test"),
    }


def write_table() -> None:
    """The mean over the seeds of each network, into docs/detection.md."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in read("bccd"):
        found.setdefault(row["network"], []).append(row)
    lines = []
    for name, seeds in found.items():
        for role in ("dense", "penalised", "pruned", "scratch"):
            values = [row[role]["map50"] for row in seeds]
            spread = f" ({min(values):.1f}–{max(values):.1f})" if len(values) > 1 else ""
            size = seeds[0][role] if "params" in seeds[0][role] else None
            lines.append([
                name, role, str(len(seeds)), f"{mean(values):.1f}{spread}",
                f"{mean(row[role]['map'] for row in seeds):.1f}",
                f"{size['params']:,}" if size else "–",
                f"{size['macs'] / 1e6:,.0f}" if size else "–",
                f"{size['weight_bytes'] / 1e6:.1f}" if size else "–",
            ])  # fmt: skip
    head = ["Network", "", "Seeds", "mAP@.5, %", "mAP@.5:.95, %", "Parameters", "MACs, millions", "MB"]
    into_docs(HERE.parent / "docs/detection.md", "bccd", table(head, lines))


def write_so_far(work: Path) -> None:
    """Test figures of the steps that are done, for every network and seed in the folder."""
    rows = []
    for run in sorted(work.glob("*/run/metrics.jsonl")):
        name, _, seed = run.parents[1].name.rpartition("-")
        before = {file.stem: json.loads(file.read_text()) for file in run.parents[1].glob("*.json")}
        scored = sorted(run.parent.glob("steps/*-score/result.json"))
        points = [json.loads(file.read_text())["result"]["report"]["points"][0] for file in scored[:1]]
        lines = [json.loads(line) for line in run.read_text().splitlines()]
        done = {x["step"]: {k: x[k] for k in ("test_map50", "test_map", "params", "macs") if k in x}
                for x in lines if "test_map50" in x}  # fmt: skip
        widths = points[0]["widths"] if points else None
        rows.append({"network": name, "seed": int(seed), **before, "steps": done, "widths": widths})
    shown = [("dense", None), ("penalised", None), ("cut", "02-prune"), ("fine-tuned", "06-finetune")]
    body = []
    for row in rows:
        known = [row.get(name) if step is None else row["steps"].get(step) for name, step in shown]
        values = [found.get("map50", found.get("test_map50")) if found else None for found in known]
        size = row["steps"].get("02-prune", {})
        sizes = [f"{size[key]:,}" if key in size else "–" for key in ("params", "macs")]
        body.append([row["network"], row["seed"], *("–" if v is None else f"{v:.1f}" for v in values), *sizes])
    head = ["Network", "Seed", "Dense", "With the penalty", "Cut", "Fine-tuned", "Parameters", "MACs"]
    into_docs(HERE.parent / "docs/detection.md", "bccd-so-far", table(head, body))
    write("bccd-so-far", rows, threads=1, epochs=dict(zip(STAGES, EPOCHS, strict=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", choices=["yolov3_tiny", "yolov3", "mini_yolov3"], default="yolov3_tiny")
    parser.add_argument("--data", type=Path, default=HERE.parents[1] / "shared/data/bccd-voc.tar")
    parser.add_argument("--work", type=Path, default=HERE.parents[1] / "bccd")
    parser.add_argument("--epochs", type=int, nargs=4, default=EPOCHS, help="for a trial: no record")
    parser.add_argument("--size", type=int, default=SIZE, help="for a trial: no record")
    parser.add_argument("--table", action="store_true", help="write the table alone")
    parser.add_argument("--so-far", action="store_true", help="write what unfinished seeds have come to")
    given = parser.parse_args()
    if given.table or given.so_far:
        return write_table() if given.table else write_so_far(given.work)
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    epochs: tuple[int, ...] = tuple(given.epochs)
    task, work = open_task(given.data, given.size), given.work / f"{given.model}-{given.seed}"
    work.mkdir(parents=True, exist_ok=True)
    model = dense(open_task(given.data, SMALL), task, given.model, given.seed, epochs, work)
    quality = judged(model, task, work / "dense.json")
    model = penalised(task, model, given.seed, epochs[2], work)
    judged(model, task, work / "penalised.json")
    results = pruned(task, model, given.seed, epochs, work)
    found = record(task, quality, results, epochs, given.model, given.seed)
    print({role: found[role]["map50"] for role in ("dense", "penalised", "pruned", "scratch")})
    if epochs == EPOCHS and given.size == SIZE:
        others = [r for r in read("bccd") if (r["network"], r["seed"]) != (given.model, given.seed)]
        write("bccd", sorted([*others, found], key=lambda r: (r["network"], r["seed"])))
        write_table()


if __name__ == "__main__":
    main()
