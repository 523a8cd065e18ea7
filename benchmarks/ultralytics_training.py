"""YOLO11n and YOLOv8n, pruned, trained by Ultralytics' own trainer, validated, exported, loaded again.

Run: python benchmarks/ultralytics_training.py [--size 416] [--epochs 2] [--data FOLDER.tar]

Random weights, half of the channels, 128 images to train on and 128 others (long side 416) of COCO; the trainer is the
one of examples/ultralytics_trainer.py. Two epochs from random weights teach a detector nothing: what is shown is that
the network stays pruned, and that every step works. Writes results/ultralytics_training.json and docs/alive.md.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import logging
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import torch
import yolo
from networks import SHARED
from records import into_docs, table, write
from torch import nn

import secateur

DOCS = Path(__file__).resolve().parents[1] / "docs/alive.md"
NETWORKS = ("yolo11n", "yolov8n")
LOSSES = ("train/box_loss", "train/cls_loss", "train/dfl_loss")


def difference(ours: nn.Module, theirs: nn.Module, size: int) -> float:
    """Largest difference of their outputs in eval mode."""
    x = torch.rand(2, 3, size, size)
    with torch.no_grad():
        return yolo.difference(ours.eval()(x)[0], theirs.eval()(x)[0])


def in_onnx_runtime(file: str, network: nn.Module, size: int) -> float:
    import onnxruntime

    x = torch.rand(1, 3, size, size)
    session = onnxruntime.InferenceSession(file)
    got = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
    with torch.no_grad():
        return yolo.difference(got, network.eval()(x)[0])


def losses(folder: Path) -> list[float]:
    """Sum of the losses, an epoch each."""
    with (folder / "results.csv").open() as file:
        return [sum(float(row[name]) for name in LOSSES) for row in csv.DictReader(file, skipinitialspace=True)]


def refusal(model: Any, options: dict[str, Any]) -> str:
    """What the stock trainer says to the pruned network."""
    try:
        model.train(epochs=1, name="stock", **options)
    except KeyError as error:
        return str(error.args[0])
    return ""


def one(example: dict[str, Any], name: str, data: Path, size: int, epochs: int) -> dict[str, Any]:
    from ultralytics import YOLO
    from ultralytics.nn.tasks import DetectionModel

    torch.manual_seed(0)
    count, model = example["size"], YOLO(f"{name}.yaml", verbose=False)
    dense = model.model
    before = {key: value.clone() for key, value in dense.state_dict().items()}
    pruned = secateur.prune(dense, torch.randn(1, 3, size, size), ratio=0.5)
    example["adopt"](model, pruned)
    small = count(model.model)
    options = {"data": str(data), "imgsz": size, "batch": 16, "workers": 0, "plots": False, "verbose": False,
               "project": str(Path.cwd() / name), "exist_ok": True}  # fmt: skip
    first = model.val(**options, name="before").box.map50
    said = refusal(model, options)
    kept = model.model is pruned.model
    model.train(trainer=example["PrunedTrainer"], epochs=epochs, seed=0, name="train", **options)
    folder, checkpoint = Path(model.trainer.save_dir), YOLO(str(model.trainer.best))
    row = {
        "network": name, "image size": size, "epochs": epochs, "dense": count(dense), "pruned": small,
        "trained": count(model.model), "difference of the cut": pruned.verification.max_relative_error,
        "losses": losses(folder), "map50 before": float(first),
        "map50 after": float(model.val(**options, name="after").box.map50),
        "stock trainer": said, "pruned network kept by the stock trainer": kept,
        "dense untouched": all(torch.equal(before[k], v) for k, v in dense.state_dict().items()),
        "checkpoint": count(checkpoint.model), "plan in it": secateur.Plan.from_json(
            checkpoint.model.secateur_plan) == pruned.plan,
        "checkpoint differs": difference(checkpoint.model, model.model, size),
    }  # fmt: skip
    files = example["artifact"](model, pruned, folder / "artifact")
    again = secateur.load(files, DetectionModel(f"{name}.yaml", verbose=False)).model
    row["artifact differs"] = difference(again, model.model, size)
    onnx = model.export(format="onnx", imgsz=size, simplify=False)
    return row | {"onnx differs": in_onnx_runtime(onnx, checkpoint.model, size)}


def render(rows: list[dict[str, Any]]) -> str:
    def line(words: str, key: Any) -> list[str]:
        return [words, *(str(key(row)) for row in rows)]

    def yes(key: str) -> Any:
        return lambda row: "yes" if row[key] else "no"

    lines = [
        line("parameters, dense", lambda r: f"{r['dense']:,}"),
        line("after the cut", lambda r: f"{r['pruned']:,}"),
        line("after training", lambda r: f"{r['trained']:,}"),
        line("in the checkpoint, loaded again", lambda r: f"{r['checkpoint']:,}"),
        line("difference of the cut (float64)", lambda r: f"{r['difference of the cut']:.0e}"),
        line("sum of the losses by epoch", lambda r: " → ".join(f"{x:.2f}" for x in r["losses"])),
        line("mAP50 before and after training (a toy)", lambda r: f"{r['map50 before']:.4f}, {r['map50 after']:.4f}"),
        line("ONNX Runtime, difference from PyTorch", lambda r: f"{r['onnx differs']:.0e}"),
        line("loaded from the checkpoint, difference", lambda r: f"{r['checkpoint differs']:.0e}"),
        line("loaded from class, plan and weights, difference", lambda r: f"{r['artifact differs']:.0e}"),
        line("the plan in the checkpoint is that of the cut", yes("plan in it")),
        line("the stock trainer is stopped by the sentence", yes("stock trainer")),
        line("then the pruned network is still there", yes("pruned network kept by the stock trainer")),
        line("the dense network is as it was", yes("dense untouched")),
    ]
    return table(["", *(f"{r['network']}, {r['image size']}, {r['epochs']} epochs" for r in rows)], lines)


def unpacked(archive: Path, folder: Path) -> Path:
    """The data set's description, beside its images."""
    with tarfile.open(archive) as file:
        wanted = [m for m in file if "2017/" in m.name or m.name.endswith("config.yaml")]  # beside a file named images
        file.extractall(folder, members=wanted, filter="data")
    names = (folder / "coco128/config.yaml").read_text()
    description = folder / "coco128/here.yaml"
    description.write_text(names.replace("path: .", f"path: {folder / 'coco128'}"))
    return description


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=416)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--data", type=Path, default=SHARED / "data/coco128-yolo-416.tar")
    given = parser.parse_args()
    example, rows = yolo.example(), []
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        data = unpacked(given.data.resolve(), Path(folder))
        for name in NETWORKS:
            rows.append(one(example, name, data, given.size, given.epochs))
            print(rows[-1], flush=True)
    write("ultralytics_training", rows)
    into_docs(DOCS, "ultralytics", render(rows))


if __name__ == "__main__":
    main()
