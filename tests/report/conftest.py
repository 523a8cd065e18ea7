from __future__ import annotations

import pytest

from secateur.core.types import Unsupported, Verification
from secateur.exports import ExportCheck
from secateur.report import BlockRow, Curve, CurvePoint, LayerRow, Network, Pinned, Results
from secateur.timing import Machine, Measurement, Timing
from secateur.timing.measurement import scored


def timing(model: str, runtime: str, direction: str, batch: int, *samples: float) -> Timing:
    return Timing(model, runtime, direction, batch, 1, "eval", 1, samples)


@pytest.fixture
def results() -> Results:
    """A whole run, small enough to check by hand."""
    dense = Measurement(
        params=1_000_000,
        macs=100_000_000,
        weight_bytes=4_000_000,
        quality={"top1": 90.0, "top5": 99.5, "loss": 0.3},
        samples=1000,
        netscore=scored(90.0, 1_000_000, 100_000_000),
    )
    pruned = Measurement(
        params=500_000,
        macs=40_000_000,
        weight_bytes=2_000_000,
        quality={"top1": 89.5, "top5": 99.4, "loss": 0.32},
        samples=1000,
        netscore=scored(89.5, 500_000, 40_000_000),
    )
    points = tuple(
        CurvePoint(epoch=e, train={"top1": 80.0 + e, "loss": 1 / e}, validation={"top1": 79.0 + e}) for e in (1, 2, 3)
    )
    return Results(
        recipe="transfer-channel",
        description="Adapts, prunes, fine-tunes.",
        model="resnet56",
        data="digits: 100 images",
        pruning="half of the channels",
        created="2026-01-02T10:20:30+00:00",
        duration_s=61.0,
        networks=(
            Network(label="Dense, adapted", role="dense", measurement=dense),
            Network(label="Pruned, fine-tuned", role="pruned", measurement=pruned),
        ),
        verification=Verification(2e-7, 1e-5),
        backend="module",
        blocks=(
            BlockRow(block="stem", before=400_000, after=300_000),
            BlockRow(block="head", before=600_000, after=200_000),
        ),
        layers=(
            LayerRow(layer="conv1", kind="conv2d", before=16, after=8),
            LayerRow(layer="gone", before=16, after=0),
        ),
        curves=(
            Curve(label="dense", role="dense", points=points),
            Curve(label="pruned", role="pruned", points=points),
        ),
        latency=(
            timing("dense", "pytorch", "forward", 1, 10.0, 12.0, 11.0),
            timing("pruned", "pytorch", "forward", 1, 5.0, 6.0, 5.5),
            timing("dense", "onnxruntime", "forward", 32, 90.0, 91.0, 92.0),
            timing("pruned", "onnxruntime", "forward", 32, 30.0, 31.0, 32.0),
            timing("dense", "onnxruntime", "forward", 1, 6.0, 6.0, 6.0),
            timing("pruned", "onnxruntime", "forward", 1, 4.0, 4.0, 4.0),
        ),
        exports=(ExportCheck("onnx", "model.onnx", 2_100_000, 3e-7, 1e-4, 1.0, 64, (1, 32), True, "ort 1"),),
        unsupported=(Unsupported("aten.cumsum.default", "head", "no rule", 1234),),
        pinned=(Pinned(layer="fc", reason="it is the output"),),
        notes=("A note.",),
        recipe_yaml="name: transfer-channel\n",
        seeds={"run": 7},
        machine=Machine("A processor", 2, 1, 8_000_000_000, "Linux", "3.12.0", {"torch": "2.13.0"}),
        command="secateur run transfer-channel --out runs/first",
    )
