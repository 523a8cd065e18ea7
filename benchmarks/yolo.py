"""Ultralytics on a machine without its network: no telemetry, no downloads, and the operator that its boxes need."""

from __future__ import annotations

import os
import runpy
import tempfile
from pathlib import Path
from typing import Any

os.environ["YOLO_CONFIG_DIR"] = tempfile.mkdtemp()  # before anything of it is imported: its settings start anew
os.environ |= {"YOLO_OFFLINE": "1", "YOLO_AUTOINSTALL": "false", "YOLO_VERBOSE": "false"}

import torch
from torch import Tensor

from secateur.models._torchvision import import_torchvision

__all__ = ["EXAMPLE", "difference", "example"]

EXAMPLE = Path(__file__).resolve().parents[1] / "examples/ultralytics_trainer.py"


def example() -> dict[str, Any]:
    """What examples/ultralytics_trainer.py defines, with Ultralytics ready to run.

    Raises:
        ImportError: ultralytics is not installed.
    """
    import_torchvision()
    from ultralytics import settings
    from ultralytics.utils.nms import TorchNMS

    settings.update({"sync": False})
    if not torch._C._dispatch_has_kernel_for_dispatch_key("torchvision::nms", "CPU"):  # torchvision without its own

        def nms(boxes: Tensor, scores: Tensor, limit: float) -> Tensor:
            return TorchNMS.nms(boxes, scores, limit)

        torch.library.impl("torchvision::nms", "CPU")(nms)
    return runpy.run_path(str(EXAMPLE), run_name="example")


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference of two outputs of shape (batch, rows, boxes), of each row's largest entry or of 1.

    Rows of boxes count pixels, those of scores are below one: of the largest entry of all, these would be lost.
    """
    dims = tuple(d for d in range(theirs.ndim) if d != 1 or theirs.ndim < 3)
    return float(((ours - theirs).abs().amax(dims) / theirs.abs().amax(dims).clamp_min(1)).max())
