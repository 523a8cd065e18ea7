"""A YOLO of Ultralytics, pruned, that stays pruned when it is trained by Ultralytics' own trainer.

Run: python examples/ultralytics_trainer.py yolo11n.yaml coco128.yaml --epochs 2 --imgsz 416 --out runs/yolo

Ultralytics' trainers build the network anew from its yaml, which knows the dense widths: the pruned weights do not fit,
and what is trained is the dense network. :class:`StaysPruned` trains the network that it is given. Because others do
not, :func:`adopt` takes the layers out of the network's yaml and puts a sentence there that says so: a trainer that
rebuilds raises it before it has touched anything, in a later process too, for the checkpoint holds it.

What Ultralytics saves (``best.pt``) is a pickle of the network: open such files only if you know where they are from.
The plan lies in it as text (``model.secateur_plan``), so opening it needs no Secateur. For others there is ``artifact``
beside it, JSON and safetensors that nothing in can run: ``secateur.load("artifact", DetectionModel("yolo11n.yaml"))``.

Ultralytics is under the AGPL; this file only calls it.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import nn
from ultralytics import YOLO
from ultralytics.models.yolo.detect import DetectionTrainer

import secateur

REBUILT = (
    "this network was pruned, its yaml has the dense widths, and the trainer in use builds it anew from that yaml. "
    "Nothing was changed. Use model.train(trainer=PrunedTrainer, ...) of examples/ultralytics_trainer.py"
)


class StaysPruned:
    """Put before a trainer of Ultralytics, it trains a copy of the network that it is given; see PrunedTrainer."""

    def get_model(self, cfg: Any = None, weights: nn.Module | None = None, verbose: bool = True) -> nn.Module:
        """The pruned network itself, in place of a dense one that is built from ``cfg`` and filled with ``weights``."""
        if not hasattr(weights, "secateur_plan"):
            raise ValueError(
                f"{type(self).__name__} got no pruned network. Call adopt(model, pruned) first, or load a checkpoint "
                "of one with YOLO('best.pt'), and leave out pretrained=False."
            )
        classes, wanted = weights.model[-1].nc, self.data["nc"]  # type: ignore[union-attr, index, attr-defined]
        if classes != wanted:
            raise ValueError(
                f"The data have {wanted} classes, the pruned network {classes}. Train the dense network on these data "
                "first (Ultralytics changes its head then), and prune that one."
            )
        return copy.deepcopy(weights)  # type: ignore[return-value]


class PrunedTrainer(StaysPruned, DetectionTrainer):  # type: ignore[misc]
    """Detection; for other tasks the same line with SegmentationTrainer or OBBTrainer."""


def adopt(model: YOLO, pruned: secateur.Pruned) -> YOLO:
    """Puts a pruned network into the YOLO that it was cut from; it carries its plan as text (``secateur_plan``)."""
    network: Any = pruned.model
    network.yaml = {**network.yaml, "backbone": [[-1, 1, REBUILT, []]]}
    model.model, model.predictor = network, None
    model.ckpt = {"model": network}  # or train() would not hand it to the trainer
    return model


def artifact(model: YOLO, pruned: secateur.Pruned, folder: Path) -> Path:
    """Writes plan and weights as they are now, for ``secateur.load(folder, DetectionModel(yaml))``."""
    return dataclasses.replace(pruned, model=model.model).save(folder)


def size(network: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in network.parameters())


def main() -> None:
    """Prune, predict, train, validate, export, reload."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("yaml", help="sizes of the network (random weights), or a .pt of your own")
    parser.add_argument("data", help="data set, as Ultralytics takes it")
    parser.add_argument("--ratio", type=float, default=0.5, help="share of the channels to remove")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--imgsz", type=int, default=416)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--out", type=Path, default=Path("runs/yolo"))
    given = parser.parse_args()

    model = YOLO(given.yaml)
    dense = size(model.model)
    pruned = secateur.prune(model.model, torch.randn(1, 3, given.imgsz, given.imgsz), ratio=given.ratio)
    print(pruned)
    adopt(model, pruned)
    small = size(model.model)
    model.predict(torch.rand(1, 3, given.imgsz, given.imgsz), verbose=False)

    options = {"data": given.data, "imgsz": given.imgsz, "batch": given.batch, "workers": 0, "plots": False}
    model.train(trainer=PrunedTrainer, epochs=given.epochs, project=str(given.out.resolve()), name="train",
                exist_ok=True, **options)  # fmt: skip
    trained = size(model.model)
    found = model.val(**options, project=str(given.out.resolve()), name="val", exist_ok=True)
    file = model.export(format="onnx", imgsz=given.imgsz, simplify=False)
    folder = artifact(model, pruned, given.out / "artifact")

    checkpoint = YOLO(str(model.trainer.best))
    rebuilt = secateur.load(folder, type(checkpoint.model)(given.yaml, verbose=False))
    print(f"parameters: {dense:,} dense, {small:,} pruned, {trained:,} trained")
    print(f"checkpoint: {size(checkpoint.model):,} parameters, artifact: {size(rebuilt.model):,}")
    print(f"mAP50-95 {found.box.map:.4f}; exported to {file}")


if __name__ == "__main__":
    main()
