"""YOLOv3-tiny on BCCD (364 images of blood cells, 416×416): trained dense, pruned by a recipe, and from scratch.

    python benchmarks/bccd.py --seed 0                 everything of one seed; goes on where it was stopped
    python benchmarks/bccd.py --seed 0 --only dense    … its dense network alone

Trained on the 205 training images of the data set's own splits; judged on its validation and test images together
(159), which no decision is based on: the weights of the last epoch are kept. Weights stay in ``--work``; what a seed
came to goes to results/bccd.json, and the table to docs/detection.md (``--table``).
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from secateur.data.boxes import BoxSet, BoxSplit, load_boxes
from secateur.models import create
from secateur.task import Detection
from secateur.train import TrainConfig, evaluate, fit

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results/bccd.json"
EPOCHS = 100

SETTINGS: dict[str, Any] = {
    "batch_size": 8, "optimizer": "adamw", "lr": 1e-3, "weight_decay": 5e-4, "schedule": "cosine", "warmup": 0.05,
    "gradient_clip": 10.0, "precision": "bf16", "average": 0.995,
}  # fmt: skip


def open_task(path: Path) -> Detection:
    """The data set's own splits, with its validation and test images as one."""
    found = load_boxes(path, faulty="mend")
    held = [found.validation, found.test]
    judged = BoxSplit(
        *(tuple(x for split in held for x in getattr(split, name)) for name in ("images", "boxes", "sizes"))
    )
    nothing = BoxSplit((), (), ())
    return Detection(BoxSet(found.name, found.classes, found.train, nothing, judged, found.source, found.mended))


def dense(task: Detection, seed: int, work: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The network after 100 epochs."""
    torch.manual_seed(seed)
    model = create("yolov3_tiny", **task.options("yolov3_tiny"))
    history = fit(model, task, TrainConfig(epochs=EPOCHS, **SETTINGS), folder=work / "dense", seed=seed, name="dense")
    minutes = history.seconds / 60
    return model, {"epochs": EPOCHS, "minutes": round(minutes, 1), **evaluate(model, task).to_dict()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=["dense"])
    parser.add_argument("--data", type=Path, default=HERE.parents[1] / "shared/data/bccd-voc.tar")
    parser.add_argument("--work", type=Path, default=HERE.parents[1] / "bccd")
    given = parser.parse_args()
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    task, work = open_task(given.data), given.work / f"seed-{given.seed}"
    _, found = dense(task, given.seed, work)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
