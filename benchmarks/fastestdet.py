"""FastestDet (COCO, 352×352) cut to 70 % and 50 % of its multiply-accumulates and repaired without labels: mAP@.5.

    python benchmarks/fastestdet.py [--limit ROWS]        goes on where it was stopped; the most telling rows first

The network is written here from the names and shapes of the weights file, whose original is dog-qiuqiu/FastestDet. Of
the coco128 archive, the 128 images of val2017 are scored; the repair sees the 128 of train2017 with their mirror images
and without their boxes, and so do the batch-norm statistics that are estimated again behind Torch-Pruning's cut.
Torch-Pruning stops with an error wherever channels of ShuffleNet's blocks may go (however their shuffle is written: by
slices, by chunks, as the original has it), so it is told to leave the blocks whole; Secateur's cut is shown with and
without that. Writes results/fastestdet.json and the table in docs/detection.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import peer
import torch
from records import into_docs, read, table, write
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

import secateur
from secateur.data.boxes import Boxes, BoxSplit, Image, load_boxes
from secateur.task.detection import AveragePrecision, Detections, detections

HERE = Path(__file__).resolve().parent
SIDE = 352
NAME = "fastestdet"
TARGETS = (0.7, 0.5)
BLOCKS = ["backbone.stage2", "backbone.stage3", "backbone.stage4"]
OUTPUTS = [f"detect_head.{head}_layers.conv5x5.3" for head in ("obj", "reg", "cls")]

# ------------------------------------------------------------------------------------------------------- the network


def conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, *, relu: bool = True) -> list[nn.Module]:
    """A convolution with batch norm; one of more than one pixel keeps the channels apart."""
    depthwise = inputs if kernel > 1 and inputs == outputs else 1
    made = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=depthwise, bias=False)
    return [made, nn.BatchNorm2d(outputs), *([nn.ReLU()] if relu else [])]


class Block(nn.Module):
    """A block of ShuffleNetV2: one that halves the map works on all channels twice, the others on every second one."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half = outputs // 2
        self.branch_main = nn.Sequential(
            *conv(inputs, half), *conv(half, half, 3, stride, relu=False), *conv(half, outputs - inputs)
        )
        if stride == 2:
            self.branch_proj = nn.Sequential(*conv(inputs, inputs, 3, 2, relu=False), *conv(inputs, inputs))

    def forward(self, x: Tensor) -> Tensor:
        if hasattr(self, "branch_proj"):
            return torch.cat([self.branch_proj(x), self.branch_main(x)], 1)
        kept, changed = x.unflatten(1, (-1, 2)).unbind(2)
        return torch.cat([kept, self.branch_main(changed)], 1)


class Backbone(nn.Module):
    """ShuffleNetV2 with 48, 96 and 192 channels; gives the maps at strides 8, 16 and 32."""

    def __init__(self) -> None:
        super().__init__()
        self.first_conv = nn.Sequential(*conv(3, 24, 3, 2))
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inputs = 24
        for stage, (blocks, outputs) in enumerate([(4, 48), (8, 96), (4, 192)], start=2):
            later = [Block(outputs // 2, outputs, 1) for _ in range(blocks - 1)]
            setattr(self, f"stage{stage}", nn.Sequential(Block(inputs, outputs, 2), *later))
            inputs = outputs

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        fine = self.stage2(self.maxpool(self.first_conv(x)))
        middle = self.stage3(fine)
        return fine, middle, self.stage4(middle)


class Named(nn.Module):
    """Layers under one name, as the weights file has them."""

    def __init__(self, name: str, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.name = name
        self.add_module(name, nn.Sequential(*layers))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = getattr(self, self.name)(x)
        return found


class Pyramid(nn.Module):
    """One, two and three depthwise 5×5 convolutions side by side, and a shortcut."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.Conv1x1 = Named("conv1x1", conv(inputs, width))
        self.S1, self.S2, self.S3 = (
            nn.Sequential(*(layer for _ in range(depth) for layer in conv(width, width, 5))) for depth in (1, 2, 3)
        )
        self.output = nn.Sequential(*conv(3 * width, width, relu=False))

    def forward(self, x: Tensor) -> Tensor:
        x = self.Conv1x1(x)
        return torch.relu(x + self.output(torch.cat([self.S1(x), self.S2(x), self.S3(x)], 1)))


class Head(nn.Module):
    """Objectness in 0…1, four numbers of a box, shares of the classes: (B, 1 + 4 + classes, H, W)."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.conv1x1 = Named("conv1x1", conv(width, width))
        self.obj_layers, self.reg_layers, self.cls_layers = (
            Named("conv5x5", [*conv(width, width, 5), *conv(width, outputs, relu=False)]) for outputs in (1, 4, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1x1(x)
        return torch.cat([self.obj_layers(x).sigmoid(), self.reg_layers(x), self.cls_layers(x).softmax(1)], 1)


class FastestDet(nn.Module):
    """The detector: three maps of the backbone at stride 16, a pyramid, a head of one scale without anchors."""

    def __init__(self, classes: int = 80) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.upsample = nn.Upsample(scale_factor=2)
        self.avg_pool = nn.AvgPool2d(3, 2, 1)
        self.SPP = Pyramid(48 + 96 + 192, 96)
        self.detect_head = Head(96, classes)

    def forward(self, x: Tensor) -> Tensor:
        fine, middle, coarse = self.backbone(x)
        found: Tensor = self.detect_head(self.SPP(torch.cat([self.avg_pool(fine), middle, self.upsample(coarse)], 1)))
        return found


# ---------------------------------------------------------------------------------------------------------- the task


class CocoTask(secateur.Task):
    """Images that are stretched to the network's square, in OpenCV's order of colours; boxes alike; no loss.

    The original's ``utils/datasets.py`` (bilinear, blue first, 0…1) and ``utils/tool.py`` (decoding and scores) say so.
    """

    name, unit = "FastestDet", "image"

    def __init__(self, path: Path) -> None:
        data = load_boxes(path, faulty="mend", validation=0.0)  # its validation images are the test
        self.classes, self.mended = data.classes, data.mended
        metric = secateur.Metric(AveragePrecision(data.classes), format="share", title="mAP@.5")
        splits = {"train": self._batches(data.train), "test": self._batches(data.test)}
        super().__init__(**splits, metrics={"map50": metric, "map": metric})

    def _batches(self, split: BoxSplit) -> list[tuple[Tensor, list[Boxes]]]:
        made = [self._stretched(image) for image in split]
        return [
            (torch.stack([x for x, _ in part]), [boxes for _, boxes in part])
            for part in (made[start : start + 16] for start in range(0, len(made), 16))
        ]

    def _stretched(self, image: Image) -> tuple[Tensor, Boxes]:
        height, width = image.pixels.shape[1:]
        x = F.interpolate(image.pixels[None].flip(1).float() / 255, (SIDE, SIDE), mode="bilinear")[0]
        corners = image.boxes.corners * torch.tensor([SIDE / width, SIDE / height] * 2)
        return x, replace(image.boxes, corners=corners)

    def predictions(self, output: Tensor) -> list[Detections]:
        """In cell (i, j): x = (j + tanh tx) / W, y alike, w = σ(tw); of the best class objectness^0.6 · class^0.4."""
        objectness, x, y, w, h = output[:, :5].unbind(1)
        rows, columns = (torch.arange(n, device=output.device) for n in output.shape[2:])
        centre = torch.stack([(x.tanh() + columns) / len(columns), (y.tanh() + rows[:, None]) / len(rows)], -1)
        size = torch.stack([w, h], -1).sigmoid()
        corners = SIDE * torch.cat([centre - size / 2, centre + size / 2], -1)
        best, labels = output[:, 5:].max(1)
        scores = F.one_hot(labels, len(self.classes)) * (objectness**0.6 * best**0.4)[..., None]
        return detections(corners.flatten(1, 2), scores.flatten(1, 2), threshold=0.001)


# --------------------------------------------------------------------------------------------------------- the cuts


def jobs() -> list[dict[str, Any]]:
    """All rows that there should be, the most telling ones first."""
    refit, again = {"repair": "least_squares"}, {"repair": "batch_norm"}
    ours = {"tool": "Secateur", "blocks": "cut", "criterion": "l2", "scope": "local"}
    theirs = {"tool": "Torch-Pruning", "blocks": "whole", "criterion": "group L2", "scope": "local"} | again
    foreseen = ours | refit | {"criterion": "reconstruction", "scope": "global"}
    plan: list[tuple[dict[str, str], Sequence[int], Sequence[float]]] = [
        (ours | refit, [0], TARGETS), (theirs, [0], TARGETS), (ours | again, [0], TARGETS),
        (ours | {"repair": "none"}, [0], TARGETS), (ours | refit, [1, 2], TARGETS[:1]),
        (theirs | {"scope": "global"}, [0], TARGETS[:1]), (theirs | {"criterion": "BN scale"}, [0], TARGETS[:1]),
        (foreseen, [0], TARGETS), (ours | refit | {"blocks": "whole"}, [0], TARGETS[:1]),
        (ours | refit, [1, 2], TARGETS[1:]), (foreseen, [1, 2], TARGETS),
        (ours | refit | {"scope": "global"}, [0], TARGETS),
        (ours | refit | {"criterion": "bn_scale", "scope": "global"}, [0], TARGETS),
    ]  # fmt: skip
    return [way | {"seed": seed, "target": target} for way, seeds, targets in plan for target in targets
            for seed in seeds]  # fmt: skip


def measured(job: dict[str, Any], dense: nn.Module, task: CocoTask) -> dict[str, Any]:
    """Cuts, repairs and scores."""
    images = torch.cat([x for x, _ in task.calibration(128)])
    both = torch.cat([images, images.flip(3)])
    began = time.process_time()
    try:
        model = (_ours if job["tool"] == "Secateur" else _theirs)(job, dense, images, both)
    except secateur.BudgetError as error:
        return job | {"map50": None, "why": str(error)}
    cpu = time.process_time() - began
    after, before = (secateur.count(m, images[:1]) for m in (model, dense))
    found = secateur.evaluate(model, task).metrics
    return job | {"map50": 100 * found["map50"], "map": 100 * found["map"], "macs": after.macs / before.macs,
                  "params": after.params / before.params, "cpu_seconds": round(cpu, 1)}  # fmt: skip


def _ours(job: dict[str, Any], dense: nn.Module, images: Tensor, both: Tensor) -> nn.Module:
    data = images if job["criterion"] == "reconstruction" else None
    cut = secateur.prune(dense, images[:2], macs=job["target"], criterion=job["criterion"], scope=job["scope"],
                         data=data, ignore=[f"{b}*" for b in BLOCKS] if job["blocks"] == "whole" else (),
                         seed=job["seed"])  # fmt: skip
    if job["repair"] != "none":
        cut = secateur.recover(cut, both, method=job["repair"], seed=job["seed"])
    return cut.model


def _theirs(job: dict[str, Any], dense: nn.Module, images: Tensor, both: Tensor) -> nn.Module:
    macs = job["target"] * secateur.count(dense, images[:1]).macs
    everywhere = job["scope"] == "global"
    cut = peer.cut(dense, images[:1], job["criterion"], macs, everywhere=everywhere, whole=[*BLOCKS, *OUTPUTS])
    return peer.estimate_batch_norm(cut, lambda: iter(both.split(64)))


# ---------------------------------------------------------------------------------------------------------- the page


def page(rows: Sequence[dict[str, Any]], dense: dict[str, float]) -> str:
    """The table of docs/detection.md."""
    body = [["as trained", "", "", "", "100 %", "100 %", f"{100 * dense['map50']:.1f}", ""]]
    keys = ("tool", "blocks", "criterion", "scope", "repair")
    for target in TARGETS:
        here = [r for r in rows if r["target"] == target]
        for way in dict.fromkeys(tuple(r[k] for k in keys) for r in here):
            runs = [r for r in here if tuple(r[k] for k in keys) == way]
            body.append(_line(target, dict(zip(keys, way, strict=True)), runs))
    return table(["cut", "ShuffleNet's blocks", "repair", "aim", "MACs", "parameters", "mAP@.5, %", "seeds"], body)


def _line(target: float, way: dict[str, str], runs: Sequence[dict[str, Any]]) -> list[str]:
    names = [f"{way['tool']}, {way['criterion']}, {way['scope']}", way["blocks"], way["repair"].replace("_", " ")]
    if runs[0]["map50"] is None:
        return [*names, f"{target:.0%}", "not reached", "", "", ""]
    scores = [r["map50"] for r in runs]
    spread = f" ({min(scores):.1f}–{max(scores):.1f})" if len(scores) > 1 else ""
    return [*names, f"{target:.0%}", f"{runs[0]['macs']:.1%}", f"{mean(r['params'] for r in runs):.1%}",
            f"{mean(scores):.1f}{spread}", str(len(scores))]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=HERE.parents[1] / "shared/models/fastestdet-coco.safetensors")
    parser.add_argument("--data", type=Path, default=HERE.parents[1] / "shared/data/coco128-yolo-416.tar")
    parser.add_argument("--limit", type=int, help="rows that are measured now; all by default")
    options = parser.parse_args()
    torch.set_num_threads(1)
    network = FastestDet()
    network.load_state_dict(load_file(options.weights), strict=True)
    network.eval()
    task = CocoTask(options.data)
    rows = read(NAME)
    dense = secateur.evaluate(network, task).metrics
    facts = {"dense": dense, "threads": 1, "scored": 128, "repaired_on": "128 training images and their mirror images"}
    left = [job for job in jobs() if not any(job.items() <= row.items() for row in rows)]
    for job in left[: options.limit]:
        rows.append(measured(job, network, task))
        write(NAME, rows, **facts)
        print(rows[-1], flush=True)
    into_docs(HERE.parent / "docs/detection.md", NAME, page(rows, dense))


if __name__ == "__main__":
    main()
